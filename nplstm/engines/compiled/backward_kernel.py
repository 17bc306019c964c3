"""The time loop back through time, compiled, of one layer in one direction; see ``kernels`` for the layout."""

from typing import Any

from nplstm.engines.compiled._numba import njit
from nplstm.engines.compiled.calls import withdraw
from nplstm.engines.compiled.functions import tanh
from nplstm.engines.compiled.gradient_kernels import multiply_panels
from nplstm.engines.compiled.rows import Share, first_row, rows_before, rows_of, time_of
from nplstm.engines.compiled.simd import fma, lanes, load, load_first, store
from nplstm.engines.compiled.waiting import wait

__all__ = ["backward", "previous"]


@njit(nogil=True, error_model="numpy", inline="always")
def _cell_backward(
    gates: Any,
    cells: Any,
    before: Any,
    grad_a: Any,
    grad_c: Any,
    grad_h: Any,
    g: Any,
    c: Any,
    b: Any,
    a: Any,
    place: Any,
) -> None:
    """Take one step of V cells of one sequence back: the equations of ``lstm_cell_backward``."""
    V = lanes(grad_c)
    i_t, f_t = load(gates, g), load(gates, g + V)
    g_t, o_t = load(gates, g + 2 * V), load(gates, g + 3 * V)
    tanh_c = tanh(load(cells, c))
    grad_c_t = fma(grad_h * o_t, 1.0 - tanh_c * tanh_c, load(grad_c, place))
    store(grad_a, a, grad_c_t * g_t * i_t * (1.0 - i_t))
    store(grad_a, a + V, grad_c_t * load(before, b) * f_t * (1.0 - f_t))
    store(grad_a, a + 2 * V, grad_c_t * i_t * (1.0 - g_t * g_t))
    store(grad_a, a + 3 * V, grad_h * tanh_c * o_t * (1.0 - o_t))
    store(grad_c, place, grad_c_t * f_t)


def backward(operands: Any) -> None:
    """Run a share of some steps back, from the last to the first.

    The operands, in this order:

    grad_out : (N, P)
        d loss / d h_t, without what later steps add.
    weight_hh
        Packed for the way back.
    grad_h, grad_c : (B, Hp)
        Gradients of each sequence's state after the steps; overwritten with those of the state before them.
    c_0 : (B, Hp)
        Each sequence's initial cell state.
    gates, cells
        What ``forward`` kept.
    grad_a : (rows, 4Hp)
        Receives the gradients of the pre-activations of these steps.
    offsets, progress
        As for ``forward``.
    reverse : bool
    first, last : int
        The steps, in the order of processing.
    *share : Share
    """
    given = withdraw(operands)
    grad_out, weight_hh, grad_h, grad_c, c_0, gates, cells, grad_a = given[:8]
    offsets, progress, reverse, first, last = given[8:13]
    share = Share(*given[13:])
    V, Hp, P = lanes(grad_c), grad_c.shape[1], grad_out.shape[1]
    G, out_row = 4 * Hp, grad_out.strides[0] // grad_out.itemsize
    base = first_row(offsets, first, last, reverse)
    count = 0
    for s in range(last - 1, first - 1, -1):
        row, rows = rows_of(offsets, s, reverse, share)
        before, began = rows_before(offsets, s, rows, reverse, share)
        for p in range(share.first_panel, share.last_panel):
            missing = max(0, (p + 1) * V - P)
            for r in range(rows):
                place, out = (share.first + r) * Hp + p * V, (row + r) * out_row + p * V
                if missing > 0:
                    grad_h_t = load_first(grad_out, out, V - missing) + load(grad_h, place)
                else:
                    grad_h_t = load(grad_out, out) + load(grad_h, place)
                g, a = (row + r) * G + p * 4 * V, (row + r - base) * G + p * 4 * V
                c = (row + r) * Hp + p * V
                if r < began:
                    b = (before + r) * Hp + p * V
                    _cell_backward(gates, cells, cells, grad_a, grad_c, grad_h_t, g, c, b, a, place)
                else:
                    _cell_backward(gates, cells, c_0, grad_a, grad_c, grad_h_t, g, c, place, a, place)
        if share.members > 1:
            wait(progress, share.member, share.members, count + 1)
        for r in range(share.first, share.first + rows):
            for p in range(share.first_panel, share.last_panel):
                store(grad_h, r * Hp + p * V, 0.0)
        multiply_panels(
            grad_h,
            share.first * Hp,
            Hp,
            grad_a,
            (row - base) * G,
            G,
            weight_hh,
            G,
            rows,
            share.first_panel,
            share.last_panel,
        )
        if share.members > 1:
            wait(progress, share.member, share.members, count + 2)
        count += 2


def previous(out: Any, h_0: Any, offsets: Any, first: Any, last: Any, reverse: Any, into: Any) -> None:
    """Write h_{t-1} of all rows of some steps into ``into``."""
    base = first_row(offsets, first, last, reverse)
    for s in range(first, last):
        t = time_of(offsets, s, reverse)
        row, rows = offsets[t], offsets[t + 1] - offsets[t]
        before, began = 0, 0
        if s > 0:
            q = time_of(offsets, s - 1, reverse)
            before, began = offsets[q], min(rows, offsets[q + 1] - offsets[q])
        for r in range(rows):
            for k in range(out.shape[1]):
                into[row + r - base, k] = out[before + r, k] if r < began else h_0[r, k]
