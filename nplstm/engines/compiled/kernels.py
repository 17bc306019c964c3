"""The time loop, compiled: one layer in one direction, forward and back through time.

Both walk packed rows (see ``steps``) in the order of processing, like ``sequence.py``. Several threads may share
the work, by sequences or by cells (see ``Share``): shares by sequences have nothing to do with each other, shares
by cells wait for each other at each step. No sum depends on how the work is shared.

Axes: T steps, N rows, B sequences, I input, H cells, P the width of h. Cells stand in panels of V, the lanes of a
vector: Hp is H rounded up to whole panels. A row of gates has four blocks i, f, g, o of Hp cells each.
``packing.py`` has the layout of the weights, in which the rows of i, f and o are halved: sigmoid(a) = 1/2 +
tanh(a/2) / 2, so that all four gates take a tanh.
"""

from functools import cache
from typing import Any, NamedTuple

import numba
from numba import njit, types

from nplstm.engines.compiled.functions import tanh
from nplstm.engines.compiled.products import multiply_1, multiply_2, multiply_4
from nplstm.engines.compiled.simd import fma, lanes, load, load_first, store, store_first
from nplstm.engines.compiled.waiting import LINE, wait

__all__ = ["Kernels", "Share", "Span", "kernels"]


class Span(NamedTuple):
    """How the steps are walked."""

    reverse: bool
    block: int  # steps whose input is transformed at once
    keep: bool  # whether ``gates`` and ``cells`` have room for all rows, or gates for a block's alone


class Share(NamedTuple):
    """What one thread does of it."""

    first: int  # sequences
    last: int
    first_panel: int  # of cells
    last_panel: int
    member: int  # of the threads that wait for each other
    members: int


@njit(nogil=True)
def _time(offsets: Any, s: Any, reverse: Any) -> Any:
    """Return which step is the s-th to be processed."""
    return len(offsets) - 2 - s if reverse else s


@njit(nogil=True)
def _first_row(offsets: Any, first: Any, last: Any, reverse: Any) -> Any:
    """Return the lowest row of some steps."""
    return offsets[_time(offsets, last - 1 if reverse else first, reverse)]


@njit(nogil=True)
def _rows(offsets: Any, s: Any, reverse: Any, share: Any) -> Any:
    """Return where a share's rows of step s begin, and how many there are."""
    t = _time(offsets, s, reverse)
    return offsets[t] + share.first, max(0, min(share.last, offsets[t + 1] - offsets[t]) - share.first)


@njit(nogil=True)
def _before(offsets: Any, s: Any, rows: Any, reverse: Any, share: Any) -> Any:
    """Return where the step before had these sequences, and how many of them took it."""
    if s == 0:
        return 0, 0
    row, began = _rows(offsets, s - 1, reverse, share)
    return row, min(rows, began)


@njit(nogil=True)
def _from_input(x: Any, weight: Any, bias: Any, gates: Any, row: Any, rows: Any, base: Any, share: Any) -> None:
    """Write ``x W_ih^T + b`` of some rows into the gates."""
    V, G, I = lanes(gates), gates.shape[1], x.shape[1]
    Hp, stride = G // 4, x.strides[0] // x.itemsize
    for p in range(share.first_panel, share.last_panel):
        start = (row - base) * G + p * V
        for k in range(4):
            b = load(bias, k * Hp + p * V)
            for r in range(rows):
                store(gates, start + r * G + k * Hp, b)
        multiply_4(gates, start, G, Hp, x, row * stride, stride, weight, p * I * 4 * V, I, rows)


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
    reverse: Any,
    share: Any,
) -> None:
    """The same for a block of steps: at once, where the share has all sequences."""
    if share.first == 0 and share.last >= offsets[1]:
        row = _first_row(offsets, first, last, reverse)
        end = offsets[_time(offsets, first if reverse else last - 1, reverse) + 1]
        _from_input(x, weight, bias, gates, row, end - row, base, share)
    else:
        for s in range(first, last):
            row, rows = _rows(offsets, s, reverse, share)
            _from_input(x, weight, bias, gates, row, rows, base, share)


