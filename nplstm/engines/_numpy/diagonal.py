"""The layers of a stack along the diagonal: layer l takes step t together with layer l + 1 at step t - 1.

Where layers are small the number of calls is what a step costs, whatever they compute. On a diagonal all layers
are one set of calls: layer l at step t = d - l reads its own h and that of the layer below, both from the diagonal
before. That is a matter of strides: seen with a step less for each layer up, a diagonal is an array like any
other.

Axes: L layers, T steps, n sequences of one length, H cells. ``cells`` (L, T + 1, 5, n, H) has planes for o, i, f,
g and c_{t-1}, ``hs`` (L, T + 1, n, H) has h_{t-1}, each at t.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nplstm._typing import Array
from nplstm.engines._numpy.forward import NumpyTape, turned
from nplstm.engines._numpy.weights import Ordered, ordered
from nplstm.engines.base import Lane
from nplstm.recurrence import State
from nplstm.steps import Steps

__all__ = ["diagonal_forward", "worth_a_diagonal"]

_SMALL, _NARROW = 512, 128
"""Cells of a layer, in all sequences and in one, up to which its calls cost more than what they compute."""

_BLOCK_STEPS = 256
"""Steps at a time, without recording: a bound on the memory."""


def worth_a_diagonal(widths: list[int], steps: Steps) -> bool:
    """Tell whether layers of these widths are faster together: small, of one size, in a batch of one length."""
    B, T = steps.batch, len(steps)
    small = 0 < B * widths[0] <= _SMALL and len(widths) <= T
    return small and len(widths) > 1 and len({*widths}) == 1 and steps.total == T * B


def diagonal_forward(lanes: list[Lane], steps: Steps, *, record: bool) -> list[tuple[State, NumpyTape | None]]:
    """Run all layers of a stack in one direction; see ``Engine.forward_stack``."""
    params = [lane.recurrence.prepared("numpy", ordered) for lane in lanes]
    weights = _weights(params, row=steps.batch == 1)
    reverse = lanes[0].reverse
    T, n, L, dtype = len(steps), steps.batch, len(lanes), lanes[0].x.dtype
    H = lanes[0].initial.h.shape[1]
    x = turned(lanes[0].x, steps, reverse=reverse).reshape(T, n, lanes[0].x.shape[1])
    h, c = np.stack([lane.initial.h for lane in lanes]), np.stack([lane.initial.c for lane in lanes])
    h_0, out = h, np.empty((L, T, n, H), dtype)
    cells = np.empty((0,), dtype)
    block = T if record else min(T, _BLOCK_STEPS)
    for first in range(0, T, block):
        last = min(first + block, T)
        cells = np.empty((L, last - first + 1, 5, n, H), dtype)
        hs = np.empty((L, last - first + 1, n, H), dtype)
        cells[:, 0, 4], hs[:, 0] = c, h
        _from_input(x[first:last], params, cells)
        _diagonals(cells, hs, weights)
        out[:, first:last] = hs[:, 1:]
        h, c = hs[:, -1], cells[:, -1, 4]
    results: list[tuple[State, NumpyTape | None]] = []
    for k, lane in enumerate(lanes):
        lane.out[...] = turned(out[k].reshape(T * n, H), steps, reverse=reverse)
        tape = None
        if record:
            own = cells[k : k + 1, :T].reshape(1, 5 * T * n, H)
            tape = NumpyTape(lane.recurrence, steps, reverse, lane.x, h_0[k], lane.out, own)
        results.append((State(h[k].copy(), c[k].copy()), tape))
    return results


class _Weights(NamedTuple):
    """Of all layers; in the form for one row, or for planes."""

    hh: Array  # (L, H, 4H), or (L, 4, H, H)
    ih: Array  # of the layers above the first


def _weights(params: list[Ordered], *, row: bool) -> _Weights:
    if row:
        hh, ih = [p.weight_row for p in params], [p.input_row for p in params[1:]]
    else:
        hh, ih = [p.weight_hh for p in params], [p.weight_ih for p in params[1:]]
    return _Weights(np.stack(hh), np.stack(ih))


def _from_input(x: Array, params: list[Ordered], cells: Array) -> None:
    """Write ``x W_ih^T + b`` of the first layer into its gates, and the bias of the others into theirs."""
    T, n, I = x.shape
    cells[1:, :T, :4] = np.stack([p.bias for p in params[1:]])[:, None]
    for first in range(0, T, _BLOCK_STEPS):  # as without recording, whose results are the same to the bit
        part = x[first : first + _BLOCK_STEPS]
        planes = np.matmul(part.reshape(-1, I), params[0].weight_ih)
        planes += params[0].bias
        cells[0, first : first + len(part), :4] = planes.reshape(4, len(part), n, -1).swapaxes(0, 1)


def _skewed(array: Array) -> Array:
    """Return (T + L, L, ...) of (L, T, ...): at d, each layer's step d - l. What is outside must not be read."""
    (L, T), (layer, time) = array.shape[:2], array.strides[:2]
    shape, strides = (T + L, L, *array.shape[2:]), (time, layer - time, *array.strides[2:])
    return as_strided(array, shape, strides)


