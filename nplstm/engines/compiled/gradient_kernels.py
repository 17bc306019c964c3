"""What is summed up over many rows of gradients, compiled; see ``kernels`` for the layout.

No product here is NumPy's: its BLAS has threads of its own, which go on looking for work for a while after each
call and would take cores from ours.
"""

from typing import Any

from nplstm.engines.compiled._numba import njit
from nplstm.engines.compiled.calls import withdraw
from nplstm.engines.compiled.products import (
    multiply_1,
    multiply_2,
    multiply_4,
    transposed_1,
    transposed_2,
    transposed_4,
)
from nplstm.engines.compiled.simd import TILE_ROWS, lanes, load, load_first, store

__all__ = ["DEPTH", "GROUP", "multiply_panels", "pack_rows", "sums"]

GROUP = 4
"""Panels of columns that are multiplied at once."""

DEPTH = 256
"""Rows that are summed over at a time: what is packed of them stays in the cache."""


def _by_panels(four: Any, two: Any, one: Any) -> Any:
    """Make the product with any number of panels out of those with a few."""

    @njit(nogil=True)
    def multiply(
        c: Any,
        c_start: Any,
        c_row: Any,
        a: Any,
        a_start: Any,
        a_row: Any,
        w: Any,
        K: Any,
        rows: Any,
        first: Any,
        last: Any,
    ) -> None:
        V, p = lanes(c), first
        while p < last:
            start, weights = c_start + p * V, p * K * V
            if last - p >= GROUP:
                four(c, start, c_row, V, a, a_start, a_row, w, weights, K, rows)
                p += GROUP
            elif last - p >= 2:
                two(c, start, c_row, V, a, a_start, a_row, w, weights, K, rows)
                p += 2
            else:
                one(c, start, c_row, V, a, a_start, a_row, w, weights, K, rows)
                p += 1

    return multiply


multiply_panels = _by_panels(multiply_4, multiply_2, multiply_1)
"""Adds the product of some rows with panels ``first`` to ``last`` of packed weights.

They are packed by group of panels, (K, panels, V): of GROUP, and of 2 and 1 for what is left at the end.
"""

_multiply_transposed = _by_panels(transposed_4, transposed_2, transposed_1)


def pack_rows(values: Any, first: Any, count: Any, packed: Any) -> None:
    """Pack rows (count, width) as ``multiply_panels`` reads them, with zeros past the width."""
    V, width = lanes(packed), values.shape[1]
    stride, panels = values.strides[0] // values.itemsize, (width + V - 1) // V
    for p in range(panels):
        begin, size = p // GROUP * GROUP, GROUP
        if panels - begin < GROUP:
            begin, size = (begin, 2) if panels - begin >= 2 and p - begin < 2 else (p, 1)
        there = min(V, width - p * V)
        for k in range(count):
            place = begin * count * V + (k * size + p - begin) * V
            start = (first + k) * stride + p * V
            if there == V:
                store(packed, place, load(values, start))
            else:
                store(packed, place, load_first(values, start, there))


_pack = njit(nogil=True)(pack_rows)


@njit(nogil=True)
def _sum_products(
    grad_a: Any,
    x: Any,
    row: Any,
    before: Any,
    count: Any,
    grad_weight_ih: Any,
    grad_weight_hh: Any,
    grad_bias: Any,
    first: Any,
    last: Any,
    packed: Any,
) -> None:
    """Add what ``count`` rows contribute to the gradients of some rows of W_ih, W_hh and b."""
    V, G = lanes(packed), grad_a.shape[1]
    for p in range(first // V, last // V):
        total = load(grad_bias, p * V)
        for k in range(count):
            total = total + load(grad_a, k * G + p * V)
        store(grad_bias, p * V, total)
    for k0 in range(0, count, DEPTH):
        depth = min(DEPTH, count - k0)
        for which in range(2):
            into = grad_weight_ih if which == 0 else grad_weight_hh
            width = into.shape[1]
            if which == 0:
                _pack(x, row + k0, depth, packed)
            else:
                _pack(before, k0, depth, packed)
            for r in range(first, last, TILE_ROWS):
                rows, start = min(TILE_ROWS, last - r), k0 * G + r
                _multiply_transposed(into, r * width, width, grad_a, start, G, packed, depth, rows, 0, width // V)


@njit(nogil=True)
def _input_gradient(grad_a: Any, weight: Any, grad_x: Any, row: Any, first: Any, last: Any) -> None:
    """Write ``grad_a W_ih`` of the rows ``first`` to ``last`` of a block that begins at ``row`` of ``grad_x``."""
    V, G, width = lanes(grad_x), grad_a.shape[1], grad_x.shape[1]
    for r in range(row + first, row + last):
        for p in range(width // V):
            store(grad_x, r * width + p * V, 0.0)
    start = (row + first) * width
    multiply_panels(grad_x, start, width, grad_a, first * G, G, weight, G, last - first, 0, width // V)


def sums(operands: Any) -> None:
    """Take a share of the sums over some rows of gradients, and of the input's gradient.

    The operands, in this order:

    grad_a : (rows, 4Hp)
    x : (N, I)
        Of which the rows from ``row`` on belong to ``grad_a``.
    row : int
    before : (rows, P)
        h_{t-1}.
    count : int
        Of the rows.
    grad_weight_ih, grad_weight_hh : (4Hp, Ip), (4Hp, Pp)
        Summed up; I and P rounded up to whole panels.
    grad_bias : (4Hp,)
        Summed up.
    first, last : int
        The share's rows of the gradients of the weights: whole panels.
    packed : flat
        Work space: DEPTH * the larger of Ip and Pp.
    weight_ih
        Packed for the way back.
    grad_x : (N, Ip)
        Receives the input's gradient.
    first_row, last_row : int
        The share's rows of that, counted from ``row``.
    """
    given = withdraw(operands)
    grad_a, x, row, before, count, grad_weight_ih, grad_weight_hh, grad_bias = given[:8]
    first, last, packed, weight_ih, grad_x, first_row, last_row = given[8:]
    _sum_products(grad_a, x, row, before, count, grad_weight_ih, grad_weight_hh, grad_bias, first, last, packed)
    _input_gradient(grad_a, weight_ih, grad_x, row, first_row, last_row)
