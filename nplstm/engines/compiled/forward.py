"""The way forward of the compiled engine: what the kernels are given, and what a recording keeps."""

from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps
from nplstm.core.step import Recurrence, State
from nplstm.engines._numpy.memory import aligned_empty
from nplstm.engines.base import Lane
from nplstm.engines.compiled.library import library
from nplstm.engines.compiled.packing import Packed, pack, padded_cells, padded_width
from nplstm.engines.threads import get_num_threads

__all__ = ["CompiledTape", "aligned_rows", "compiled_forward"]


class CompiledTape(NamedTuple):
    """What backpropagation through time needs of one layer in one direction."""

    recurrence: Recurrence
    steps: PackedSteps
    reverse: bool
    x: Array  # (N, I)
    out: Array  # (N, P)  h_t
    h_0: Array  # (B, P)
    c_0: Array  # (B, Hp)
    gates: Array  # (N, 4Hp)  i, f, g, o
    cells: Array  # (N, Hp)  c_t


def compiled_forward(
    lanes: list[Lane], steps: PackedSteps, *, record: bool
) -> list[tuple[State, CompiledTape | None]]:
    """Run the lanes; see ``Engine.forward``."""
    found = library()
    given = [_operands(lane, steps, record=record) for lane in lanes]
    starts = [operands[5].copy() if record else operands[5] for operands in given]
    checked = found.module.steps(steps.offsets, steps.batch)
    found.module.forward(found.choice, tuple(given), checked, get_num_threads())
    return [_result(lane, steps, operands, c_0) for lane, operands, c_0 in zip(lanes, given, starts, strict=True)]


def _operands(lane: Lane, steps: PackedSteps, *, record: bool) -> tuple[Any, ...]:
    """Return what ``forward`` of the kernels takes of a lane."""
    packed, spec = pack(lane.recurrence), lane.recurrence.spec
    h_0 = lane.initial.h.copy() if record else aligned_rows(lane.initial.h)  # a tape shares nothing with the user
    c, H = padded_cells(lane.initial.c), lane.initial.c.shape[1]
    room = _room(steps.total, c) if record else (None, None)
    weights = (packed.weight_ih, packed.weight_hh, packed.bias)
    return (
        *(aligned_rows(lane.x), *weights, h_0, c, lane.out, lane.reverse, *room),
        *(H, packed.peephole, spec.clip or 0.0, packed.weight_hr, _projected(packed, c, h_0)),
    )


def _projected(packed: Packed, c: Array, h_0: Array) -> Array | None:
    """Make the work space of a projection."""
    if packed.weight_hr is None:
        return None
    width = c.shape[1] + padded_width(h_0.shape[1], c.itemsize)
    return aligned_empty((len(c) * width,), c.dtype)


def _room(rows: int, c: Array) -> tuple[Array, Array]:
    """Make room for the gates (rows, 4Hp) and the cells (rows, Hp)."""
    # one piece of memory: of many large ones, the C library gives some back to the system after each call
    Hp = c.shape[1]
    both = aligned_empty((rows * 5 * Hp,), c.dtype)
    return both[: rows * 4 * Hp].reshape(rows, 4 * Hp), both[rows * 4 * Hp :].reshape(rows, Hp)


def _result(
    lane: Lane, steps: PackedSteps, operands: tuple[Any, ...], c_0: Array
) -> tuple[State, CompiledTape | None]:
    x, _, _, _, h_0, c, out, reverse, gates, cells, H, *_ = operands
    final = State(_last(out, h_0, steps, reverse=reverse), c if c.shape[1] == H else c[:, :H].copy())
    if gates is None:
        return final, None
    return final, CompiledTape(lane.recurrence, steps, reverse, x, out, h_0, c_0, gates, cells)


def aligned_rows(array: Array) -> Array:
    """Return an array whose rows the kernels can walk: the array itself, or a copy."""
    itemsize = array.itemsize
    fits = array.strides[1] == itemsize and array.strides[0] % itemsize == 0 and array.flags.aligned
    return array if fits else np.array(array, order="C")


def _last(out: Array, h_0: Array, steps: PackedSteps, *, reverse: bool) -> Array:
    """Return each sequence's h after its own last step, (B, P)."""
    h_n = np.array(h_0)
    T = len(steps)
    if T and reverse:
        h_n[: steps.size(0)] = out[: steps.size(0)]
    elif T and steps.size(T - 1) == steps.batch:
        h_n[...] = out[steps.bounds[T - 1] :]
    elif T:
        lengths = steps.lengths
        n = steps.size(0)
        h_n[:n] = out[steps.offsets[lengths[:n] - 1] + np.arange(n)]
    return h_n
