"""Backward pass of the NumPy engine.

Factors that do not depend on the gradient are computed for a block of steps in a few calls: those by which the
gradients of h_t and c_t are multiplied. A step then takes seven calls, and the products that sum over steps follow
for the whole block. Axes as in ``forward.py``; gates in the order o, i, f, g.
"""

from typing import NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps
from nplstm.core.params import LSTMParams
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines._numpy.cell import exact_sigmoids
from nplstm.engines._numpy.forward import NumpyTape, equal_runs, planes_of
from nplstm.engines._numpy.memory import work_space
from nplstm.engines._numpy.reversal import Reversal
from nplstm.engines._numpy.weights import back_hh, back_ih, torch_order

__all__ = ["numpy_backward"]

_BLOCK_ROWS = 512
"""Smallest number of rows whose gradients are collected before the products that sum over them."""


class _Factors(NamedTuple):
    """Factors of the gradients of h_t and c_t, for some steps of n sequences."""

    of_h: Array  # (steps, S, n, H)  to o: tanh(c_t) o (1 - o)
    of_c: Array  # (steps, 3, S, n, H)  to i, f, g: g i (1 - i), c_{t-1} f (1 - f), i (1 - g^2)
    h_to_c: Array  # (steps, S, n, H)  o (1 - tanh(c_t)^2)
    forget: Array  # (steps, S, n, H)  f


def numpy_backward(grad_out: list[Array] | None, grad: State, tape: NumpyTape) -> list[SequenceGradients]:
    """Run the backward pass of a layer's directions; see ``Engine.backward``."""
    steps, cells = tape.steps, tape.cells
    S, H = len(tape.x), tape.out[0].shape[1]
    first_weights, *others = tape.weights
    weight_hh = first_weights.prepared(back_hh, *others)
    reversals = [Reversal(steps, reverse=reverse) for reverse in tape.reverse]
    sums = [_DirectionGradients(tape, d, reversal) for d, reversal in enumerate(reversals)]
    rows_at_once = max(_BLOCK_ROWS, 2 * max(H, tape.x[0].shape[1]))
    room = work_space((11 * S * H * min(steps.total, max(rows_at_once, steps.batch)),), cells.dtype)
    for block in reversed(list(steps.blocks(rows_at_once, reverse=False))):
        rows = steps.span(block[0], block[-1] + 1)
        size = S * H * (rows.stop - rows.start)
        grad_a = room[: 4 * size].reshape(S, rows.stop - rows.start, 4 * H)
        for first, last, n in reversed(list(equal_runs(steps, block[0], block[-1] + 1))):
            part = steps.span(first, last)
            inner = slice(part.start - rows.start, part.stop - rows.start)
            grad_h = None
            if grad_out is not None:
                grad_h = [reversal.read(g, first, last) for reversal, g in zip(reversals, grad_out, strict=True)]
            factors = _factors(planes_of(cells, steps, first, last, S, H), room[4 * size :])
            _steps_back(grad_h, factors, grad_a[:, inner], grad.h[:, :n], grad.c[:, :n], weight_hh)
        for own, total in zip(grad_a, sums, strict=True):
            total.add(own, block[0], block[-1] + 1)
    return [total.gradients() for total in sums]


@exact_sigmoids
def _factors(cells: Array, room: Array) -> _Factors:
    """Compute the factors that do not depend on the gradient; ``room`` is flat, seven numbers for each cell.

    With e = exp(-a), a sigmoid is 1 / (1 + e) and its derivative 1 / (e + 1 / e + 2): neither loses digits, and so
    no gradient, where the gate is almost closed or almost open.
    """
    e_o, e_i, e_f, g, c_prev = (cells[:, k] for k in range(5))
    of_h, h_to_c, forget, spare = room[: 4 * g.size].reshape(4, *g.shape)
    of_c = room[4 * g.size : 7 * g.size].reshape(len(cells), 3, *cells.shape[2:])
    of_i_f, of_g = of_c[:, :2], of_c[:, 2]
    np.divide(cells[:, 3:], _one_over_slope(cells[:, 1:3], out=of_i_f), out=of_i_f)
    np.multiply(g, g, out=of_g)
    np.subtract(1, of_g, out=of_g)
    of_g /= np.add(e_i, 1, out=spare)
    np.add(e_f, 1, out=forget)
    np.divide(1, forget, out=forget)
    tanh_c = of_h
    tanh_c[:-1] = c_prev[1:]  # c_t of all steps but the last
    np.add(g[-1] / spare[-1], forget[-1] * c_prev[-1], out=tanh_c[-1])
    np.tanh(tanh_c, out=tanh_c)
    np.multiply(tanh_c, tanh_c, out=h_to_c)
    np.subtract(1, h_to_c, out=h_to_c)
    h_to_c /= np.add(e_o, 1, out=spare)
    of_h /= _one_over_slope(e_o, out=spare)
    return _Factors(of_h, of_c, h_to_c, forget)


