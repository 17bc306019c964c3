"""Data types of the CUDA engines: directions of layers, their tapes and states, and ranges of steps.

Axes as in ``core/time_loop.py``: N rows, B sequences, I input, H cells.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State
from nplstm.engines.base import LayerCall, state_of
from nplstm.engines.cuda.addresses import cuda_of

__all__ = [
    "CudaTape",
    "LayerDirection",
    "RunningState",
    "StepRange",
    "directions_of",
    "empty",
    "kept_type",
    "multiply",
    "step_ranges",
]

BLOCK_BYTES = 2**28
"""Bytes of pre-activations in memory at once, without those that a recording keeps."""


class LayerDirection(NamedTuple):
    """One layer in one direction, with its arrays."""

    x: Array  # (N, I)
    weights: LayerWeights
    initial: State
    final: State  # receives the state after each sequence's last step
    out: Array  # (N, H)  receives h_t; may be a slice of a wider array
    reverse: bool


def directions_of(layer: LayerCall) -> list[LayerDirection]:
    """Return the directions of a layer."""
    return [
        LayerDirection(x, weights, state_of(layer.initial, d), state_of(layer.final, d), out, reverse)
        for d, (x, weights, out, reverse) in enumerate(
            zip(layer.x, layer.weights, layer.out, layer.reverse, strict=True)
        )
    ]


class CudaTape(NamedTuple):
    """Arrays of the forward pass that the backward pass of one layer in one direction reads."""

    weights: LayerWeights
    steps: PackedSteps
    reverse: bool
    precision: str
    x: Array  # (N, I)
    h_0: Array  # (B, H)
    c_0: Array  # (B, H)
    out: Array  # (N, H)  h_t
    gates: Array  # (N, 4H)  i, f, g, o
    cells: Array  # (N, H)  c_t, in the type that it is computed in


class RunningState:
    """Current state of a direction during the steps, or its gradient; c in the type that it is computed in."""

    def __init__(self, state: State) -> None:
        self.h = state.h.copy(order="C")
        self.c = state.c.astype(kept_type(state.c.dtype), order="C")

    def write(self, state: State) -> None:
        """Copy it to a state in the type that users see."""
        state.h[...], state.c[...] = self.h, self.c.astype(state.c.dtype)


class StepRange(NamedTuple):
    """A range of steps, in the order of processing."""

    steps: PackedSteps
    first: int
    last: int

    def rows(self, *, reverse: bool) -> slice:
        """Return their rows; with ``reverse`` for a direction that runs from the last step to the first."""
        return self.steps.span(self.first, self.last, reverse=reverse)

    @property
    def most_rows(self) -> int:
        """The number of their rows in the direction in which there are more."""
        first, last = self.first, self.last
        sides = self.steps.span(first, last), self.steps.span(first, last, reverse=True)
        return max(side.stop - side.start for side in sides)

    def times(self, *, reverse: bool) -> range:
        """Return the steps in the order of processing."""
        T = len(self.steps)
        return range(T - 1 - self.first, T - 1 - self.last, -1) if reverse else range(self.first, self.last)


def kept_type(dtype: Any) -> str:
    """Return the type of c: float32 for arrays of float16."""
    return "float32" if dtype == "float16" else str(dtype)


def step_ranges(steps: PackedSteps, row_bytes: int) -> Iterator[StepRange]:
    """Divide the steps into ranges whose rows take at most ``BLOCK_BYTES``, at least one step each."""
    if steps.total == 0:
        return
    length = max(1, BLOCK_BYTES // (row_bytes * steps.batch))
    for first in range(0, len(steps), length):
        yield StepRange(steps, first, min(first + length, len(steps)))


def empty(like: Array, *shape: int, dtype: Any = None) -> Array:
    """Allocate an array on the device of another one."""
    return namespace(like).empty(shape, dtype=like.dtype if dtype is None else dtype)


def multiply(a: Array, b: Array, precision: str, out: Array | None = None) -> Array:
    """Return the library's product, in TF32 where the precision of float32 arrays allows that or less."""
    return cuda_of(a).matmul(a, b, tf32=precision != "float32" and a.dtype == "float32", out=out)
