"""The way forward of the NumPy engine.

All lanes run from their first row to their last: what runs in reverse has its sequences turned around before and
after, so that the lanes have the same number of sequences at each step.

Axes: S lanes, N rows, n sequences of a step, H cells. ``cells`` (S, 5, N, H) has planes for o, i, f, g and
c_{t-1}.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.engines._numpy.weights import Ordered, ordered
from nplstm.engines.base import Lane
from nplstm.recurrence import Recurrence, State
from nplstm.steps import Steps

__all__ = ["NumpyTape", "numpy_forward", "segments", "turned"]

_BLOCK_ROWS = 1024
"""Rows of input that are transformed at once: enough for an efficient product, and a bound on the memory."""


class NumpyTape(NamedTuple):
    """What backpropagation through time needs of one layer in one direction."""

    recurrence: Recurrence
    steps: Steps
    reverse: bool
    x: Array  # (N, I)
    h_0: Array  # (B, H)
    out: Array  # (N, H)  h_t
    cells: Array  # (S, 5, N, H)  o, i, f, g, c_{t-1} of all directions of the layer, in the order of processing


def turned(rows: Array, steps: Steps, *, reverse: bool) -> Array:
    """Turn each sequence around, if the lane runs in reverse; twice is once."""
    if not reverse:
        return rows
    if steps.total == len(steps) * steps.batch:
        by_step = rows.reshape(len(steps), steps.batch, rows.shape[1])
        return by_step[::-1].reshape(rows.shape)
    return rows[steps.turned_rows()]


def segments(steps: Steps, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Cut steps into runs with the same number of sequences: (first step, last step, sequences)."""
    changes = np.flatnonzero(np.diff(steps.batch_sizes[first:last])) + 1
    for a, b in pairwise([first, *(first + changes).tolist(), last]):
        yield a, b, steps.size(a)


def numpy_forward(lanes: list[Lane], steps: Steps, *, record: bool) -> list[tuple[State, NumpyTape | None]]:
    """Run the lanes; see ``Engine.forward``."""
    H = lanes[0].initial.c.shape[1]
    params = [lane.recurrence.prepared("numpy", ordered) for lane in lanes]
    weights = _stacked([p.weight_hh for p in params]), _stacked([p.weight_row for p in params])
    xs = [turned(lane.x, steps, reverse=lane.reverse) for lane in lanes]
    h, c = np.stack([lane.initial.h for lane in lanes]), np.stack([lane.initial.c for lane in lanes])
    h_0 = h.copy() if record else h
    direct = len(lanes) == 1 and not lanes[0].reverse
    out = lanes[0].out[None] if direct else np.empty((len(lanes), steps.total, H), h.dtype)
    cells = np.empty((len(lanes), 5, steps.total if record else 0, H), h.dtype)
    final_h, final_c = h.copy(), c.copy()
    for block in steps.blocks(_BLOCK_ROWS, reverse=False):
        rows = steps.rows(block[0], block[-1])
        kept = cells[:, :, rows] if record else np.empty((len(lanes), 5, rows.stop - rows.start, H), h.dtype)
        _from_input(xs, params, rows, kept)
        for first, last, n in segments(steps, block[0], block[-1] + 1):
            if n < h.shape[1]:
                final_h[:, n : h.shape[1]], final_c[:, n : h.shape[1]] = h[:, n:], c[:, n:]
            part = steps.rows(first, last - 1)
            inner = slice(part.start - rows.start, part.stop - rows.start)
            h, c = _steps(kept[:, :, inner], h[:, :n], c[:, :n], weights, out[:, part], last - first)
    n = h.shape[1]
    final_h[:, :n], final_c[:, :n] = h, c
    results: list[tuple[State, NumpyTape | None]] = []
    for k, lane in enumerate(lanes):
        if not direct:
            lane.out[...] = turned(out[k], steps, reverse=lane.reverse)
        kept = (lane.x, h_0[k], lane.out, cells)
        tape = NumpyTape(lane.recurrence, steps, lane.reverse, *kept) if record else None
        results.append((State(final_h[k], final_c[k]), tape))
    return results


def _stacked(arrays: list[Array]) -> Array:
    """Put the lanes' arrays together; one alone is not copied."""
    return np.stack(arrays) if len(arrays) > 1 else arrays[0][None]


def _from_input(xs: list[Array], params: list[Ordered], rows: slice, cells: Array) -> None:
    """Write ``x W_ih^T + b`` of a block of rows into its gates."""
    for x, p, planes in zip(xs, params, cells, strict=True):
        np.matmul(x[rows], p.weight_ih, out=planes[:4])
        planes[:4] += p.bias


def _steps(
    cells: Array, h: Array, c: Array, weights: tuple[Array, Array], out: Array, count: int
) -> tuple[Array, Array]:
    """Run ``count`` steps of as many sequences each; return the state after them.

    ``cells`` (S, 5, count * n, H) has the input's share, and receives o, i, f, g and c_{t-1}; ``out`` receives
    h_t.
    """
    S, n, H = h.shape
    by_step = cells.reshape(S, 5, count, n, H).transpose(2, 0, 1, 3, 4)
    hs = out.reshape(S, count, n, H).swapaxes(0, 1)
    by_step[0, :, 4] = c
    planes, pair, tanh_c = (np.empty((S, k, n, H), h.dtype) for k in (4, 2, 1))
    tanh_c, i_g, f_c, last_c = tanh_c[:, 0], pair[:, 0], pair[:, 1], np.empty((S, n, H), h.dtype)
    following = [*by_step[1:, :, 4], last_c]
    # the planes of a single sequence are one row, for which one product does
    weight, product = (weights[1], planes.reshape(S, 1, 4 * H)) if n == 1 else (weights[0], planes)
    read, reads = (h, hs) if n == 1 else (h[:, None], hs[:, :, None])
    # what would be cut out at each step is cut out once
    views = (by_step[:, :, part] for part in (slice(0, 4), slice(0, 3), slice(1, 3), slice(3, 5), 0))
    matmul, add, multiply, tanh = np.matmul, np.add, np.multiply, np.tanh
    half = np.array(0.5, h.dtype)  # a Python number would be converted at each call
    for gates, sigmoids, i_f, g_c, o, c_t, h_t, h_read in zip(*views, following, hs, reads, strict=True):
        matmul(read, weight, out=product)
        add(gates, planes, out=gates)
        tanh(gates, out=gates)
        multiply(sigmoids, half, out=sigmoids)
        add(sigmoids, half, out=sigmoids)
        multiply(i_f, g_c, out=pair)
        add(i_g, f_c, out=c_t)
        tanh(c_t, out=tanh_c)
        multiply(o, tanh_c, out=h_t)
        read = h_read
    return hs[-1], last_c
