"""What is run: sizes, layers, tasks and precisions, with weights and inputs that both libraries are given."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

import nplstm

__all__ = [
    "KINDS",
    "PARTS",
    "PRECISIONS",
    "TASKS",
    "Case",
    "UnknownTermError",
    "cases_of",
    "rounded",
    "select",
]

PARTS = ("table", "streaming", "engines")
"""Those that time something."""

PRECISIONS = {
    "float32": "float32, TF32 off on both sides",
    "tf32": "float32, TF32 on on both sides",
    "float16": "float16 layers on both sides",
    "bfloat16": "not the same storage: torch keeps bfloat16, nplstm float32 that is rounded to it for recurrent"
    " products",
}

TASKS = {"forward": "forward", "training": "forward + backward", "step": "step", "latency": "step, waited for"}

KINDS = {"1-layer": (1, False), "2-layer-bidirectional": (2, True), "4-layer": (4, False)}
"""By name: layers, and whether they run both ways."""

_T, _BATCHES, _SIZES = 512, (1, 16, 64, 256), (64, 128, 256, 512, 1024, 2048)

_MORE_BATCHES = (1, 8, 16, 32, 64, 128, 256)  # where engines are compared: to see where one overtakes the other

_STREAM_SIZES = (64, 128, 256, 512)

_QUICK = {
    "table": {("1-layer", 1, 128), ("1-layer", 16, 256), ("1-layer", 64, 512), ("1-layer", 256, 1024)}
    | {("2-layer-bidirectional", 16, 256), ("4-layer", 16, 256)},
    "streaming": {("1-layer", 1, 128), ("1-layer", 1, 512)},
    "engines": {("1-layer", 1, 256), ("1-layer", 64, 256), ("1-layer", 256, 1024)},
}

_POOL = 1_000_003  # a prime: no two sequences are given the same numbers


@dataclass(frozen=True)
class Case:
    """A layer, or stack of layers, in a precision, and what is done with it; the input is as wide as the state."""

    part: str
    task: str
    """"forward"; "training", forward and backward; "step": of T that are checked, one is timed again and again,
    with the state fed back; "latency": the same, and each is waited for."""
    precision: str
    B: int
    H: int
    T: int = _T
    layers: int = 1
    bidirectional: bool = False

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1

    @property
    def steps(self) -> int:
        """Steps of a call that is timed."""
        return self.T if self.task in ("forward", "training") else 1

    @property
    def dtype(self) -> str:
        """The element type of nplstm's layer."""
        return "float16" if self.precision == "float16" else "float32"

    @property
    def kind(self) -> str:
        """Which of ``KINDS``; another stack is described by its numbers."""
        described = f"{self.layers}-layer" + "-bidirectional" * self.bidirectional
        return next((name for name, kind in KINDS.items() if kind == (self.layers, self.bidirectional)), described)

    @property
    def cudnn_persists(self) -> bool:
        """Tell whether torch has cuDNN run its persistent kernel."""
        single = self.precision == "float16" and self.layers == self.directions == 1
        return single and self.H <= 1024 and self.H % 128 == 0 and self.B % 8 == 0 and self.B <= 128

    @property
    def label(self) -> str:
        """Say what it is, beside its precision and task."""
        return f"{self.kind} B={self.B} H={self.H}"

    @property
    def terms(self) -> dict[str, str]:
        """What it can be selected by: one term of each sort."""
        sorts = {"precision": self.precision, "task": self.task, "kind": self.kind}
        return sorts | {"B": f"B={self.B}", "H": f"H={self.H}"}

    @property
    def layer(self) -> tuple[Any, ...]:
        """What two cases have in common that run the same layer."""
        return self.layers, self.bidirectional, self.H, self.precision

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def weights(self) -> dict[str, np.ndarray]:
        """Draw the parameters, by torch's names, from U(-1/sqrt(H), 1/sqrt(H)): numbers that the precision has."""
        return _weights(*self.layer)

    def input(self) -> np.ndarray:
        """Draw the input, (T, B, I)."""
        return self._normal(2, self.H)

    def cotangent(self) -> np.ndarray:
        """Draw d loss / d output, (T, B, D * H)."""
        return self._normal(3, self.directions * self.H)

    def _normal(self, seed: int, width: int) -> np.ndarray:
        return _filled((self.T, self.B, width), seed, self.precision)


@lru_cache(maxsize=1)
def _weights(layers: int, bidirectional: bool, H: int, precision: str) -> dict[str, np.ndarray]:
    drawn = nplstm.LSTM(H, H, num_layers=layers, bidirectional=bidirectional, rng=1).state_dict()
    return {name: rounded(values, precision) for name, values in drawn.items()}


@lru_cache(maxsize=2)  # input and cotangent, which the next library is given, too
def _filled(shape: tuple[int, ...], seed: int, precision: str) -> np.ndarray:
    pool = _pool(seed, precision)
    made = np.empty(math.prod(shape), pool.dtype)
    for start in range(0, made.size, pool.size):
        part = made[start : start + pool.size]
        part[:] = pool[: part.size]
    return made.reshape(shape)


@lru_cache(maxsize=4)
def _pool(seed: int, precision: str) -> np.ndarray:
    """Draw what inputs are cut from: to draw hundreds of millions of numbers takes longer than what is timed."""
    return rounded(np.random.default_rng(seed).standard_normal(_POOL, dtype=np.float32), precision)


def rounded(values: np.ndarray, precision: str) -> np.ndarray:
    """Round to what arrays of that precision hold; float32 is what holds bfloat16 here, and TF32 is no storage."""
    if precision == "float16":
        return values.astype(np.float16)
    if precision == "bfloat16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return values


def cases_of(part: str, precisions: Sequence[str], *, quick: bool = False) -> list[Case]:
    """Return the cases of a part: those of one layer first, so that what a budget leaves out are stacks."""
    made: Iterable[Case] = {"table": _table, "streaming": _streaming, "engines": _engines}[part](precisions)
    return [case for case in made if not quick or (case.kind, case.B, case.H) in _QUICK[part]]


def _table(precisions: Sequence[str]) -> Iterator[Case]:
    for kind, H, precision, B, task in product(KINDS, _SIZES, precisions, _BATCHES, ("forward", "training")):
        layers, bidirectional = KINDS[kind]
        yield Case("table", task, precision, B, H, layers=layers, bidirectional=bidirectional)


def _streaming(precisions: Sequence[str]) -> Iterator[Case]:
    """Yield steps in float32: what a stream computes in is as exact as its layer in any precision."""
    for H, task in product(_STREAM_SIZES, ("step", "latency")):
        yield Case("streaming", task, "float32", 1, H, T=5)


def _engines(precisions: Sequence[str]) -> Iterator[Case]:
    for H, precision, B, task in product(_SIZES, precisions, _MORE_BATCHES, ("forward", "training")):
        yield Case("engines", task, precision, B, H)


class UnknownTermError(ValueError):
    """No case has that term."""


def select(cases: Sequence[Case], terms: Sequence[str]) -> list[Case]:
    """Return the cases that have, of each sort of terms that is among those given, one of them."""
    every = [case for part in PARTS for case in cases_of(part, list(PRECISIONS))]
    known = {term: sort for case in every for sort, term in case.terms.items()}
    for term in terms:
        if term not in known:
            raise UnknownTermError(f"no case has {term!r}; there are {', '.join(known)}")
    asked = {known[term] for term in terms}
    return [case for case in cases if all(case.terms[sort] in terms for sort in asked)]