@njit(nogil=True, error_model="numpy")
def _cell_forward(
    gates: Any,
    c: Any,
    cells: Any,
    out: Any,
    g: Any,
    Hp: Any,
    place: Any,
    kept: Any,
    h: Any,
    missing: Any,
    keep: Any,
) -> None:
    """Take one step of V cells of one sequence: the equations of ``lstm_cell_forward``.

    ``g``, ``place``, ``kept`` and ``h`` are offsets in ``gates``, ``c``, ``cells`` and ``out``; the last ``missing``
    lanes are not there in ``out``.
    """
    i_t = fma(tanh(load(gates, g)), 0.5, 0.5)
    f_t = fma(tanh(load(gates, g + Hp)), 0.5, 0.5)
    g_t = tanh(load(gates, g + 2 * Hp))
    o_t = fma(tanh(load(gates, g + 3 * Hp)), 0.5, 0.5)
    c_t = fma(f_t, load(c, place), i_t * g_t)
    h_t = o_t * tanh(c_t)
    store(c, place, c_t)
    if missing > 0:
        store_first(out, h, lanes(c) - missing, h_t)
    else:
        store(out, h, h_t)
    if keep:
        store(gates, g, i_t)
        store(gates, g + Hp, f_t)
        store(gates, g + 2 * Hp, g_t)
        store(gates, g + 3 * Hp, o_t)
        store(cells, kept, c_t)


def forward(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias: Any,
    h_0: Any,
    c: Any,
    out: Any,
    gates: Any,
    cells: Any,
    offsets: Any,
    span: Any,
    share: Any,
    progress: Any,
) -> None:
    """Run a share of a layer.

    Parameters
    ----------
    x : (N, I)
    weight_ih, weight_hh, bias
        Packed.
    h_0 : (B, P)
    c : (B, Hp)
        Each sequence's initial cell state; overwritten with its final one.
    out : (N, P)
        Receives h_t, and is read for h_{t-1}.
    gates : (rows, 4Hp)
        Work space; with ``span.keep`` receives i, f, g, o of all rows.
    cells : (rows, Hp)
        With ``span.keep`` receives c_t of all rows.
    offsets : (T + 1,)
        Of the rows of each step.
    span : Span
    share : Share
    progress : (members * LINE,)
        Zeros, for the threads to wait by.
    """
    V, Hp, P = lanes(c), c.shape[1], out.shape[1]
    G, h_row, out_row = 4 * Hp, h_0.strides[0] // h_0.itemsize, out.strides[0] // out.itemsize
    reverse = span.reverse
    steps = len(offsets) - 1
    for first in range(0, steps, span.block):
        last = min(first + span.block, steps)
        base = 0 if span.keep else _first_row(offsets, first, last, reverse)
        _block_from_input(x, weight_ih, bias, gates, offsets, first, last, base, reverse, share)
        for s in range(first, last):
            row, rows = _rows(offsets, s, reverse, share)
            before, began = _before(offsets, s, rows, reverse, share)
            for p in range(share.first_panel, share.last_panel):
                start, weight = (row - base) * G + p * V, p * P * 4 * V
                multiply_4(gates, start, G, Hp, out, before * out_row, out_row, weight_hh, weight, P, began)
                start, h = start + began * G, (share.first + began) * h_row
                multiply_4(gates, start, G, Hp, h_0, h, h_row, weight_hh, weight, P, rows - began)
                missing = max(0, (p + 1) * V - P)
                for r in range(rows):
                    g, kept = (row + r - base) * G + p * V, (row + r - base) * Hp + p * V
                    place, h = (share.first + r) * Hp + p * V, (row + r) * out_row + p * V
                    _cell_forward(gates, c, cells, out, g, Hp, place, kept, h, missing, span.keep)
            if share.members > 1:
                wait(progress, share.member, share.members, s + 1)


@njit(nogil=True, error_model="numpy")
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
    Hp = grad_c.shape[1]
    i_t, f_t = load(gates, g), load(gates, g + Hp)
    g_t, o_t = load(gates, g + 2 * Hp), load(gates, g + 3 * Hp)
    tanh_c = tanh(load(cells, c))
    grad_c_t = fma(grad_h * o_t, 1.0 - tanh_c * tanh_c, load(grad_c, place))
    store(grad_a, a, grad_c_t * g_t * i_t * (1.0 - i_t))
    store(grad_a, a + Hp, grad_c_t * load(before, b) * f_t * (1.0 - f_t))
    store(grad_a, a + 2 * Hp, grad_c_t * i_t * (1.0 - g_t * g_t))
    store(grad_a, a + 3 * Hp, grad_h * tanh_c * o_t * (1.0 - o_t))
    store(grad_c, place, grad_c_t * f_t)


