"""Diagonal (wavefront) order of a stack: layer l takes step t together with layer l + 1 at step t - 1.

For small layers the time of a step depends on the number of NumPy calls, not on their size. On diagonal d each
call serves all layers: layer l takes step t = d - l, and reads its own h and that of the layer below, both from
diagonal d - 1. By its strides a view of an array (L, T, ...) has a diagonal as one index, without a copy
(``_skewed``).

Axes: L layers, T steps, n sequences of one length, H cells.
"""

from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.engines._numpy.cell import Cell, Product, exact_sigmoids
from nplstm.engines._numpy.forward import FromInput, NumpyTape, PreparedWeights
from nplstm.engines._numpy.reversal import Reversal
from nplstm.engines._numpy.weights import bias_planes, hh_planes, hh_rows, ih_planes, ih_rows
from nplstm.engines.base import StackCall

__all__ = ["diagonal_forward", "worth_a_diagonal"]

_SMALL, _NARROW = 512, 128
"""Largest B * H and largest H for which the calls take longer than their arithmetic."""

_BLOCK_STEPS = 256
"""Steps that are run at a time, to bound the memory."""


def worth_a_diagonal(widths: list[int], steps: PackedSteps) -> bool:
    """Tell whether layers of these widths are faster in diagonal order: small, of one size, equal lengths."""
    B, H = steps.batch, widths[0]
    small = 0 < B * H <= _SMALL and H <= _NARROW and len(widths) <= len(steps)
    return small and len(widths) > 1 and len({*widths}) == 1 and not steps.ragged


class _PreparedStack(NamedTuple):
    """The weights of L layers, in the form for one sequence or in that for several."""

    first: PreparedWeights  # of the lowest layer
    hh: Array  # of all layers
    ih: Array  # of the layers above the first
    bias: Array  # of the layers above the first, (4, L - 1, 1, H)

    def product(self, first: int, last: int, shape: tuple[int, ...]) -> Product:
        """Make the product of some layers with their own h."""
        return Product(_of_layers(self.hh, first, last), (last - first, *shape))

    def product_below(self, first: int, last: int, shape: tuple[int, ...]) -> Product:
        """Make the product of some layers with the h of the layer below each."""
        return Product(_of_layers(self.ih, first - 1, last - 1), (last - first, *shape))


def _prepared(weights: list[LayerWeights], n: int) -> _PreparedStack:
    first, second, *others = weights
    hh, ih = (hh_rows, ih_rows) if n == 1 else (hh_planes, ih_planes)
    return _PreparedStack(
        PreparedWeights([first]),
        first.prepared(hh, second, *others),
        second.prepared(ih, *others),
        second.prepared(bias_planes, *others),
    )


def _of_layers(weight: Array, first: int, last: int) -> Array:
    return weight[:, first:last] if weight.ndim == 4 else weight[first:last]


def diagonal_forward(
    stack: StackCall, x: Array, steps: PackedSteps, *, record: bool
) -> tuple[Array, list[NumpyTape]]:
    """Run all layers of a stack in one direction; see ``Engine.forward_stack``."""
    T, n, L, (h_n, c_n, _) = len(steps), steps.batch, len(stack.weights), stack.final
    weights, reverse, dtype = [row[0] for row in stack.weights], stack.reverse, x.dtype
    prepared = _prepared(weights, n)
    reversal = Reversal(steps, reverse=reverse[0])
    read = reversal.whole(x)
    h_0, c = np.ascontiguousarray(stack.initial.h[:, 0]), stack.initial.c[:, 0]
    h, H = h_0, h_0.shape[2]
    kept = range(L) if record else [L - 1]  # layers whose output is kept
    outs = [np.empty((T, n, H), dtype) for _ in kept]
    cells = np.empty((L, T if record else 0, 5, n, H), dtype)
    from_input = FromInput(prepared.first, min(T, _BLOCK_STEPS) * n)
    for first in range(0, T, _BLOCK_STEPS):
        last = min(first + _BLOCK_STEPS, T)
        a = np.empty((last - first, 4, L, n, H), dtype)
        a[:, :, :1] = from_input([read[steps.span(first, last)]], n)
        a[:, :, 1:] = prepared.bias
        hs = np.empty((L, last - first + 1, n, H), dtype)
        hs[:, 0] = h
        c = _diagonals(a, hs, c, cells[:, first:last] if record else None, prepared)
        for out, k in zip(outs, kept, strict=True):
            out[first:last] = hs[k, 1:]
        h = hs[:, -1]
    h_n[:, 0], c_n[:, 0] = h, c
    rows = [reversal.whole(out.reshape(T * n, H)) for out in outs]
    if not record:
        return rows[-1], []
    below = [x, *rows[:-1]]
    return rows[-1], [
        NumpyTape([weights[k]], steps, reverse, [below[k]], h_0[k : k + 1], [rows[k]], cells[k].ravel())
        for k in range(L)
    ]


def _skewed(array: Array) -> Array:
    """View (L, T, ...) as (T + L, L, ...): at d, step d - l of layer l. Other entries must not be read."""
    (L, T), (layer, time) = array.shape[:2], array.strides[:2]
    shape, strides = (T + L, L, *array.shape[2:]), (time, layer - time, *array.strides[2:])
    return as_strided(array, shape, strides)


@exact_sigmoids
def _diagonals(a: Array, hs: Array, c: Array, cells: Array | None, stack: _PreparedStack) -> Array:
    """Run a block of steps, diagonal by diagonal; return c (L, n, H).

    ``a`` (T, 4, L, n, H) has W_ih x + b of layer 0, and the biases of the others; ``hs`` (L, T + 1, n, H) has
    h_{t-1} at t; ``cells`` (L, T, 5, n, H) receives the recording.
    """
    T, L, shape = len(a), len(hs), hs.shape[2:]
    hs, c = _skewed(hs), c.copy()
    kept = None if cells is None else _skewed(cells).swapaxes(1, 2)
    d = 0
    while d < T + L - 1:  # at the beginning one layer joins at each d, at the end one leaves
        end = T if d == L - 1 and d < T else d + 1  # of the run of diagonals with the same layers
        first, last = max(0, d - T + 1), min(L, d + 1)
        above = max(first, 1)
        cell, product = Cell(c[first:last]), stack.product(first, last, shape)
        below = stack.product_below(above, last, shape) if above < last else None
        gates_above = cell.gates[:, above - first :]
        rows = (
            a[min(d, T - 1) : end, :, first:last],
            hs[d:end, first:last],
            hs[d:end, above - 1 : last - 1],
            hs[d + 1 : end + 1, first:last],
            repeat(None) if kept is None else kept[d:end, :, first:last],
        )
        for a_d, h, h_below, h_d, kept_d in zip(*rows, strict=False):
            np.matmul(h, product.weight, product.out)
            np.add(a_d, product.planes, cell.gates)
            if below is not None:
                np.matmul(h_below, below.weight, below.out)
                np.add(gates_above, below.planes, gates_above)
            cell.step(h_d, kept_d)
        c[first:last] = cell.c
        d = end
    return c
