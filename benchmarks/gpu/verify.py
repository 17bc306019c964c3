"""Checks of the engines: beside the plain loop in float64, again with the same bits, and for a long time.

Needs no rival, and runs on any backend that has the engines: tests run it on the emulator of a device.
"""

import faulthandler
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

import nplstm
from nplstm.backends import get_backend
from nplstm.backends._cuda import Device
from nplstm.engines.cuda.plan import Problem, find_plan

from ..common.cases import rounded
from ..common.checks import relative_norm
from .cases import PRECISIONS, TOLERANCES

ENGINES = ("persistent", "fused")

_RUNS = 10

_LEAST = 0.1
"""Inputs, states and gradients that are handed in are about 1; a layer of one cell may make little of them."""


@dataclass(frozen=True)
class Shape:
    """Sizes that are primes or one, so that none divides what a block has."""

    T: int
    B: int
    I: int
    H: int
    layers: int = 1
    bidirectional: bool = False
    ragged: bool = False

    def __str__(self) -> str:
        sizes = f"T={self.T} B={self.B} I={self.I} H={self.H}"
        stack = f" {self.layers} layers" * (self.layers > 1) + " bidirectional" * self.bidirectional
        return sizes + stack + " ragged" * self.ragged


SMALL = (
    Shape(5, 2, 3, 7),
    Shape(1, 1, 1, 1),
    Shape(3, 11, 5, 13, ragged=True),
    Shape(3, 2, 5, 11, layers=3),
    Shape(3, 2, 3, 5, layers=2, bidirectional=True),
)
"""For a quick look, and for tools under which a launch takes a thousand times as long."""

SHAPES = (
    *SMALL,
    Shape(1, 7, 3, 31),
    Shape(13, 1, 11, 1),
    Shape(11, 5, 3, 1),
    Shape(1, 1, 127, 509),
    Shape(1009, 2, 3, 13),
    Shape(17, 67, 13, 37),
    Shape(5, 131, 7, 61),
    Shape(3, 257, 2, 17),
    Shape(7, 3, 127, 257),
    Shape(5, 17, 11, 509),
    Shape(3, 2, 13, 1021),
    Shape(3, 61, 5, 1021),
    Shape(31, 13, 17, 101, ragged=True),
    Shape(11, 7, 5, 127, layers=4),
    Shape(13, 19, 3, 67, layers=2, bidirectional=True, ragged=True),
    Shape(7, 5, 3, 251, bidirectional=True),
)

SOAKED = (
    (Shape(512, 16, 256, 256), "tf32"),
    (Shape(512, 64, 512, 512), "float16"),
    (Shape(512, 1, 1021, 1021), "tf32"),
    (Shape(257, 3, 61, 127, layers=4), "float32"),
    (Shape(128, 17, 128, 128, layers=2, bidirectional=True, ragged=True), "bfloat16"),
)

_TOLD_EVERY = 10.0

_LONGEST = 60.0
"""Seconds that no launch takes: a kernel that waits for ever cannot be interrupted, its process can be ended."""


