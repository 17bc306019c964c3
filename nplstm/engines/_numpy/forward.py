"""The way forward of the NumPy engine.

All lanes run from their first row to their last: what runs in reverse has its sequences turned around before and
after, so that the lanes have the same number of sequences at each step.

Axes: S lanes, N rows, n sequences of a step, H cells. ``cells`` (S, 5N, H) has for each step planes (5, n, H) of
o, i, f, g and c_{t-1}: what the calls of a step read and write lies side by side.
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

__all__ = ["NumpyTape", "Turn", "numpy_forward", "segments", "turned"]

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
    cells: Array  # (S, 5N, H)  o, i, f, g, c_{t-1} of all directions of the layer, in the order of processing


def turned(rows: Array, steps: Steps, *, reverse: bool) -> Array:
    """Turn each sequence around, if the lane runs in reverse; twice is once."""
    if not reverse:
        return rows
    if steps.total == len(steps) * steps.batch:
        by_step = rows.reshape(len(steps), steps.batch, rows.shape[1])
        return by_step[::-1].reshape(rows.shape)
    return rows[steps.turned_rows()]


class Turn:
    """Where the rows of some steps of the processing are in packed data."""

    def __init__(self, steps: Steps, *, reverse: bool) -> None:
        self._steps = steps
        self._reverse = reverse
        self._equal = steps.total == len(steps) * steps.batch
        self._places = steps.turned_rows() if reverse and not self._equal else None

    def read(self, values: Array, first: int, last: int) -> Array:
        """Return the rows of the steps ``first`` to ``last``; where they are turned around, a copy."""
        if self._places is not None:
            return values[self._places[self._steps.rows(first, last - 1)]]
        rows = values[self._rows(first, last)]
        return self._turned(rows, last - first) if self._reverse else rows

    def write(self, into: Array, first: int, last: int, values: Array) -> None:
        """Write the rows of these steps to their places."""
        if self._places is not None:
            into[self._places[self._steps.rows(first, last - 1)]] = values
        else:
            into[self._rows(first, last)] = self._turned(values, last - first) if self._reverse else values

    def _rows(self, first: int, last: int) -> slice:
        T = len(self._steps)
        return self._steps.rows(T - last, T - first - 1) if self._reverse else self._steps.rows(first, last - 1)

    @staticmethod
    def _turned(rows: Array, count: int) -> Array:
        """Turn steps of as many sequences each around."""
        return rows.reshape(count, len(rows) // count, -1)[::-1].reshape(rows.shape)


def segments(steps: Steps, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Cut steps into runs with the same number of sequences: (first step, last step, sequences)."""
    changes = np.flatnonzero(np.diff(steps.batch_sizes[first:last])) + 1
    for a, b in pairwise([first, *(first + changes).tolist(), last]):
        if steps.size(a):
            yield a, b, steps.size(a)


def numpy_forward(lanes: list[Lane], steps: Steps, *, record: bool) -> list[tuple[State, NumpyTape | None]]:
    """Run the lanes; see ``Engine.forward``."""
    H = lanes[0].initial.c.shape[1]
    params = [lane.recurrence.prepared("numpy", ordered) for lane in lanes]
    h, c = np.stack([lane.initial.h for lane in lanes]), np.stack([lane.initial.c for lane in lanes])
    h_0 = h.copy() if record else h
    direct = len(lanes) == 1 and not lanes[0].reverse
    turns = [Turn(steps, reverse=lane.reverse) for lane in lanes]
    cells = np.empty((len(lanes), 5 * steps.total if record else 0, H), h.dtype)
    final_h, final_c = h.copy(), c.copy()
    for block in steps.blocks(_BLOCK_ROWS, reverse=False):
        for first, last, n in segments(steps, block[0], block[-1] + 1):
            if n < h.shape[1]:
                final_h[:, n : h.shape[1]], final_c[:, n : h.shape[1]] = h[:, n:], c[:, n:]
            rows = steps.rows(first, last - 1)
            planes = slice(5 * rows.start, 5 * rows.stop)
            kept = cells[:, planes] if record else np.empty((len(lanes), planes.stop - planes.start, H), h.dtype)
            by_step = kept.reshape(len(lanes), last - first, 5, n, H)
            xs = [turn.read(lane.x, first, last) for turn, lane in zip(turns, lanes, strict=True)]
            out = lanes[0].out[None, rows] if direct else np.empty((len(lanes), len(xs[0]), H), h.dtype)
            h, c = _steps(by_step, _from_input(xs, params, n), h[:, :n], c[:, :n], params, out)
            if not direct:
                for turn, lane, values in zip(turns, lanes, out, strict=True):
                    turn.write(lane.out, first, last, values)
    n = h.shape[1]
    final_h[:, :n], final_c[:, :n] = h, c
    results: list[tuple[State, NumpyTape | None]] = []
    for k, lane in enumerate(lanes):
        kept = (lane.x, h_0[k], lane.out, cells)
        tape = NumpyTape(lane.recurrence, steps, lane.reverse, *kept) if record else None
        results.append((State(final_h[k], final_c[k]), tape))
    return results


