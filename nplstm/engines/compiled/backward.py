"""The way back of the compiled engine: kernels for the steps, matrix products for what sums over them."""

from functools import partial

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nplstm._typing import Array
from nplstm.engines.compiled.forward import CompiledTape, aligned_rows, run_lanes
from nplstm.engines.compiled.kernels import kernels
from nplstm.engines.compiled.packing import natural_weight, pack_backward, padded_cells, unpadded_gates
from nplstm.engines.compiled.shares import progress_of, shares
from nplstm.engines.compiled.team import Task
from nplstm.params import LSTMParams
from nplstm.recurrence import State
from nplstm.sequence import SequenceGradients

__all__ = ["compiled_backward"]

_BLOCK_ROWS = 1024
"""Rows of gradients that are put together before the products that sum over them, at least."""


def compiled_backward(
    grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[CompiledTape]
) -> list[SequenceGradients]:
    """Run the lanes back; see ``Engine.backward``."""
    lanes = [
        _WayBack(None if grad_outputs is None else grad_outputs[k], final, tape)
        for k, (final, tape) in enumerate(zip(grad_final, tapes, strict=True))
    ]
    steps = tapes[0].steps
    block = max(1, max(lane.block_rows for lane in lanes) // max(1, steps.batch))
    for end in range(len(steps), 0, -block):
        begin = max(0, end - block)
        run_lanes(
            [partial(lane.tasks, begin, end) for lane in lanes], steps.total * sum(lane.work for lane in lanes)
        )
        for lane in lanes:
            lane.collect(begin, end)
    return [lane.gradients() for lane in lanes]


class _WayBack:
    """One layer in one direction on its way back, and the sums that grow on it."""

    def __init__(self, grad_out: Array | None, final: State, tape: CompiledTape) -> None:
        self._tape = tape
        self._params = tape.recurrence.params
        dtype, (N, I) = tape.x.dtype, tape.x.shape
        self._P = tape.out.shape[1]
        self._grad_out = _zeros(N, self._P, dtype) if grad_out is None else aligned_rows(grad_out)
        self._grad_h, self._grad_c = padded_cells(final.h), padded_cells(final.c)
        self._G = 4 * self._grad_c.shape[1]
        self._weight_hh = tape.recurrence.prepared("compiled backward", pack_backward)
        self._weight_ih = tape.recurrence.prepared("compiled input", natural_weight)
        self._grad_x = np.empty((N, I), dtype)
        self._grad_a = np.empty((0, self._G), dtype)
        self._grad_weight_ih = np.zeros((self._G, I), dtype)
        self._grad_weight_hh = np.zeros((self._G, self._P), dtype)
        self._grad_bias = np.zeros(self._G, dtype)

    @property
    def block_rows(self) -> int:
        """How many rows to put together: many beside the width of the weights, to which their product is added."""
        return max(_BLOCK_ROWS, 2 * max(self._P, self._tape.x.shape[1]))

    @property
    def work(self) -> int:
        """Multiplications of one sequence in one step, those that sum over steps left out."""
        return self._G * self._G // 4

    def tasks(self, first: int, last: int, threads: int) -> list[Task]:
        """Cut some steps of the span among threads."""
        tape, Hp, rows = self._tape, self._G // 4, _rows(self._tape, first, last)
        if len(self._grad_a) < rows.stop - rows.start:
            self._grad_a = np.empty((rows.stop - rows.start, self._G), tape.x.dtype)
        parts = shares(tape.steps, Hp, self._grad_a.itemsize, threads, self.work)
        state = (self._grad_out, self._weight_hh, self._grad_h, self._grad_c, tape.c_0)
        rest = (tape.gates, tape.cells, self._grad_a, tape.steps.offsets, tape.reverse, first, last)
        backward, progress = kernels(tape.x.dtype).backward, progress_of(len(parts))
        return [partial(backward, *state, *rest, share, progress) for share in parts]

    def collect(self, first: int, last: int) -> None:
        """Take the products that sum over the rows of some steps."""
        tape, rows = self._tape, _rows(self._tape, first, last)
        count = rows.stop - rows.start
        grad_a = self._grad_a[:count]
        before = np.empty((count, self._P), grad_a.dtype)
        kernels(grad_a.dtype).previous(tape.out, tape.h_0, tape.steps.offsets, first, last, tape.reverse, before)
        self._grad_weight_ih += grad_a.T @ tape.x[rows]
        self._grad_weight_hh += grad_a.T @ before
        self._grad_bias += grad_a.sum(axis=0)
        np.matmul(grad_a, self._weight_ih, out=self._grad_x[rows])

    def gradients(self) -> SequenceGradients:
        """Return what was summed up, without the padding."""
        H = self._params.weight_hh.shape[0] // 4
        bias_ih = bias_hh = None
        if self._params.bias_ih is not None:
            # the biases are added up, so their gradients are equal; but each is an array of its own
            bias_ih = unpadded_gates(self._grad_bias, H)
            bias_hh = bias_ih.copy()
        weights = (unpadded_gates(w, H) for w in (self._grad_weight_ih, self._grad_weight_hh))
        state = State(self._grad_h[:, : self._P], self._grad_c[:, :H])
        return SequenceGradients(self._grad_x, state, None, LSTMParams(*weights, bias_ih, bias_hh), {})


def _rows(tape: CompiledTape, first: int, last: int) -> slice:
    """Return the rows of some steps, given in the order of processing."""
    T = len(tape.steps)
    first, last = (T - last, T - first) if tape.reverse else (first, last)
    return tape.steps.rows(first, last - 1)


def _zeros(rows: int, columns: int, dtype: np.dtype[np.floating]) -> Array:
    """Return zeros of which one row is in memory."""
    return as_strided(np.zeros((1, columns), dtype), (rows, columns), (0, dtype.itemsize), writeable=False)