@contextmanager
def watched(seconds: float = _LONGEST) -> Generator[None]:
    """End the process, with a traceback, if what is inside takes longer: Python cannot end a wait for a device."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def at_limits(device: Device) -> list[Shape]:
    """Return shapes of the widest layer that fits into a launch in each precision, and of one cell more."""
    found: list[Shape] = []
    for precision in PRECISIONS:
        fits, fails = 1, 2**15
        while fails - fits > 1:
            H = (fits + fails) // 2
            there = find_plan(Problem("forward", precision, 3, H, 1, False), device) is not None
            fits, fails = (H, fails) if there else (fits, H)
        found += [Shape(3, 3, 5, fits), Shape(3, 3, 5, fails)]
    return list(dict.fromkeys(found))


class _Run:
    """A layer with given inputs, whose numbers are those that ``stored`` has; in float64 it is the reference."""

    def __init__(self, shape: Shape, stored: str, backend: str, dtype: str) -> None:
        self.shape, self.backend = shape, get_backend(backend)
        options = dict(num_layers=shape.layers, bidirectional=shape.bidirectional)
        drawn = nplstm.LSTM(shape.I, shape.H, **options, rng=1).state_dict()

        def sent(values: np.ndarray) -> Any:
            return self.backend.asarray(rounded(values, stored).astype(dtype))

        self.lstm = nplstm.LSTM(shape.I, shape.H, **options, backend=backend, dtype=dtype, rng=0)
        self.lstm.load_state_dict({name: sent(values) for name, values in drawn.items()})
        D, rng = 2 if shape.bidirectional else 1, np.random.default_rng(2)
        states = shape.layers * D, shape.B, shape.H
        sizes = [(shape.T, shape.B, shape.I), states, states, (shape.T, shape.B, D * shape.H), states, states]
        arrays = [sent(rng.standard_normal(size, dtype=np.float32)) for size in sizes]
        self._x, self._hx, self._grad, self._grad_state = arrays[0], arrays[1:3], arrays[3], arrays[4:]
        lengths = rng.integers(1, shape.T + 1, shape.B)
        lengths[0] = shape.T
        self._options = dict(lengths=lengths) if shape.ragged else {}

    def results(self) -> dict[str, Any]:
        """Return the results of a plain call, which records nothing, of a recording, and all gradients."""
        output, (h_n, c_n) = self.lstm(self._x, tuple(self._hx), **self._options)
        found = {"output": output, "h_n": h_n, "c_n": c_n}
        tape = self.lstm.record(self._x, tuple(self._hx), **self._options)
        grads = tape.backward(self._grad, tuple(self._grad_state))
        found |= {"recorded output": tape.output, "grad_input": grads.input}
        found |= {"grad_h_0": grads.h_0, "grad_c_0": grads.c_0}
        return found | {f"grad_{name}": grad for name, grad in grads.parameters.items()}

    def hosted(self) -> dict[str, np.ndarray]:
        """Return all, in NumPy's arrays."""
        return {name: self.backend.to_numpy(array) for name, array in self.results().items()}

    def refusal(self, engine: str, precision: str) -> str:
        """Return why the engine refuses; nothing if it runs this."""
        try:
            with _engine(engine, precision):
                self.lstm.engine_for(self.shape.B)
        except nplstm.ArgumentError as error:
            return str(error)
        return ""


@lru_cache(maxsize=4)
def _reference(shape: Shape, stored: str) -> dict[str, np.ndarray]:
    with nplstm.use_engines("plain"):
        return _Run(shape, stored, "numpy", "float64").hosted()


@contextmanager
def _engine(name: str, precision: str) -> Generator[None]:
    allowed = precision if precision != "float16" else "float32"  # which concerns layers of float32 alone
    with nplstm.use_engines(name), nplstm.use_precision(allowed):
        yield


def compare(
    shapes: Sequence[Shape],
    backend: str,
    *,
    engines: Sequence[str] = ENGINES,
    precisions: Sequence[str] = tuple(PRECISIONS),
    runs: int = _RUNS,
) -> Iterator[dict[str, Any]]:
    """Run each shape on each engine in each precision; yield what was found, one dict for each.

    "outcome" is "right", "refused" (with the reason: the next engine has to take it), or "WRONG": beyond the
    tolerance beside float64, an error, or other bits in one of the runs that follow.
    """
    for shape in shapes:
        for precision in precisions:
            for engine in engines:
                found = {"shape": str(shape), "precision": precision, "engine": engine}
                try:
                    with watched(), _engine(engine, precision):
                        found |= _compared(shape, precision, engine, backend, runs)
                except Exception as error:  # noqa: BLE001  the others are looked at still
                    found |= {"outcome": "WRONG", "reason": f"{type(error).__name__}: {error}"}
                yield found


