"""A benchmark case: sizes of a layer and the task, with weights and inputs drawn from fixed seeds."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

_POOL = 1_000_003  # a prime: no two sequences are given the same numbers


class Prepared(NamedTuple):
    """A case with its weights and inputs in place, and one way to run it."""

    call: Callable[[], Any]
    """What is timed."""
    results: Callable[[], dict[str, Any]]
    """What is checked: the same computation, with its results by name."""
    engine: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One layer, or stack of layers, and what is done with it; the input is as wide as the hidden state."""

    group: str
    task: str
    """"inference"; "training", forward and backward; "step": of T that are checked, one is timed again and again,
    with the state fed back; "latency": the same, and each is waited for."""
    B: int
    H: int
    T: int
    layers: int = 1
    bidirectional: bool = False
    padded: bool = False
    precision: str = "float32"

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1

    @property
    def dtype(self) -> str:
        """The element type of nplstm's layer."""
        return self.precision if self.precision in ("float16", "float64") else "float32"

    @property
    def steps(self) -> int:
        """Steps of a call that is timed."""
        return self.T if self.task in ("inference", "training") else 1

    @property
    def work(self) -> int:
        """Multiplications of a forward pass, up to a constant factor."""
        return self.T * self.B * self.H * self.H * self.layers * self.directions

    @property
    def operations(self) -> int:
        """Multiplications and additions of a forward pass of one layer in its two products, W_ih x and W_hh h."""
        return 2 * self.T * self.B * 4 * self.H * (self.H + self.H) * self.directions

    @property
    def stack(self) -> str:
        """Layers and directions, in words."""
        return f"{self.layers} layer{'s' * (self.layers > 1)}{', bidirectional' * self.bidirectional}"

    @property
    def label(self) -> str:
        """Say what it is, beside its group and task."""
        stack = f"{self.stack}, " * (self.layers > 1)
        steps = f" T={self.T}" * (self.task in ("inference", "training"))
        return f"{stack}{'half padding, ' * self.padded}B={self.B} H={self.H}{steps}"

    def described(self) -> dict[str, Any]:
        """Return what the record of its measurement begins with, for JSON."""
        return {"group": self.group, "task": self.task, "label": self.label, "case": asdict(self)}

    def reference(self) -> "Case":
        """Return the case whose results are those expected: the whole sequence, in double precision."""
        return replace(self, precision="float64", task="inference" if self.task == "step" else self.task)

    def weights(self) -> dict[str, np.ndarray]:
        """Draw the parameters, by torch's names, from U(-1/sqrt(H), 1/sqrt(H))."""
        return _weights(self.layers, self.directions, self.H, self.precision)

    def input(self) -> np.ndarray:
        """Draw the input, (T, B, I)."""
        return _normal(2, (self.T, self.B, self.H), self.precision)

    def cotangent(self) -> np.ndarray:
        """Draw d loss / d output, (T, B, D * H)."""
        return _normal(3, (self.T, self.B, self.directions * self.H), self.precision)

    def lengths(self) -> np.ndarray:
        """Draw each sequence's length, (B,), such that the mean is (T + 1) / 2 for an even B."""
        half = np.random.default_rng(4).integers(1, self.T + 1, (self.B + 1) // 2)
        return np.concatenate([half, self.T + 1 - half])[: self.B]


@lru_cache(maxsize=1)
def _weights(layers: int, directions: int, H: int, precision: str) -> dict[str, np.ndarray]:
    rng, bound = np.random.default_rng(1), H**-0.5
    shapes = {
        f"{name}_l{layer}{suffix}": shape
        for layer in range(layers)
        for suffix in ("", "_reverse")[:directions]
        for name, shape in (
            ("weight_ih", (4 * H, directions * H if layer else H)),
            ("weight_hh", (4 * H, H)),
            ("bias_ih", (4 * H,)),
            ("bias_hh", (4 * H,)),
        )
    }
    return {n: rounded(rng.uniform(-bound, bound, s).astype(np.float32), precision) for n, s in shapes.items()}


@lru_cache(maxsize=2)  # input and cotangent, which the next library of the same process is given too
def _normal(seed: int, shape: tuple[int, ...], precision: str) -> np.ndarray:
    return np.resize(_pool(seed, precision), shape)


@lru_cache(maxsize=4)
def _pool(seed: int, precision: str) -> np.ndarray:
    """Draw the numbers that inputs repeat: to draw hundreds of millions takes longer than what is timed."""
    return rounded(np.random.default_rng(seed).standard_normal(_POOL, dtype=np.float32), precision)


def rounded(values: np.ndarray, precision: str) -> np.ndarray:
    """Round to what arrays of that precision hold; float32 is what holds bfloat16 here, and TF32 is no storage."""
    if precision in ("float16", "float64"):
        return values.astype(precision)
    if precision == "bfloat16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return values