@njit(nogil=True)
def _grad_h(weight: Any, grad_a: Any, grad_h: Any, first: Any, rows: Any, row: Any, share: Any) -> None:
    """Write ``grad_a W_hh`` into the gradients of the h that the step read."""
    V, Hp = lanes(grad_h), grad_h.shape[1]
    G = 4 * Hp
    for r in range(first, first + rows):
        for p in range(share.first_panel, share.last_panel):
            store(grad_h, r * Hp + p * V, 0.0)
    p = share.first_panel
    start = row * G
    while p < share.last_panel:
        c, w = first * Hp + p * V, p * G * V
        if share.last_panel - p >= 4:
            multiply_4(grad_h, c, Hp, V, grad_a, start, G, weight, w, G, rows)
            p += 4
        elif share.last_panel - p >= 2:
            multiply_2(grad_h, c, Hp, V, grad_a, start, G, weight, w, G, rows)
            p += 2
        else:
            multiply_1(grad_h, c, Hp, V, grad_a, start, G, weight, w, G, rows)
            p += 1


def backward(
    grad_out: Any,
    weight_hh: Any,
    grad_h: Any,
    grad_c: Any,
    c_0: Any,
    gates: Any,
    cells: Any,
    grad_a: Any,
    offsets: Any,
    reverse: Any,
    first: Any,
    last: Any,
    share: Any,
    progress: Any,
) -> None:
    """Run a share of the steps ``first`` to ``last``, in the order of processing, back from the last to the first.

    Parameters
    ----------
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
    offsets, share, progress
        As for ``forward``.
    """
    V, Hp, P = lanes(grad_c), grad_c.shape[1], grad_out.shape[1]
    G, out_row = 4 * Hp, grad_out.strides[0] // grad_out.itemsize
    base = _first_row(offsets, first, last, reverse)
    count = 0
    for s in range(last - 1, first - 1, -1):
        row, rows = _rows(offsets, s, reverse, share)
        before, began = _before(offsets, s, rows, reverse, share)
        for p in range(share.first_panel, share.last_panel):
            missing = max(0, (p + 1) * V - P)
            for r in range(rows):
                place, out = (share.first + r) * Hp + p * V, (row + r) * out_row + p * V
                if missing > 0:
                    grad_h_t = load_first(grad_out, out, V - missing) + load(grad_h, place)
                else:
                    grad_h_t = load(grad_out, out) + load(grad_h, place)
                g, a = (row + r) * G + p * V, (row + r - base) * G + p * V
                c = (row + r) * Hp + p * V
                if r < began:
                    b = (before + r) * Hp + p * V
                    _cell_backward(gates, cells, cells, grad_a, grad_c, grad_h_t, g, c, b, a, place)
                else:
                    _cell_backward(gates, cells, c_0, grad_a, grad_c, grad_h_t, g, c, place, a, place)
        if share.members > 1:
            wait(progress, share.member, share.members, count + 1)
        _grad_h(weight_hh, grad_a, grad_h, share.first, rows, row - base, share)
        if share.members > 1:
            wait(progress, share.member, share.members, count + 2)
        count += 2


def previous(out: Any, h_0: Any, offsets: Any, first: Any, last: Any, reverse: Any, into: Any) -> None:
    """Write h_{t-1} of all rows of some steps into ``into``."""
    base = _first_row(offsets, first, last, reverse)
    for s in range(first, last):
        t = _time(offsets, s, reverse)
        row, rows = offsets[t], offsets[t + 1] - offsets[t]
        before, began = 0, 0
        if s > 0:
            q = _time(offsets, s - 1, reverse)
            before, began = offsets[q], min(rows, offsets[q + 1] - offsets[q])
        for r in range(rows):
            for k in range(out.shape[1]):
                into[row + r - base, k] = out[before + r, k] if r < began else h_0[r, k]


