"""What runs on a CUDA device: directions of layers, their tapes, and the spans of steps that memory has room for.

An engine adds how a block of steps is run; what surrounds it, the products that need no recurrence, is here once.
Axes as in ``sequence``: N rows, B sequences, I input, H cells.
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
    "Running",
    "Span",
    "directions_of",
    "empty",
    "kept_type",
    "multiply",
    "spans",
]

BLOCK_BYTES = 2**28
"""Pre-activations that are in memory at once beyond what a recording keeps."""


class LayerDirection(NamedTuple):
    """One layer in one direction, and what it runs on."""

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
    """What backpropagation through time needs of one layer in one direction."""

    weights: LayerWeights
    steps: PackedSteps
    reverse: bool
    precision: str
    x: Array  # (N, I)
    h_0: Array  # (B, H)
    c_0: Array  # (B, H)
    out: Array  # (N, H)  h_t
    gates: Array  # (N, 4H)  i, f, g, o
    cells: Array  # (N, H)  c_t, in the type that they are computed in


class Running:
    """A direction's state, or its gradient, as the steps go on; c in the type that it is computed in."""

    def __init__(self, state: State) -> None:
        self.h = state.h.copy(order="C")
        self.c = state.c.astype(kept_type(state.c.dtype), order="C")

    def write(self, state: State) -> None:
        """Write it in the type that users see."""
        state.h[...], state.c[...] = self.h, self.c.astype(state.c.dtype)


class Span(NamedTuple):
    """Some steps, in the order of processing."""

    steps: PackedSteps
    first: int
    last: int

    def rows(self, *, reverse: bool) -> slice:
        """Return where their rows are, for a direction that runs from the last step to the first or not."""
        return self.steps.span(self.first, self.last, reverse=reverse)

    @property
    def most_rows(self) -> int:
        """How many rows these steps have in the direction in which they have more."""
        first, last = self.first, self.last
        sides = self.steps.span(first, last), self.steps.span(first, last, reverse=True)
        return max(side.stop - side.start for side in sides)

    def times(self, *, reverse: bool) -> range:
        """Return the steps in the order of processing."""
        T = len(self.steps)
        return range(T - 1 - self.first, T - 1 - self.last, -1) if reverse else range(self.first, self.last)


def kept_type(dtype: Any) -> str:
    """Return the type in which c is kept: float32 for float16."""
    return "float32" if dtype == "float16" else str(dtype)


def spans(steps: PackedSteps, row_bytes: int) -> Iterator[Span]:
    """Cut the steps into spans whose rows take ``BLOCK_BYTES`` at most, at least one step each."""
    if steps.total == 0:
        return
    length = max(1, BLOCK_BYTES // (row_bytes * steps.batch))
    for first in range(0, len(steps), length):
        yield Span(steps, first, min(first + length, len(steps)))


def empty(like: Array, *shape: int, dtype: Any = None) -> Array:
    """Make room on the device of an array."""
    return namespace(like).empty(shape, dtype=like.dtype if dtype is None else dtype)


def multiply(a: Array, b: Array, precision: str, out: Array | None = None) -> Array:
    """Return the library's product, in TF32 where the precision of float32 arrays allows that or less."""
    return cuda_of(a).matmul(a, b, tf32=precision != "float32" and a.dtype == "float32", out=out)