def _stacked(arrays: list[Array]) -> Array:
    """Put the lanes' arrays together; one alone is not copied."""
    return np.stack(arrays) if len(arrays) > 1 else arrays[0][None]


def _from_input(xs: list[Array], params: list[Ordered], n: int) -> Array:
    """Return ``x W_ih^T + b`` of some steps of n sequences, (S, steps, 4, n, H)."""
    count, H = len(xs[0]) // n, params[0].bias.shape[2]
    if n == 1:  # whose planes are one row
        rows = np.empty((len(xs), count, 4 * H), xs[0].dtype)
        for k, (x, p) in enumerate(zip(xs, params, strict=True)):
            np.matmul(x, p.input_row, out=rows[k])
            rows[k] += p.bias.ravel()
        return rows.reshape(len(xs), count, 4, 1, H)
    planes = np.empty((len(xs), 4, count * n, H), xs[0].dtype)
    for k, (x, p) in enumerate(zip(xs, params, strict=True)):
        np.matmul(x, p.weight_ih, out=planes[k])
        planes[k] += p.bias
    return planes.reshape(len(xs), 4, count, n, H).swapaxes(1, 2)


def _steps(
    cells: Array, from_input: Array, h: Array, c: Array, params: list[Ordered], out: Array
) -> tuple[Array, Array]:
    """Run steps of as many sequences each; return the state after them.

    ``cells`` (S, steps, 5, n, H) receives o, i, f, g and c_{t-1}; ``out`` (S, rows, H) receives h_t.
    """
    S, count, _, n, H = cells.shape
    by_step, given = cells.swapaxes(0, 1), from_input.swapaxes(0, 1)
    hs = out.reshape(S, count, n, H).swapaxes(0, 1)
    by_step[0, :, 4] = c
    planes, pair, tanh_c = (np.empty((S, k, n, H), h.dtype) for k in (4, 2, 1))
    tanh_c, i_g, f_c, last_c = tanh_c[:, 0], pair[:, 0], pair[:, 1], np.empty((S, n, H), h.dtype)
    following = [*by_step[1:, :, 4], last_c]
    if n == 1:
        weight, product = _stacked([p.weight_row for p in params]), planes.reshape(S, 1, 4 * H)
        read, reads = h, hs
    else:
        weight, product = _stacked([p.weight_hh for p in params]), planes
        read, reads = h[:, None], hs[:, :, None]
    # what would be cut out at each step is cut out once
    views = (by_step[:, :, part] for part in (slice(0, 4), slice(0, 3), slice(1, 3), slice(3, 5), 0))
    matmul, add, multiply, tanh = np.matmul, np.add, np.multiply, np.tanh
    half = np.array(0.5, h.dtype)  # a Python number would be converted at each call
    for gates, sigmoids, i_f, g_c, o, given_t, c_t, h_t, h_read in zip(
        *views, given, following, hs, reads, strict=True
    ):
        matmul(read, weight, out=product)
        add(given_t, planes, out=gates)
        tanh(gates, out=gates)
        multiply(sigmoids, half, out=sigmoids)
        add(sigmoids, half, out=sigmoids)
        multiply(i_f, g_c, out=pair)
        add(i_g, f_c, out=c_t)
        tanh(c_t, out=tanh_c)
        multiply(o, tanh_c, out=h_t)
        read = h_read
    return hs[-1], last_c