def step(
    x: Any,
    weights: Any,
    biases: Any,
    sizes: Any,
    old: Any,
    new: Any,
    c: Any,
    gates: Any,
    out: Any,
    first: Any,
    last: Any,
    member: Any,
    members: Any,
    progress: Any,
) -> None:
    """Take a share of one step through all layers of a stack.

    Parameters
    ----------
    x : (B, I)
    weights, biases
        Packed, of one layer after the other: W_ih, W_hh; b.
    sizes : (1 + layers,)
        I, and H of each layer.
    old, new : flat
        h before and after the step, (B, H) of one layer after the other.
    c : flat
        (B, Hp) of one layer after the other; overwritten.
    gates : (B, 4 * the largest Hp)
        Work space.
    out : (B, H)
        Receives the last layer's h.
    first, last
        The share's panels, in 64ths of a layer's.
    member, members, progress
        As for ``forward``; ``progress`` goes on from step to step.
    """
    V, B, I = lanes(c), x.shape[0], x.shape[1]
    w, b, h_at, below, c_at = 0, 0, 0, 0, 0
    for layer in range(len(sizes) - 1):
        H = sizes[layer + 1]
        panels = (H + V - 1) // V
        Hp = panels * V
        G, hh = 4 * Hp, w + I * 4 * Hp
        for p in range(panels * first // 64, panels * last // 64):
            g = p * V
            for k in range(4):
                bias = load(biases, b + k * Hp + p * V)
                for r in range(B):
                    store(gates, g + r * G + k * Hp, bias)
            if layer == 0:
                multiply_4(gates, g, G, Hp, x, 0, I, weights, w + p * I * 4 * V, I, B)
            else:
                multiply_4(gates, g, G, Hp, new, below, I, weights, w + p * I * 4 * V, I, B)
            multiply_4(gates, g, G, Hp, old, h_at, H, weights, hh + p * H * 4 * V, H, B)
            missing = max(0, (p + 1) * V - H)
            for r in range(B):
                place, h = c_at + r * Hp + p * V, h_at + r * H + p * V
                _cell_forward(gates, c, c, new, g + r * G, Hp, place, 0, h, missing, False)
        if members > 1:
            wait(progress, member, members, progress[member * LINE] + 1)
        w, b, below, h_at, c_at, I = hh + H * G, b + G, h_at, h_at + B * H, c_at + B * Hp, H
    if member == 0:
        for r in range(B):
            for k in range(I):
                out[r, k] = new[below + r * I + k]


class Kernels(NamedTuple):
    """The kernels, compiled for one element type."""

    forward: Any
    backward: Any
    previous: Any
    step: Any


@cache
def kernels(dtype: Any) -> Kernels:
    """Compile the kernels, or find what was compiled before."""
    kind = numba.from_dtype(dtype)
    read = types.Array(kind, 2, "A", readonly=True)
    rows, matrix, vector = types.Array(kind, 2, "A"), types.Array(kind, 2, "C"), types.Array(kind, 1, "C")
    offsets, index = types.Array(types.int64, 1, "C", readonly=True), types.intp
    span, share = numba.typeof(Span(False, 0, False)), numba.typeof(Share(0, 0, 0, 0, 0, 0))
    progress = types.Array(types.int64, 1, "C")
    none = types.void
    return Kernels(
        _compiled(
            none(read, vector, vector, vector, read, matrix, rows, matrix, matrix, offsets, span, share, progress),
            forward,
        ),
        _compiled(
            none(
                read,
                vector,
                matrix,
                matrix,
                matrix,
                matrix,
                matrix,
                matrix,
                offsets,
                types.boolean,
                index,
                index,
                share,
                progress,
            ),
            backward,
        ),
        _compiled(none(read, read, offsets, index, index, types.boolean, matrix), previous),
        _compiled(
            none(
                read,
                vector,
                vector,
                offsets,
                vector,
                vector,
                vector,
                matrix,
                matrix,
                index,
                index,
                index,
                index,
                progress,
            ),
            step,
        ),
    )


def _compiled(signature: Any, function: Any) -> Any:
    try:
        return njit(signature, nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # there is no place to keep what was compiled
        return njit(signature, nogil=True, error_model="numpy")(function)