def _stored(precision: str) -> str:
    return "float16" if precision == "float16" else "float32"


def _compared(shape: Shape, precision: str, engine: str, backend: str, runs: int) -> dict[str, Any]:
    dtype = _stored(precision)
    run = _Run(shape, dtype, backend, dtype)
    if reason := run.refusal(engine, precision):
        return {"outcome": "refused", "reason": reason}
    found, expected = run.hosted(), _reference(shape, dtype)
    errors = {name: relative_norm(found[name], value, _LEAST) for name, value in expected.items()}
    # what is not a number is the largest of all
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    said = {"worst": worst, "error": errors[worst]}
    if not errors[worst] <= TOLERANCES[precision]:
        reason = f"{worst} differs by {errors[worst]:.1e}, more than {TOLERANCES[precision]:.0e}"
        return said | {"outcome": "WRONG", "reason": reason}
    if other := repeat(run, found, runs - 1):
        return said | {"outcome": "WRONG", "reason": other}
    return said | {"outcome": "right"}


def repeat(run: Any, first: dict[str, np.ndarray], runs: int) -> str:
    """Run again, so many times; say where bits were not those of the first time."""
    for number in range(runs):
        for name, array in run.hosted().items():
            if array.tobytes() != first[name].tobytes():
                return f"{name} has other bits in run {number + 2}"
    return ""


def soak(
    seconds: float,
    backend: str,
    *,
    soaked: Sequence[tuple[Shape, str]] = SOAKED,
    streams: Sequence[Any] = (),
) -> dict[str, Any]:
    """Run whole sequences in one launch, there and back, again and again; return how many, and what went wrong.

    Each shape runs on all streams before any of them is waited for: launches whose blocks wait for each other must
    not stand in each other's way. Results are compared, on the device, with those of the first round. ``streams``
    are contexts, in each of which launches go to another stream.
    """
    places = list(streams) or [nullcontext()]
    runs = {(shape, p): _Run(shape, _stored(p), backend, _stored(p)) for shape, p in soaked}
    runs = {(shape, p): run for (shape, p), run in runs.items() if not run.refusal("persistent", p)}
    first: dict[Any, dict[str, Any]] = {}
    end, said, rounds = time.monotonic() + seconds, time.monotonic(), 0
    try:
        while runs and (rounds == 0 or time.monotonic() < end):
            for key, run in runs.items():
                with watched(), _engine("persistent", key[1]):
                    if key not in first:
                        first[key] = run.results()
                    problem = _together(run, places, first[key])
                if problem:
                    return {"rounds": rounds, "outcome": "WRONG", "reason": f"{key[0]} in {key[1]}: {problem}"}
            rounds += 1
            if time.monotonic() - said > _TOLD_EVERY:
                said = time.monotonic()
                print(f"soak: {rounds} rounds, {max(0.0, end - said):.0f} s left", flush=True)
    except Exception as error:  # noqa: BLE001  what a launch that gave up waiting raises
        return {"rounds": rounds, "outcome": "WRONG", "reason": f"{type(error).__name__}: {error}"}
    if not runs:
        return {"rounds": 0, "outcome": "not run", "reason": "no shape fits into a launch here"}
    return {"rounds": rounds, "runs": rounds * len(runs) * len(places), "outcome": "right"}


def _together(run: _Run, places: Sequence[Any], expected: dict[str, Any]) -> str:
    """Run on all streams; say what differs from what is expected, or where."""
    run.backend.synchronize()  # what is expected, and the inputs, may have been made on another stream
    started: list[dict[str, Any]] = []
    for place in places:
        with place:
            started.append(run.results())
    for number, (place, results) in enumerate(zip(places, started, strict=True)):
        with place:
            for name, array in results.items():
                if not bool((array == expected[name]).all()):
                    return f"{name} differs from that of the first round, on stream {number}"
    return ""
