"""What is run: sizes, layers and tasks, with weights and inputs that every process makes from the same seeds."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np

__all__ = ["GROUPS", "QUICK", "TASKS", "TIMED", "Case", "cases_of"]

TASKS = ("inference", "training")

BATCHES, SIZES, STEPS = (1, 8, 32, 128), (32, 128, 512, 1024), (20, 100, 1000)

GROWTH = {
    "T": (20, 50, 100, 200, 500, 1000),
    "B": (1, 2, 4, 8, 16, 32, 64, 128),
    "H": (32, 64, 128, 256, 512, 1024),
}
GROWTH_BASE = {"T": 100, "B": 8, "H": 128}

QUICK = {"T": 50, "B": 4, "H": 64}
"""The largest sizes of a run that shows that everything works."""


@dataclass(frozen=True)
class Case:
    """One layer, or stack of layers, and what is done with it; the input is as wide as the hidden state."""

    group: str
    task: str
    """"inference"; "training", forward and backward; "step": of T that are checked, one is timed again and again,
    with the state fed back."""
    B: int
    H: int
    T: int
    layers: int = 1
    bidirectional: bool = False
    padded: bool = False
    dtype: str = "float32"

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1

    @property
    def work(self) -> int:
        """Multiplications of a forward pass, up to a constant factor."""
        return self.T * self.B * self.H * self.H * self.layers * self.directions

    @property
    def operations(self) -> int:
        """Multiplications and additions of a forward pass of one layer in its two products, W_ih x and W_hh h."""
        return 2 * self.T * self.B * 4 * self.H * (self.H + self.H) * self.directions

    @property
    def label(self) -> str:
        """Say what it is, beside its group and task."""
        kind = f"{self.layers} layers{', bidirectional' * self.bidirectional}, " * (self.layers > 1)
        steps = "" if self.task == "step" else f" T={self.T}"
        return f"{kind}{'half padding, ' * self.padded}B={self.B} H={self.H}{steps}"

    def reference(self) -> "Case":
        """Return what the results have to be: those of the whole sequence, in double precision."""
        return replace(self, dtype="float64", task="inference" if self.task == "step" else self.task)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def input_size(self, layer: int) -> int:
        """Return the width of what a layer reads."""
        return self.H if layer == 0 else self.directions * self.H

    def weights(self) -> dict[str, np.ndarray]:
        """Draw the parameters, by torch's names, from U(-1/sqrt(H), 1/sqrt(H))."""
        rng, bound = np.random.default_rng(1), self.H**-0.5
        shapes = {
            f"{name}_l{layer}{suffix}": shape
            for layer in range(self.layers)
            for suffix in ("", "_reverse")[: self.directions]
            for name, shape in (
                ("weight_ih", (4 * self.H, self.input_size(layer))),
                ("weight_hh", (4 * self.H, self.H)),
                ("bias_ih", (4 * self.H,)),
                ("bias_hh", (4 * self.H,)),
            )
        }
        return {n: rng.uniform(-bound, bound, s).astype(np.float32).astype(self.dtype) for n, s in shapes.items()}

    def input(self) -> np.ndarray:
        """Draw the input, (T, B, I)."""
        return self._normal(2, self.H)

    def cotangent(self) -> np.ndarray:
        """Draw d loss / d output, (T, B, D * H)."""
        return self._normal(3, self.directions * self.H)

    def _normal(self, seed: int, width: int) -> np.ndarray:
        values = np.random.default_rng(seed).standard_normal((self.T, self.B, width), dtype=np.float32)
        return values.astype(self.dtype, copy=False)

    def lengths(self) -> np.ndarray:
        """Draw each sequence's length, (B,), such that the mean is (T + 1) / 2 for an even B."""
        half = np.random.default_rng(4).integers(1, self.T + 1, (self.B + 1) // 2)
        return np.concatenate([half, self.T + 1 - half])[: self.B]


def _streaming() -> Iterator[Case]:
    for H in SIZES[:3]:
        yield Case("streaming", "step", 1, H, 5)


def _small() -> Iterator[Case]:
    for B, H in product((1, 8), (32, 128)):
        yield Case("small", "inference", B, H, 20)


def _grid() -> Iterator[Case]:
    for T, B, H in product(STEPS, BATCHES, SIZES):
        yield Case("grid", "", B, H, T)


def _stacks() -> Iterator[Case]:
    for B in (1, 32):
        yield Case("stacks", "", B, 128, 100, layers=2, bidirectional=True)
        yield Case("stacks", "", B, 128, 100, layers=4)


def _lengths() -> Iterator[Case]:
    yield Case("lengths", "", 32, 128, 100, padded=True)


def _growth() -> Iterator[Case]:
    for axis, sizes in GROWTH.items():
        for size in sizes:
            yield Case("growth", "", **(GROWTH_BASE | {axis: size}))


def _peak() -> Iterator[Case]:
    for B, H in product((8, 32, 128), (128, 512, 1024)):
        yield Case("peak", "inference", B, H, 20)


def _memory() -> Iterator[Case]:
    yield Case("memory", "", 32, 512, 100)
    yield Case("memory", "", 32, 128, 1000)


_TIMED = {
    "streaming": _streaming,
    "small": _small,
    "grid": _grid,
    "stacks": _stacks,
    "lengths": _lengths,
    "growth": _growth,
}

_CASES = _TIMED | {"peak": _peak, "memory": _memory}

TIMED = tuple(_TIMED)
"""Groups that are timed with all threads."""

GROUPS = (*_CASES, "import", "first", "size")


def cases_of(group: str, limit: float, *, quick: bool = False) -> list[Case]:
    """Return the cases of a group whose work is within the limit; quick ones are cut down to small sizes."""
    made: Iterable[Case] = _CASES[group]()
    if quick:
        made = (replace(c, **{axis: min(getattr(c, axis), most) for axis, most in QUICK.items()}) for c in made)
    found = [case for case in dict.fromkeys(made) if case.work <= limit]
    return [replace(case, task=task) for task in TASKS for case in found] if found and not found[0].task else found
