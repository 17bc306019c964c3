"""Forward pass of the compiled engine: one kernel call for a layer or a stack, and what a recording keeps."""

from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State
from nplstm.engines._numpy.memory import work_space
from nplstm.engines.base import LayerCall, StackCall, split_directions
from nplstm.engines.compiled.kernel_weights import checked_layers
from nplstm.engines.compiled.library import library
from nplstm.engines.threads import get_num_threads

__all__ = ["CompiledTape", "aligned_rows", "checked_steps", "compiled_layer", "compiled_stack"]

_MOST_IN_ONE_CALL = 18
"""Layers and directions of which one kernel call takes the parameters."""


class CompiledTape(NamedTuple):
    """What backpropagation through time needs of a layer, or of several that ran together."""

    weights: list[LayerWeights]  # by layer, then by direction
    steps: PackedSteps
    reverse: tuple[bool, ...]
    x: tuple[Array, ...]  # (N, I) for each direction of the first layer
    out: tuple[Array, ...]  # (N, P) for each direction of the last layer: h_t
    h_0: Array  # (L, D, B, P)
    c_0: Array  # (L, D, B, H)
    kept: Array  # flat: i, f, g, o and c_t of each layer and direction, and h_t of all layers but the last


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
    read, D = aligned_rows(x), len(stack.reverse)
    joined = stack.new_output(-1, x)
    out = tuple(split_directions(joined, D))
    tape = _run(weights, (read,) * D, out, stack.initial, stack.final, stack.reverse, steps, record=record)
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
    h_0, c_0 = _whole(initial.h), _whole(initial.c)
    layers = checked_layers(weights, len(reverse))
    kept = work_space((layers.kept(steps.total),), c_0.dtype) if record else None
    layers.module.forward(
        layers.handle, x, h_0, c_0, out, reverse, checked_steps(steps), kept, final.h, final.c, get_num_threads()
    )
    return None if kept is None else CompiledTape(weights, steps, reverse, x, out, h_0, c_0, kept)


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
