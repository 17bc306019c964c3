"""How nplstm runs a case, on CuPy, or on another backend for tests."""

import gc
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import nplstm
from nplstm.backends import get_backend

from .cases import Case
from .library import Library, Meter, Prepared

__all__ = ["CupyMeter", "Nplstm"]

_ENGINES = ("persistent", "fused", "plain")


class CupyMeter(Meter):
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
        self,
        meter: Meter,
        engines: Sequence[str] = _ENGINES,
        name: str = "nplstm",
        backend: str = "cupy",
    ) -> None:
        self.name, self.meter = name, meter
        self._engines, self._backend = engines, get_backend(backend)
        self._kept: tuple[Any, nplstm.LSTM] | None = None

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

    def prepare(self, case: Case) -> dict[str, Prepared]:
        """Make the layer and its input."""
        make = {"forward": self._forward, "training": self._training}.get(case.task, self._step)
        return {self.name: make(self._layer(case), case)}

    def forget(self) -> None:
        """Let go of the layer."""
        self._kept = None

    def choice(self, case: Case) -> str:
        """Return which engine would run the case."""
        with self.settings(case):
            return self._layer(case).engine_for(case.B).name

    def _layer(self, case: Case) -> nplstm.LSTM:
        """Return the case's layer, which the case before it may have had too."""
        if self._kept is None or self._kept[0] != case.layer:
            self.forget()
            options = dict(num_layers=case.layers, bidirectional=case.bidirectional, dtype=case.dtype)
            lstm = nplstm.LSTM(case.H, case.H, **options, backend=self._backend.name, rng=0)
            lstm.load_state_dict({n: self._backend.asarray(values) for n, values in case.weights().items()})
            self._kept = case.layer, lstm
        return self._kept[1]

    def _forward(self, lstm: nplstm.LSTM, case: Case) -> Prepared:
        x, choice = self._backend.asarray(case.input()), lstm.engine_for(case.B)

        def results() -> dict[str, Any]:
            output, (h_n, c_n) = lstm(x)
            return {"output": output, "h_n": h_n, "c_n": c_n}

        return Prepared(lambda: lstm(x), results, choice.name, _told(choice))

    def _training(self, lstm: nplstm.LSTM, case: Case) -> Prepared:
        x, cotangent = self._backend.asarray(case.input()), self._backend.asarray(case.cotangent())
        choice = lstm.engine_for(case.B)

        def results() -> dict[str, Any]:
            tape = lstm.record(x)
            grads = tape.backward(cotangent)
            parameters = {f"grad_{name}": grad for name, grad in grads.parameters.items()}
            return {"output": tape.output, "grad_input": grads.input} | parameters

        return Prepared(lambda: lstm.record(x).backward(cotangent), results, choice.name, _told(choice))

    def _step(self, lstm: nplstm.LSTM, case: Case) -> Prepared:
        stream, x = lstm.stream(batch_size=case.B), self._backend.asarray(case.input())
        x_t = x[0]

        def results() -> dict[str, Any]:
            stream.reset()
            outputs = [stream.step(x[t]).copy() for t in range(case.T)]
            h, c = stream.state
            return {f"output_{t}": output for t, output in enumerate(outputs)} | {"h_n": h, "c_n": c}

        return Prepared(lambda: stream.step(x_t), results, stream.engine.name, _told(stream.engine))


def _told(choice: Any) -> tuple[str, ...]:
    """Return how the engine runs it, and why no faster one does."""
    return (*choice.notes, *(f"not {name}: {reason}" for name, reason in choice.refused.items()))