def _one_over_slope(e: Array, out: Array) -> Array:
    """Return 1 / sigmoid' from ``e = exp(-a)``."""
    np.divide(1, e, out=out)
    out += e
    out += 2
    return out


def _steps_back(
    grad_out: list[Array] | None,
    factors: _Factors,
    grad_a: Array,
    grad_h: Array,
    grad_c: Array,
    weight_hh: Array,
) -> None:
    """Run the backward pass of some steps of n sequences; ``grad_h`` and ``grad_c`` (S, n, H) are overwritten."""
    count, S, n, H = factors.of_h.shape
    of_h, of_c, h_to_c, forget = (factor[::-1] for factor in factors)
    grad_outs = [None] * count
    if grad_out is not None:
        together = grad_out[0][None] if S == 1 else np.stack(grad_out)
        grad_outs = together.reshape(S, count, n, H).swapaxes(0, 1)[::-1]
    gates = grad_a.reshape(S, count, n, 4 * H).swapaxes(0, 1)[::-1]  # rows of 4H, as the product reads them
    planes = gates.reshape(count, S, n, 4, H).transpose(0, 3, 1, 2, 4)
    h, share = grad_h.copy(), np.empty((S, n, H), grad_h.dtype)
    matmul, add, multiply = np.matmul, np.add, np.multiply
    steps = zip(grad_outs, of_h, of_c, h_to_c, forget, gates, planes[:, 1:], planes[:, 0], strict=True)
    for grad_out_t, of_h_t, of_c_t, h_to_c_t, f_t, gates_t, i_f_g_t, o_t in steps:
        if grad_out_t is not None:
            add(h, grad_out_t, out=h)
        multiply(h, h_to_c_t, out=share)
        add(grad_c, share, out=grad_c)
        multiply(h, of_h_t, out=o_t)
        multiply(grad_c, of_c_t, out=i_f_g_t)
        multiply(grad_c, f_t, out=grad_c)
        matmul(gates_t, weight_hh, out=h)
    grad_h[...] = h


class _DirectionGradients:
    """Gradients of one direction's input and parameters, summed block by block."""

    def __init__(self, tape: NumpyTape, d: int, reversal: Reversal) -> None:
        self._x, self._out, self._h_0 = tape.x[d], tape.out[d], tape.h_0[d]
        self._steps, self._reversal = tape.steps, reversal
        self._weight_ih = tape.weights[d].prepared(back_ih)
        self._biased = tape.weights[d].bias is not None
        self._grad_x = np.empty(self._x.shape, self._x.dtype)
        self._sums: list[Array] = []  # of W_ih, W_hh and the biases

    def add(self, grad_a: Array, first: int, last: int) -> None:
        """Add the contribution of some steps."""
        x = self._reversal.read(self._x, first, last)
        before = _states_before(self._out, self._h_0, self._steps, self._reversal, first, last)
        share = [grad_a.T @ x, grad_a.T @ before, np.add.reduce(grad_a, axis=0)]
        self._sums = [np.add(a, b, out=a) for a, b in zip(self._sums, share, strict=True)] if self._sums else share
        self._reversal.write(self._grad_x, first, last, grad_a @ self._weight_ih)

    def gradients(self) -> SequenceGradients:
        """Return the sums in torch's order."""
        if not self._sums:  # no steps
            (_, I), H = self._x.shape, self._out.shape[1]
            self._sums = [np.zeros(shape, self._x.dtype) for shape in ((4 * H, I), (4 * H, H), (4 * H,))]
        weight_ih, weight_hh, bias = [torch_order(total) for total in self._sums]
        grads = LSTMParams.of_sum(weight_ih, weight_hh, bias if self._biased else None)
        return SequenceGradients(self._grad_x, grads)


def _states_before(out: Array, h_0: Array, steps: PackedSteps, reversal: Reversal, first: int, last: int) -> Array:
    """Return h_{t-1} of the rows of some steps, in the order of processing."""
    if first > 0 and not steps.ragged:
        return reversal.read(out, first - 1, last - 1)
    began = max(first - 1, 0)
    rows_before, of_before, of_rows = reversal.read(out, began, last - 1), steps.bounds[began], steps.bounds[first]
    before = np.empty((steps.bounds[last] - of_rows, out.shape[1]), out.dtype)
    for t in range(first, last):
        rows, n = steps.rows(t), steps.size(t)
        start = steps.bounds[t - 1] - of_before
        into = before[rows.start - of_rows : rows.stop - of_rows]
        into[...] = h_0[:n] if t == 0 else rows_before[start : start + n]
    return before
