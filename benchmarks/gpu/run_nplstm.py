"""nplstm on CuPy, or on another backend for tests, with engines that are chosen; time and memory of CuPy."""

import gc
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import nplstm
from nplstm.backends import get_backend

from ..common import with_nplstm
from ..common.cases import Case, Prepared
from .measure import Library

ENGINES = ("persistent", "fused", "plain")


class CupyMeter:
    """On CuPy's current stream; memory is that of CuPy's pool."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy

    def seconds(self, call: Callable[[], Any], calls: int) -> float:
        """Return what so many calls take together, between two events on the stream."""
        start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, end)) / 1e3

    def peak_bytes(self, call: Callable[[], Any]) -> int:
        """Return the most that arrays take during a call: what is in use before, and what comes and goes.

        The pool keeps no count of its own of the most that was in use.
        """

        class Peak(self._cupy.cuda.MemoryHook):
            name = "peak"
            most = now = 0

            def malloc_postprocess(self, **said: int) -> None:
                self.now += said["mem_size"]
                self.most = max(self.most, self.now)

            def free_postprocess(self, **said: int) -> None:
                self.now -= said["mem_size"]

        gc.collect()
        self.wait()
        before = self._cupy.get_default_memory_pool().used_bytes()
        with Peak() as peak:
            call()
        self.wait()
        return int(before + peak.most)

    def wait(self) -> None:
        """Wait for the device; raise if it has failed."""
        self._cupy.cuda.Device().synchronize()

    def release(self) -> None:
        """Give back all memory that is not in use."""
        gc.collect()
        self._cupy.get_default_memory_pool().free_all_blocks()


class Nplstm(Library):
    """nplstm with some of its engines; several of one process may have different ones."""

    def __init__(
        self, meter: Any, engines: Sequence[str] = ENGINES, name: str = "nplstm", backend: str = "cupy"
    ) -> None:
        super().__init__(name, meter)
        self._engines, self._backend = engines, get_backend(backend)

    def facts(self) -> dict[str, str]:
        """Return versions."""
        import numpy as np

        versions = {"nplstm": nplstm.__version__, "NumPy": np.__version__}
        return versions | ({"CuPy": self._backend.xp.__version__} if self._backend.name == "cupy" else {})

    @contextmanager
    def settings(self, case: Case) -> Generator[None]:
        """Allow the engines, and for a layer of float32 the precision."""
        precision = case.precision if case.dtype == "float32" else "float32"
        with nplstm.use_engines(*self._engines), nplstm.use_precision(precision):
            yield

    def make_layer(self, case: Case) -> nplstm.LSTM:
        """Make the layer on the device."""
        return with_nplstm.make_layer(case, self._backend.name)

    def prepare(self, case: Case) -> dict[str, Prepared]:
        """Put the case's input on the device."""
        return {self.name: with_nplstm.prepare(case, self.layer(case), self._backend.name)}

    def choice(self, case: Case) -> str:
        """Return which engine would run the case."""
        with self.settings(case):
            return self.layer(case).engine_for(case.B).name
