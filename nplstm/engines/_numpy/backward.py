"""The way back of the NumPy engine.

What does not depend on the gradient is computed for a block of steps in a few calls: the factors by which the
gradient of c_t reaches i, f, g and that of h_t reaches o and c_t. A step is then seven calls, and the products
that sum over steps follow for the block at once. Axes as in ``forward``; gates in the order o, i, f, g.
"""

from typing import NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.engines._numpy.forward import NumpyTape, segments, turned
from nplstm.engines._numpy.weights import ordered_weight_hh, ordered_weight_ih, torch_order
from nplstm.params import LSTMParams
from nplstm.recurrence import State
from nplstm.sequence import SequenceGradients

__all__ = ["numpy_backward"]

_BLOCK_ROWS = 1024
"""Rows whose gradients are put together before the products that sum over them, at least."""


class _Factors(NamedTuple):
    """By what the gradients of h_t and c_t are multiplied, for some steps of n sequences."""

    of_h: Array  # (S, steps, n, H)  to o: tanh(c_t) o (1 - o)
    of_c: Array  # (S, steps, 3, n, H)  to i, f, g: g i (1 - i), c_{t-1} f (1 - f), i (1 - g^2)
    h_to_c: Array  # (S, steps, n, H)  o (1 - tanh(c_t)^2)
    forget: Array  # (S, steps, n, H)  f


def numpy_backward(
    grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[NumpyTape]
) -> list[SequenceGradients]:
    """Run the lanes back; see ``Engine.backward``."""
    steps, cells = tapes[0].steps, tapes[0].cells
    S, H = len(tapes), cells.shape[2]
    grad_h, grad_c = np.stack([final.h for final in grad_final]), np.stack([final.c for final in grad_final])
    weight_hh = np.stack([tape.recurrence.prepared("numpy backward", ordered_weight_hh) for tape in tapes])
    grad_out = None
    if grad_outputs is not None:
        grad_out = np.stack(
            [turned(g, steps, reverse=t.reverse) for g, t in zip(grad_outputs, tapes, strict=True)]
        )
    sums = [_Sums(tape) for tape in tapes]
    rows_at_once = max(_BLOCK_ROWS, 2 * max(H, tapes[0].x.shape[1]))
    for block in reversed(list(steps.blocks(rows_at_once, reverse=False))):
        rows = steps.rows(block[0], block[-1])
        grad_a = np.empty((S, rows.stop - rows.start, 4 * H), cells.dtype)
        for first, last, n in reversed(list(segments(steps, block[0], block[-1] + 1))):
            part = steps.rows(first, last - 1)
            inner = slice(part.start - rows.start, part.stop - rows.start)
            given = None if grad_out is None else grad_out[:, part]
            planes = cells[:, 5 * part.start : 5 * part.stop].reshape(S, last - first, 5, n, H)
            _steps_back(given, _factors(planes), grad_a[:, inner], grad_h[:, :n], grad_c[:, :n], weight_hh)
        for lane, total in zip(grad_a, sums, strict=True):
            total.add(lane, rows)
    return [total.gradients(State(grad_h[k], grad_c[k])) for k, total in enumerate(sums)]


def _factors(cells: Array) -> _Factors:
    """Compute what does not depend on the gradient."""
    o, i, f, g, c_prev = (cells[:, :, k] for k in range(5))
    tanh_c = i * g
    tanh_c += f * c_prev
    np.tanh(tanh_c, out=tanh_c)
    of_c = np.empty((*cells.shape[:2], 3, *cells.shape[3:]), cells.dtype)
    of_i, of_f, of_g = (of_c[:, :, k] for k in range(3))
    np.multiply(i, 1 - i, out=of_i)
    of_i *= g
    np.multiply(f, 1 - f, out=of_f)
    of_f *= c_prev
    np.multiply(g, g, out=of_g)
    np.subtract(1, of_g, out=of_g)
    of_g *= i
    h_to_c = tanh_c * tanh_c
    np.subtract(1, h_to_c, out=h_to_c)
    h_to_c *= o
    tanh_c *= o
    tanh_c *= 1 - o
    return _Factors(tanh_c, of_c, h_to_c, f)


