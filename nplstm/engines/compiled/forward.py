"""Forward pass of the compiled engine: kernel arguments, and what a recording keeps."""

from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.engines._numpy.memory import work_space
from nplstm.engines.base import LayerCall, StackCall
from nplstm.engines.compiled.kernel_weights import Packed, pack, padded_cells, padded_width
from nplstm.engines.compiled.library import library
from nplstm.engines.threads import get_num_threads

__all__ = ["CompiledTape", "aligned_rows", "checked_steps", "compiled_forward", "compiled_stack"]

_MOST_IN_ONE_CALL = 18
"""Layers and directions of which one kernel call takes the parameters."""


_NO_ROOM: tuple[Any, Any] = (None, None)


class CompiledTape(NamedTuple):
    """What backpropagation through time needs of the directions of a layer."""

    weights: list[LayerWeights]
    steps: PackedSteps
    reverse: tuple[bool, ...]
    x: list[Array]  # (N, I)
    out: list[Array]  # (N, P)  h_t
    h_0: Array  # (D, B, P)
    c_0: list[Array]  # (B, Hp)
    gates: list[Array]  # (N, 4Hp)  i, f, g, o
    cells: list[Array]  # (N, Hp)  c_t


def compiled_forward(layer: LayerCall, steps: PackedSteps, *, record: bool) -> CompiledTape | None:
    """Run the directions of a layer; see ``Engine.forward``."""
    kernels, threads = library(), get_num_threads()
    initial_h, initial_c, _ = layer.initial
    cells = [padded_cells(c) for c in initial_c]
    c_0 = [c.copy() for c in cells] if record else []
    rooms = [_room(steps.total, c) if record else _NO_ROOM for c in cells]
    x = [aligned_rows(rows) for rows in layer.x]
    directions: list[tuple[Any, ...]] = []
    for d, (weights, c) in enumerate(zip(layer.weights, cells, strict=True)):
        packed, spec, h_0 = pack(weights), weights.spec, aligned_rows(initial_h[d])
        directions.append(
            (
                *(x[d], packed.weight_ih, packed.weight_hh, packed.bias, h_0, c),
                *(layer.out[d], layer.reverse[d], *rooms[d]),
                *(initial_c.shape[2], packed.peephole, spec.clip or 0.0, packed.weight_hr),
                _projected(packed, c, h_0),
            )
        )
    kernels.module.forward(kernels.choice, tuple(directions), checked_steps(steps), threads)
    for d, c in enumerate(cells):
        layer.final.c[d] = c[:, : initial_c.shape[2]]
        layer.final.h[d] = _last(layer.out[d], initial_h[d], steps, reverse=layer.reverse[d])
    if not record:
        return None
    gates, kept = ([room[k] for room in rooms] for k in range(2))
    return CompiledTape(layer.weights, steps, layer.reverse, x, layer.out, initial_h, c_0, gates, kept)


def compiled_stack(stack: StackCall, x: Array, steps: PackedSteps) -> tuple[Array, list[Any]] | None:
    """Run standard layers of one size in one kernel call, for sequences of one length; None for others."""
    first, layers = stack.weights[0][0], len(stack.weights) * len(stack.reverse)
    uniform = not isinstance(stack.final.h, list)
    if not (first.standard and uniform and layers <= _MOST_IN_ONE_CALL and steps.total):
        return None
    others = () if layers == 1 else [weights for row in stack.weights for weights in row][1:]
    packed = first.prepared(_packed_stack, *others)
    T, B, out = len(steps), steps.batch, stack.new_output(-1, x)
    kernels, (initial_h, initial_c, _), (h_n, c_n, _) = library(), stack.initial, stack.final
    kernels.module.stack(
        kernels.choice, _whole(x.reshape(T, B, -1)), _whole(initial_h), _whole(initial_c), out.reshape(T, B, -1),
        h_n, c_n, packed, stack.reverse, get_num_threads(),
    )  # fmt: skip
    return out, []


def _packed_stack(*weights: LayerWeights) -> tuple[Array, ...]:
    """Return what one kernel call reads of all layers."""
    return tuple(array for one in weights for array in pack(one)[:3])


def checked_steps(steps: PackedSteps) -> Any:
    """Return the steps as the kernels take them: their offsets are checked once."""
    return steps.prepared(_checked)


def _checked(steps: PackedSteps) -> Any:
    return library().module.steps(steps.offsets, steps.batch)


def _projected(packed: Packed, c: Array, h_0: Array) -> Array | None:
    """Make the work space of a projection."""
    if packed.weight_hr is None:
        return None
    width = c.shape[1] + padded_width(h_0.shape[1], c.itemsize)
    return work_space((len(c) * width,), c.dtype)


def _room(rows: int, c: Array) -> tuple[Array, Array]:
    """Make room for the gates (rows, 4Hp) and the cells (rows, Hp)."""
    # one piece of memory: of many large ones, the C library gives some back to the system after each call
    Hp = c.shape[1]
    both = work_space((rows * 5 * Hp,), c.dtype)
    return both[: rows * 4 * Hp].reshape(rows, 4 * Hp), both[rows * 4 * Hp :].reshape(rows, Hp)


def aligned_rows(array: Array) -> Array:
    """Return an array whose rows the kernels can walk: the array itself, or a copy."""
    itemsize, strides = array.itemsize, array.strides
    fits = strides[1] == itemsize and strides[0] % itemsize == 0 and array.flags.aligned
    return array if fits else np.array(array, order="C")


def _whole(array: Array) -> Array:
    """Return an array without gaps: itself, or a copy."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")


def _last(out: Array, h_0: Array, steps: PackedSteps, *, reverse: bool) -> Array:
    """Return each sequence's h after its own last step, (B, P)."""
    T, B = len(steps), steps.batch
    running = steps.size(0) if T else 0
    if running == B and (reverse or not steps.ragged):
        return out[:B] if reverse else out[steps.bounds[T - 1] :]
    h_n = np.array(h_0)
    if reverse:
        h_n[:running] = out[:running]
    else:
        h_n[:running] = out[steps.offsets[steps.lengths[:running] - 1] + np.arange(running)]
    return h_n
