"""The emulated device: ``nplstm.backends._cuda`` implemented by the emulator in C++ (runtime.cpp)."""

import ctypes
import math
import re
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from strict_backend import StrictArray

from nplstm.backends._cuda import Cuda, Device, HostWord, Kernel

from .build import build, text_for_cpu

__all__ = ["CudaOnCpu", "KernelFault"]

_MOST_THREADS, _MOST_BLOCKS = 1024, 65535
_MOST_FAULTS = 32  # of different kinds, in one launch
_ARRAY, _HOST_WORD, _GONE = range(3)
_BLOCK_MEMORY = -2


class KernelFault(Exception):  # noqa: N818
    """Invalid operations of a kernel in a launch."""

    def __init__(self, kernel: str, faults: list[str]) -> None:
        super().__init__("\n".join([f"{kernel}:", *faults]))
        self.faults = faults


# As in launch.h.


class _Range(ctypes.Structure):
    _fields_ = [("start", ctypes.c_uint64), ("size", ctypes.c_uint64), ("kind", ctypes.c_uint32)]


class _Fault(ctypes.Structure):
    _fields_ = [
        ("text", ctypes.c_char * 480),
        ("range", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("times", ctypes.c_uint64),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("grid_x", "grid_y", "threads", "blocks_at_once")),
        *((name, ctypes.c_uint64) for name in ("block_memory", "seed", "max_turns")),
        ("withheld", ctypes.c_int64),
        ("chaos", ctypes.c_uint32),
        ("races", ctypes.c_uint32),
        ("ranges", ctypes.POINTER(_Range)),
        ("range_count", ctypes.c_uint64),
        ("arguments", ctypes.c_void_p),
        ("faults", ctypes.POINTER(_Fault)),
        ("fault_count", ctypes.c_uint64),
    ]


class _Area(NamedTuple):
    """Memory that kernels may access, or could access earlier."""

    start: int
    stop: int
    kind: int
    what: str

    def overlaps(self, other: "_Area") -> bool:
        return self.start < other.stop and other.start < self.stop


_DEVICE = Device("CPU", (9, 0), multiprocessors=8, block_memory=232448)


class CudaOnCpu(Cuda):
    """A CUDA device that runs each thread as a fiber and checks its accesses.

    Attributes
    ----------
    seed : int
        Which thread runs next: with 0 they take turns, else the order is random.
    chaos : bool
        Threads also lose their turn at each access to memory that blocks share.
    race_check : bool
        Report unordered accesses as errors. Without it, a launch is faster.
    withheld : tuple of two ints, optional
        A block that never runs.
    max_turns : int
        A launch that takes more turns is an error: it may never end.
    rounded : deque of bool
        Whether the library's last products were allowed to round to TF32.
    """

    def __init__(
        self,
        device: Device = _DEVICE,
        *,
        seed: int = 0,
        chaos: bool = False,
        race_check: bool = True,
        withheld: tuple[int, int] | None = None,
        max_turns: int = 20_000_000,
    ) -> None:
        self._device = device
        self.seed, self.chaos, self.race_check = seed, chaos, race_check
        self.withheld, self.max_turns = withheld, max_turns
        self._arrays: dict[int, tuple[weakref.ref[np.ndarray], _Area]] = {}  # by id
        self._words: list[HostWord] = []
        self.rounded: deque[bool] = deque(maxlen=1000)
        self._kernels: dict[tuple[str, str, tuple[str, ...]], _KernelOnCpu] = {}
        self._captured: list[Callable[[], None]] | None = None

    def device(self) -> Device:
        return self._device

    def kernel(self, code: str, name: str, options: tuple[str, ...]) -> Kernel:
        key = (code, name, options)
        if key not in self._kernels:
            self._kernels[key] = _KernelOnCpu(self, code, name, options)
        return self._kernels[key]

    def address(self, array: Any) -> int:
        """Return the address of an array's first element. Kernels may access all memory of its base array.

        That holds while the array exists: afterwards, a device would reuse its memory.
        """
        values = array._values if isinstance(array, StrictArray) else array
        if not isinstance(values, np.ndarray):
            raise TypeError(f"a kernel cannot read a {type(values).__name__}")
        owner = values
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        area = _Area(*np.lib.array_utils.byte_bounds(owner), _ARRAY, f"{owner.dtype} {owner.shape}")
        self._arrays[id(owner)] = weakref.ref(owner), area
        return values.ctypes.data

    def stream(self) -> tuple[int, int]:
        return (0, 0)

    def host_word(self) -> HostWord:
        value = np.zeros(1, "uint32")
        self._words.append(HostWord(value, value.ctypes.data))
        return self._words[-1]

    def matmul(self, a: Any, b: Any, *, tf32: bool, out: Any = None) -> Any:
        """Multiply exactly, which is always allowed; record what was allowed."""
        self.rounded.append(tf32)
        if out is None:
            return a @ b
        out[...] = a @ b
        return out

    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        if self._captured is not None:
            raise RuntimeError("a capture in a capture")
        captured: list[Callable[[], None]] = []
        self._captured = captured
        try:
            launches()
        finally:
            self._captured = None

        def repeat() -> None:
            for launch in captured:
                self._enqueue(launch)

        return repeat

    def _enqueue(self, launch: Callable[[], None]) -> None:
        if self._captured is None:
            launch()
        else:
            self._captured.append(launch)

    def _areas(self) -> list[_Area]:
        """Return the memory a launch might access, by address, and the arrays that are gone since the last one."""
        found = [_Area(word.address, word.address + 4, _HOST_WORD, "a host word") for word in self._words]
        gone: list[_Area] = []
        for key, (reference, area) in list(self._arrays.items()):
            if reference() is not None:
                found.append(area)
            else:
                gone.append(area._replace(kind=_GONE, what=f"{area.what}, an array that is gone"))
                del self._arrays[key]
        found = _joined(found)
        for area in gone:
            if not any(area.overlaps(other) for other in found):
                found.append(area)
        return sorted(found)


