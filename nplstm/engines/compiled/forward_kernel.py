"""The time loop forward, compiled, of one layer in one direction; see ``kernels`` for the layout."""

from typing import Any

from nplstm.engines.compiled._numba import njit
from nplstm.engines.compiled.calls import withdraw
from nplstm.engines.compiled.functions import tanh
from nplstm.engines.compiled.products import multiply_4
from nplstm.engines.compiled.rows import Share, Span, first_row, rows_before, rows_of, time_of
from nplstm.engines.compiled.simd import fma, lanes, load, store, store_first
from nplstm.engines.compiled.waiting import wait

__all__ = ["cell_forward", "forward"]


@njit(nogil=True)
def _from_input(x: Any, weight: Any, bias: Any, gates: Any, row: Any, rows: Any, at: Any, share: Any) -> None:
    """Write ``x W_ih^T + b`` of some rows, from ``row`` on, into the gates, from ``at`` on."""
    V, G, I = lanes(gates), gates.shape[1], x.shape[1]
    stride = x.strides[0] // x.itemsize
    for p in range(share.first_panel, share.last_panel):
        start = at * G + p * 4 * V
        for k in range(4):
            b = load(bias, (p * 4 + k) * V)
            for r in range(rows):
                store(gates, start + r * G + k * V, b)
        multiply_4(gates, start, G, V, x, row * stride, stride, weight, p * I * 4 * V, I, rows)


@njit(nogil=True)
def _gates_at(row: Any, s: Any, first: Any, base: Any, span: Any, share: Any, whole: Any) -> Any:
    """Return where a share has the gates of a step: where its rows are, or in a block's room of its own."""
    if span.keep:
        return row
    return row - base if whole else (s - first) * (share.last - share.first)


@njit(nogil=True)
def _block_from_input(
    x: Any,
    weight: Any,
    bias: Any,
    gates: Any,
    offsets: Any,
    first: Any,
    last: Any,
    base: Any,
    span: Any,
    share: Any,
    whole: Any,
) -> None:
    """Do the same for a block of steps: at once, where the share has all sequences."""
    if whole:
        end = offsets[time_of(offsets, first if span.reverse else last - 1, span.reverse) + 1]
        at = _gates_at(base, first, first, base, span, share, whole)
        _from_input(x, weight, bias, gates, base, end - base, at, share)
    else:
        for s in range(first, last):
            row, rows = rows_of(offsets, s, span.reverse, share)
            at = _gates_at(row, s, first, base, span, share, whole)
            _from_input(x, weight, bias, gates, row, rows, at, share)


@njit(nogil=True, error_model="numpy", inline="always")
def cell_forward(
    gates: Any,
    c: Any,
    cells: Any,
    out: Any,
    g: Any,
    place: Any,
    kept: Any,
    h: Any,
    missing: Any,
    keep: Any,
) -> None:
    """Take one step of V cells of one sequence: the equations of ``lstm_cell_forward``.

    ``g``, ``place``, ``kept`` and ``h`` are offsets in ``gates``, ``c``, ``cells`` and ``out``; the last
    ``missing`` lanes are not there in ``out``.
    """
    V = lanes(c)
    i_t = fma(tanh(load(gates, g)), 0.5, 0.5)
    f_t = fma(tanh(load(gates, g + V)), 0.5, 0.5)
    g_t = tanh(load(gates, g + 2 * V))
    o_t = fma(tanh(load(gates, g + 3 * V)), 0.5, 0.5)
    c_t = fma(f_t, load(c, place), i_t * g_t)
    h_t = o_t * tanh(c_t)
    store(c, place, c_t)
    if missing > 0:
        store_first(out, h, lanes(c) - missing, h_t)
    else:
        store(out, h, h_t)
    if keep:
        store(gates, g, i_t)
        store(gates, g + V, f_t)
        store(gates, g + 2 * V, g_t)
        store(gates, g + 3 * V, o_t)
        store(cells, kept, c_t)


def forward(operands: Any) -> None:
    """Run a share of a layer.

    The operands, in this order:

    x : (N, I)
    weight_ih, weight_hh, bias
        Packed.
    h_0 : (B, P)
    c : (B, Hp)
        Each sequence's initial cell state; overwritten with its final one.
    out : (N, P)
        Receives h_t, and is read for h_{t-1}.
    gates : (rows, 4Hp)
        Work space for a block of steps, of which shares by sequences have one each: where sequences end at
        different steps, one share's rows of a block are where another's are in the next. With ``span.keep``
        receives i, f, g, o of all rows.
    cells : (rows, Hp)
        With ``span.keep`` receives c_t of all rows.
    offsets : (T + 1,)
        Of the rows of each step.
    progress : (members * LINE,)
        Zeros, for the threads to wait by.
    *span : Span
    *share : Share
    """
    given = withdraw(operands)
    x, weight_ih, weight_hh, bias, h_0, c, out, gates, cells, offsets, progress = given[:11]
    span, share = Span(*given[11:14]), Share(*given[14:])
    V, Hp, P = lanes(c), c.shape[1], out.shape[1]
    G, h_row, out_row = 4 * Hp, h_0.strides[0] // h_0.itemsize, out.strides[0] // out.itemsize
    reverse, whole = span.reverse, share.first == 0 and share.last >= offsets[1]
    steps = len(offsets) - 1
    for first in range(0, steps, span.block):
        last = min(first + span.block, steps)
        base = first_row(offsets, first, last, reverse)
        _block_from_input(x, weight_ih, bias, gates, offsets, first, last, base, span, share, whole)
        for s in range(first, last):
            row, rows = rows_of(offsets, s, reverse, share)
            before, began = rows_before(offsets, s, rows, reverse, share)
            at = _gates_at(row, s, first, base, span, share, whole)
            for panel in range(share.first_panel, share.last_panel):
                # every other step in the other order: the weights read last are still in the cache
                p = panel if s % 2 == 0 else share.first_panel + share.last_panel - 1 - panel
                start, weight = at * G + p * 4 * V, p * P * 4 * V
                multiply_4(gates, start, G, V, out, before * out_row, out_row, weight_hh, weight, P, began)
                start, h = start + began * G, (share.first + began) * h_row
                multiply_4(gates, start, G, V, h_0, h, h_row, weight_hh, weight, P, rows - began)
                missing = max(0, (p + 1) * V - P)
                for r in range(rows):
                    g, kept = (at + r) * G + p * 4 * V, (at + r) * Hp + p * V
                    place, h = (share.first + r) * Hp + p * V, (row + r) * out_row + p * V
                    cell_forward(gates, c, cells, out, g, place, kept, h, missing, span.keep)
            if share.members > 1:
                wait(progress, share.member, share.members, s + 1)