def _steps_back(
    grad_out: Array | None,
    factors: _Factors,
    grad_a: Array,
    grad_h: Array,
    grad_c: Array,
    weight_hh: Array,
) -> None:
    """Run some steps of n sequences each back; ``grad_h`` and ``grad_c`` (S, n, H) are overwritten."""
    S, count, n, H = factors.of_h.shape
    of_h, of_c, h_to_c, forget = (factor.swapaxes(0, 1)[::-1] for factor in factors)
    given = [None] * count
    if grad_out is not None:
        given = grad_out.reshape(S, count, n, H).swapaxes(0, 1)[::-1]
    gates = grad_a.reshape(S, count, n, 4 * H).swapaxes(0, 1)[::-1]  # rows, which the product wants
    planes = gates.reshape(count, S, n, 4, H).transpose(0, 1, 3, 2, 4)
    h, share = grad_h.copy(), np.empty((S, n, H), grad_h.dtype)
    c = grad_c[:, None]
    matmul, add, multiply = np.matmul, np.add, np.multiply
    steps = zip(given, of_h, of_c, h_to_c, forget, gates, planes[:, :, 1:], planes[:, :, 0], strict=True)
    for given_t, of_h_t, of_c_t, h_to_c_t, f_t, gates_t, i_f_g_t, o_t in steps:
        if given_t is not None:
            add(h, given_t, out=h)
        multiply(h, h_to_c_t, out=share)
        add(grad_c, share, out=grad_c)
        multiply(h, of_h_t, out=o_t)
        multiply(c, of_c_t, out=i_f_g_t)
        multiply(grad_c, f_t, out=grad_c)
        matmul(gates_t, weight_hh, out=h)
    grad_h[...] = h


class _Sums:
    """The gradients of one lane's input and parameters, which grow by a block of rows at a time."""

    def __init__(self, tape: NumpyTape) -> None:
        self._tape = tape
        (N, I), H, dtype = tape.x.shape, tape.out.shape[1], tape.x.dtype
        self._x = turned(tape.x, tape.steps, reverse=tape.reverse)
        self._before = _previous(tape)
        self._weight_ih = tape.recurrence.prepared("numpy input", ordered_weight_ih)
        self._grad_x = np.empty((N, I), dtype)
        self._grad_weight_ih, self._grad_weight_hh = np.zeros((4 * H, I), dtype), np.zeros((4 * H, H), dtype)
        self._grad_bias = np.zeros(4 * H, dtype)

    def add(self, grad_a: Array, rows: slice) -> None:
        """Add what some rows contribute."""
        self._grad_weight_ih += grad_a.T @ self._x[rows]
        self._grad_weight_hh += grad_a.T @ self._before[rows]
        self._grad_bias += grad_a.sum(axis=0)
        np.matmul(grad_a, self._weight_ih, out=self._grad_x[rows])

    def gradients(self, state: State) -> SequenceGradients:
        """Return the sums in torch's order."""
        tape = self._tape
        bias_ih = bias_hh = None
        if tape.recurrence.params.bias_ih is not None:
            # the biases are added up, so their gradients are equal; but each is an array of its own
            bias_ih = torch_order(self._grad_bias)
            bias_hh = bias_ih.copy()
        weight_ih, weight_hh = torch_order(self._grad_weight_ih), torch_order(self._grad_weight_hh)
        grad_x = turned(self._grad_x, tape.steps, reverse=tape.reverse)
        return SequenceGradients(grad_x, state, None, LSTMParams(weight_ih, weight_hh, bias_ih, bias_hh), {})


def _previous(tape: NumpyTape) -> Array:
    """Return h_{t-1} of all rows in the order of processing, (N, H)."""
    steps, out = tape.steps, turned(tape.out, tape.steps, reverse=tape.reverse)
    first = steps.size(0) if len(steps) else 0
    before = np.empty(out.shape, out.dtype)
    before[:first] = tape.h_0[:first]
    if steps.total == len(steps) * steps.batch:
        before[first:] = out[: steps.total - first]
    else:
        for t in range(1, len(steps)):
            rows, start = steps.rows(t), steps.bounds[t - 1]
            before[rows] = out[start : start + steps.size(t)]
    return before