def _diagonals(cells: Array, hs: Array, weights: _Weights) -> None:
    """Run the layers, diagonal by diagonal: one more at each step at first, and at last one less."""
    L, T = len(cells), cells.shape[1] - 1
    cells, hs = _skewed(cells), _skewed(hs)
    d = 0
    while d < T + L - 1:
        end = T if d == L - 1 and d < T else d + 1  # of the diagonals that have the same layers
        _run(cells, hs, weights, d, end, max(0, d - T + 1), min(L, d + 1))
        d = end


def _run(cells: Array, hs: Array, weights: _Weights, begin: int, end: int, first: int, last: int) -> None:
    """Run the diagonals ``begin`` to ``end`` of the layers ``first`` to ``last``."""
    n, H = cells.shape[3:]
    count, above, row = last - first, max(first, 1), n == 1
    planes, pair, tanh_c = (np.empty((count, k, n, H), cells.dtype) for k in (4, 2, 1))
    i_g, f_c, tanh_c = pair[:, 0], pair[:, 1], tanh_c[:, 0]
    upper = planes[above - first :]
    product, product_above = (p.reshape(len(p), 1, 4 * H) if row else p for p in (planes, upper))
    hh, ih = weights.hh[first:last], weights.ih[above - 1 : last - 1]
    own, below = hs[begin:end, first:last], hs[begin:end, above - 1 : last - 1]
    if not row:
        own, below = own[:, :, None], below[:, :, None]
    now, half = cells[begin:end, first:last], np.array(0.5, cells.dtype)
    views = (now[:, :, part] for part in (slice(0, 4), slice(0, 3), slice(1, 3), slice(3, 5), 0))
    following = (cells[begin + 1 : end + 1, first:last, 4], hs[begin + 1 : end + 1, first:last])
    matmul, add, multiply, tanh = np.matmul, np.add, np.multiply, np.tanh
    gates_above = now[:, above - first :, :4]
    for gates, sigmoids, i_f, g_c, o, c_t, h_t, h, h_below, gates_up in zip(
        *views, *following, own, below, gates_above, strict=True
    ):
        matmul(h, hh, out=product)
        add(gates, planes, out=gates)
        if len(upper):
            matmul(h_below, ih, out=product_above)
            add(gates_up, upper, out=gates_up)
        tanh(gates, out=gates)
        multiply(sigmoids, half, out=sigmoids)
        add(sigmoids, half, out=sigmoids)
        multiply(i_f, g_c, out=pair)
        add(i_g, f_c, out=c_t)
        tanh(c_t, out=tanh_c)
        multiply(o, tanh_c, out=h_t)
