"""Implementation of ``_cuda`` with CuPy, which is an argument: only ``_cupy`` imports it."""

import threading
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np

from nplstm._typing import Array
from nplstm.backends._cuda import Cuda, Device, HostWord, Kernel

__all__ = ["CupyCuda"]

_DEFAULT_BLOCK_MEMORY = 48 * 1024
"""Bytes of shared memory that a block may have without an attribute of the kernel."""

_STREAM_OF_EACH_THREAD = 2
"""CUDA's handle of a thread's default stream, the same in all threads."""

_COMPUTE_TYPE = threading.Lock()
"""Held while a product uses CuPy's compute type, of which there is one."""


class CupyCuda(Cuda):
    """See ``Cuda``."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._described = cache(self._describe)
        self._compiled = lru_cache(maxsize=None)(self._compile)

    def device(self) -> Device:
        """Describe the current device."""
        return self._described(self._cupy.cuda.Device().id)

    def _describe(self, number: int) -> Device:
        runtime, capability = self._cupy.cuda.runtime, self._cupy.cuda.Device(number).compute_capability
        return Device(
            runtime.getDeviceProperties(number)["name"].decode(),
            (int(capability[:-1]), int(capability[-1])),
            int(runtime.deviceGetAttribute(runtime.cudaDevAttrMultiProcessorCount, number)),
            int(runtime.deviceGetAttribute(runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin, number)),
            number,
        )

    def kernel(self, code: str, name: str, options: tuple[str, ...]) -> Kernel:
        """Compile a kernel for the current device, once."""
        return self._compiled(self._cupy.cuda.Device().id, code, name, options)

    def _compile(self, number: int, code: str, name: str, options: tuple[str, ...]) -> Kernel:
        raw = self._cupy.RawModule(code=code, options=options).get_function(name)
        return _CupyKernel(self._cupy, raw)

    def address(self, array: Any) -> int:
        """Return the address of an array's first element."""
        return int(array.data.ptr)

    def stream(self) -> tuple[int, int]:
        """Return the numbers of the current device and stream, unique among all."""
        stream = int(self._cupy.cuda.get_current_stream().ptr)
        if stream == _STREAM_OF_EACH_THREAD:
            stream = -threading.get_ident()
        return self._cupy.cuda.Device().id, stream

    def host_word(self) -> HostWord:
        """Allocate a word of pinned memory."""
        memory = self._cupy.cuda.alloc_pinned_memory(4)
        value: Array = np.frombuffer(memory, np.uint32, 1)
        value[0] = 0
        return HostWord(value, int(memory.ptr))

    def matmul(self, a: Array, b: Array, *, tf32: bool, out: Array | None = None) -> Array:
        """Multiply in the compute type that was asked for.

        CuPy has one for the whole process. So it is set for the length of a call, which waits for no device, and
        only one of our calls has it at a time: none in another thread is rounded unasked.
        """
        core = self._cupy._core  # there is no public name
        with _COMPUTE_TYPE:
            before = core.get_compute_type("f")
            types = core._routines_linalg
            wanted = types.COMPUTE_TYPE_TF32 if tf32 else types.COMPUTE_TYPE_FP32
            change = a.dtype == "float32" and (before == types.COMPUTE_TYPE_TF32) != tf32
            if change:
                core.set_compute_type("f", wanted)
            try:
                return self._cupy.matmul(a, b, out=out)
            finally:
                if change:
                    core.set_compute_type("f", before)

    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        """Capture a graph on a stream made for it; it is replayed on the stream that is current then."""
        stream = self._cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                launches()
            finally:  # also after an error: a stream must not be left capturing
                graph = stream.end_capture()
        graph.upload(stream)  # so that the first step is not the slow one
        return graph.launch


class _CupyKernel(Kernel):
    """A kernel on the device that was current when it was made."""

    def __init__(self, cupy: Any, raw: Any) -> None:
        self._driver, self._raw = cupy.cuda.driver, raw
        self._function = raw.kernel  # compiled and loaded here, not in the midst of a capture
        self._allowed = _DEFAULT_BLOCK_MEMORY
        self._residents: dict[tuple[int, int], int] = {}

    def launch(
        self, grid: tuple[int, int], threads: int, arguments: Any, *, block_memory: int = 0, together: bool = False
    ) -> None:
        """Launch on the current stream."""
        self._allow(block_memory)
        self._function(grid, (threads,), (arguments,), shared_mem=block_memory, enable_cooperative_groups=together)

    def resident(self, threads: int, block_memory: int) -> int:
        """Return how many blocks of that kind a multiprocessor holds at once."""
        self._allow(block_memory)
        key = threads, block_memory
        if key not in self._residents:
            ask = self._driver.occupancyMaxActiveBlocksPerMultiprocessor
            self._residents[key] = int(ask(self._function.ptr, threads, block_memory))
        return self._residents[key]

    def _allow(self, block_memory: int) -> None:
        if block_memory > self._allowed:
            self._raw.max_dynamic_shared_size_bytes = self._allowed = block_memory