def _joined(areas: list[_Area]) -> list[_Area]:
    """Join areas that overlap."""
    joined: list[_Area] = []
    for area in sorted(areas):
        if joined and area.overlaps(joined[-1]):
            joined[-1] = joined[-1]._replace(stop=max(area.stop, joined[-1].stop))
        else:
            joined.append(area)
    return joined


class _KernelOnCpu(Kernel):
    _lock = threading.Lock()  # the emulator's state is in its library

    def __init__(self, cuda: CudaOnCpu, code: str, name: str, options: tuple[str, ...]) -> None:
        self._cuda, self._name = cuda, name
        self._text = text_for_cpu(code, name)
        self._library = build(self._text, options)
        self._library.emulator_launch.restype = ctypes.c_uint64
        self._library.emulator_arguments_size.restype = ctypes.c_uint64

    def launch(
        self, grid: tuple[int, int], threads: int, arguments: Any, *, block_memory: int = 0, together: bool = False
    ) -> None:
        self._check_arguments(arguments)
        at_once = self._blocks_at_once(grid, threads, block_memory, together)
        arguments = arguments.copy()
        self._cuda._enqueue(lambda: self._run(grid, threads, arguments, block_memory, at_once))

    def resident(self, threads: int, block_memory: int) -> int:
        return int(threads <= _MOST_THREADS and block_memory <= self._cuda.device().block_memory)

    def _check_arguments(self, arguments: Any) -> None:
        if not isinstance(arguments, np.ndarray) or arguments.shape != (1,):
            raise TypeError("the arguments of a kernel are a NumPy array of shape (1,)")
        size = self._library.emulator_arguments_size()
        if arguments.itemsize != size:
            raise ValueError(f"{self._name} takes {size} bytes, and the arguments have {arguments.itemsize}")

    def _blocks_at_once(self, grid: tuple[int, int], threads: int, block_memory: int, together: bool) -> int:
        blocks = math.prod(grid)
        if min(grid) < 1 or blocks > _MOST_BLOCKS or not 1 <= threads <= _MOST_THREADS:
            raise ValueError(f"a grid of {grid} blocks of {threads} threads")
        places = self.resident(threads, block_memory) * self._cuda.device().multiprocessors
        if not places or (together and blocks > places):
            raise ValueError(f"{blocks} blocks with {block_memory} bytes each, where {places} run at once")
        return min(blocks, places)

    def _run(self, grid: tuple[int, int], threads: int, arguments: Any, block_memory: int, at_once: int) -> None:
        cuda, areas = self._cuda, self._cuda._areas()
        ranges = (_Range * len(areas))(*((area.start, area.stop - area.start, area.kind) for area in areas))
        faults = (_Fault * _MOST_FAULTS)()
        launch = _Launch(
            *(*grid, threads, at_once),
            *(block_memory, cuda.seed, cuda.max_turns),
            -1 if cuda.withheld is None else cuda.withheld[1] * grid[0] + cuda.withheld[0],
            *(cuda.chaos, cuda.race_check),
            *(ranges, len(areas)),
            arguments.ctypes.data,
            *(faults, len(faults)),
        )
        with self._lock:
            count = self._library.emulator_launch(ctypes.byref(launch))
        if count:
            raise KernelFault(self._name, [self._describe(fault, areas) for fault in faults[:count]])

    def _describe(self, fault: _Fault, areas: list[_Area]) -> str:
        lines = self._text.splitlines()
        text = re.sub(r"line (\d+)", lambda n: f"{n[0]} `{lines[int(n[1]) - 1].strip()}`", fault.text.decode())
        if fault.range == _BLOCK_MEMORY:
            text += f", at byte {fault.offset} of the block's memory"
        elif fault.range >= 0:
            area = areas[fault.range]
            text += f", at byte {fault.offset} of {area.stop - area.start} of {area.what}"
        return f"{text} ({fault.times} times)"
