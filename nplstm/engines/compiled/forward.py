"""Forward pass of the compiled engine: one kernel call for a layer or a stack, and what a recording keeps."""

from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State
from nplstm.engines._numpy.memory import work_space
from nplstm.engines.base import LayerCall, StackCall, split_directions
from nplstm.engines.compiled.kernel_weights import checked_layers, padded_width
from nplstm.engines.compiled.library import library
from nplstm.engines.threads import get_num_threads

__all__ = ["CompiledTape", "Sizes", "aligned_rows", "checked_steps", "compiled_layer", "compiled_stack"]

_MOST_IN_ONE_CALL = 18
"""Layers and directions of which one kernel call takes the parameters."""


class CompiledTape(NamedTuple):
    """What backpropagation through time needs of a layer, or of several that ran together."""

    weights: list[LayerWeights]  # by layer, then by direction
    steps: PackedSteps
    reverse: tuple[bool, ...]
    x: tuple[Array, ...]  # (N, I) for each direction of the first layer
    out: tuple[Array, ...]  # (N, P) for each direction of the last layer: h_t
    initial: State  # (L, D, B, P), (L, D, B, H)
    kept: Array  # flat: i, f, g, o and c_t of each layer and direction, and h_t of all layers but the last


class Sizes(NamedTuple):
    """Sizes of layers that run together."""

    L: int
    D: int
    H: int
    P: int
    Hp: int  # H rounded up to whole panels

    def kept(self, rows: int) -> int:
        """Return how many numbers a recording keeps, beside input and output."""
        return rows * self.D * (self.L * 5 * self.Hp + (self.L - 1) * self.P)


def sizes_of(weights: list[LayerWeights], directions: int) -> Sizes:
    """Return the sizes of layers that run together, whose states have one size."""
    P, H = weights[0].widths
    Hp = padded_width(H, weights[0].params.weight_hh.itemsize)
    return Sizes(len(weights) // directions, directions, H, P, Hp)


def compiled_layer(layer: LayerCall, steps: PackedSteps, *, record: bool) -> CompiledTape | None:
    """Run the directions of a layer; see ``Engine.forward``."""
    x = tuple([aligned_rows(rows) for rows in layer.x])
    return _run(
        layer.weights, x, tuple(layer.out), layer.initial, layer.final, layer.reverse, steps, record=record
    )


def compiled_stack(
    stack: StackCall, x: Array, steps: PackedSteps, *, record: bool
) -> tuple[Array, list[CompiledTape]] | None:
    """Run layers of one size in one kernel call; None for others."""
    weights = [directions for row in stack.weights for directions in row]
    if isinstance(stack.final.h, list) or len(weights) > _MOST_IN_ONE_CALL:
        return None
    joined, read = stack.new_output(-1, x), aligned_rows(x)
    D = len(stack.reverse)
    tape = _run(
        weights, (read,) * D, tuple(split_directions(joined, D)), stack.initial, stack.final, stack.reverse,
        steps, record=record,
    )  # fmt: skip
    return joined, [] if tape is None else [tape]


def _run(
    weights: list[LayerWeights],
    x: tuple[Array, ...],
    out: tuple[Array, ...],
    initial: State,
    final: State,
    reverse: tuple[bool, ...],
    steps: PackedSteps,
    *,
    record: bool,
) -> CompiledTape | None:
    initial, kept = State(_whole(initial.h), _whole(initial.c)), None
    if record:
        kept = work_space((sizes_of(weights, len(reverse)).kept(steps.total),), initial.c.dtype)
    library().module.forward(
        checked_layers(weights, len(reverse)), x, initial.h, initial.c, out, reverse, checked_steps(steps), kept,
        final.h, final.c, get_num_threads(),
    )  # fmt: skip
    return None if kept is None else CompiledTape(weights, steps, reverse, x, out, initial, kept)


def checked_steps(steps: PackedSteps) -> Any:
    """Return the steps as the kernels take them: their offsets are checked once."""
    return steps.prepared(_checked)


def _checked(steps: PackedSteps) -> Any:
    return library().module.steps(steps.offsets, steps.batch)


def aligned_rows(array: Array) -> Array:
    """Return an array whose rows the kernels can walk: the array itself, or a copy."""
    itemsize, strides = array.itemsize, array.strides
    fits = strides[1] == itemsize and strides[0] % itemsize == 0 and array.flags.aligned
    return array if fits else np.array(array, order="C")


def _whole(array: Array) -> Array:
    """Return an array without gaps: itself, or a copy."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")
