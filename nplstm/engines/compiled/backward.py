"""The way back of the compiled engine: what the kernels are given, block by block of steps."""

from functools import partial

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nplstm._typing import Array, DType
from nplstm.engines._numpy.memory import aligned_empty
from nplstm.engines.compiled.calls import Task
from nplstm.engines.compiled.forward import CompiledTape, aligned_rows, run_lanes
from nplstm.engines.compiled.gradient_kernels import DEPTH
from nplstm.engines.compiled.kernels import kernels
from nplstm.engines.compiled.packing import pack_backward, padded_cells, padded_zeros, unpadded_gates
from nplstm.engines.compiled.shares import progress_of, shares
from nplstm.engines.compiled.simd import TILE_ROWS, vector_length
from nplstm.params import LSTMParams
from nplstm.recurrence import State
from nplstm.sequence import SequenceGradients

__all__ = ["compiled_backward"]

_BLOCK_ROWS, _BLOCK_BYTES = 1024, 1 << 22
"""Rows of gradients at a time, or what fills so many bytes: enough for the sums, and a bound on the memory."""


def compiled_backward(
    grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[CompiledTape]
) -> list[SequenceGradients]:
    """Run the lanes back; see ``Engine.backward``."""
    lanes = [
        _WayBack(None if grad_outputs is None else grad_outputs[k], final, tape)
        for k, (final, tape) in enumerate(zip(grad_final, tapes, strict=True))
    ]
    steps = tapes[0].steps
    rows = max(_BLOCK_ROWS, _BLOCK_BYTES // max(lane.row_bytes for lane in lanes))
    block = max(1, rows // max(1, steps.batch))
    work = steps.total * sum(lane.work for lane in lanes)
    for end in range(len(steps), 0, -block):
        begin = max(0, end - block)
        run_lanes([partial(lane.steps, begin, end) for lane in lanes], work)
        run_lanes([partial(lane.sums, begin, end) for lane in lanes], work)
    return [lane.gradients() for lane in lanes]


class _WayBack:
    """One layer in one direction on its way back, and the sums that grow on it."""

    def __init__(self, grad_out: Array | None, final: State, tape: CompiledTape) -> None:
        self._tape = tape
        (N, I), self._P, dtype = tape.x.shape, tape.out.shape[1], tape.x.dtype
        self._grad_out = _zeros(N, self._P, dtype) if grad_out is None else aligned_rows(grad_out)
        self._grad_h, self._grad_c = padded_cells(final.h), padded_cells(final.c)
        self._G = 4 * self._grad_c.shape[1]
        self._packed = tape.recurrence.prepared(pack_backward)
        self._grad_a = self._before = np.empty((0, 0), dtype)
        self._grad_x = padded_zeros(N, I, dtype)
        self._grad_weight_ih, self._grad_weight_hh = (padded_zeros(self._G, w, dtype) for w in (I, self._P))
        self._grad_bias = np.zeros(self._G, dtype)

    @property
    def work(self) -> int:
        """Multiplications of one sequence in one step."""
        return self._G * self._G // 4

    @property
    def row_bytes(self) -> int:
        """Of the gradients of one row's gates."""
        return self._G * self._tape.x.itemsize

    def steps(self, first: int, last: int, threads: int) -> list[Task]:
        """Cut some steps among threads."""
        tape = self._tape
        rows = tape.steps.span(first, last, reverse=tape.reverse)
        count = rows.stop - rows.start
        if len(self._grad_a) < count:
            self._grad_a = aligned_empty((count, self._G), tape.x.dtype)
            self._before = np.empty((count, self._P), tape.x.dtype)
        parts = shares(tape.steps, self._G // 4, self._grad_a.itemsize, threads, self.work)
        state = (self._grad_out, self._packed.weight_hh, self._grad_h, self._grad_c, tape.c_0)
        rest = (tape.gates, tape.cells, self._grad_a, tape.steps.offsets)
        backward, progress = kernels(tape.x.dtype).backward, progress_of(len(parts))
        return [Task(backward, (*state, *rest, progress, tape.reverse, first, last, *share)) for share in parts]

    def sums(self, first: int, last: int, threads: int) -> list[Task]:
        """Cut the products that sum over the rows of some steps: each thread takes some rows of the weights."""
        tape = self._tape
        rows = tape.steps.span(first, last, reverse=tape.reverse)
        count = rows.stop - rows.start
        compiled = kernels(tape.x.dtype)
        compiled.previous(tape.out, tape.h_0, tape.steps.offsets, first, last, tape.reverse, self._before)
        read = (self._grad_a, tape.x, rows.start, self._before, count)
        into = (self._grad_weight_ih, self._grad_weight_hh, self._grad_bias)
        packed = DEPTH * max(self._grad_weight_ih.shape[1], self._grad_weight_hh.shape[1])
        rest = (self._packed.weight_ih, self._grad_x)
        parts = zip(
            _runs(self._G, threads, vector_length(tape.x.itemsize)), _runs(count, threads, TILE_ROWS), strict=True
        )
        return [
            Task(compiled.sums, (*read, *into, *some, aligned_empty((packed,), tape.x.dtype), *rest, *some_rows))
            for some, some_rows in parts
        ]

    def gradients(self) -> SequenceGradients:
        """Return what was summed up, without what fills up the last panels."""
        params, I = self._tape.recurrence.params, self._tape.x.shape[1]
        H = params.weight_hh.shape[0] // 4
        bias = None if params.bias_ih is None else unpadded_gates(self._grad_bias[:, None], H, 1)[:, 0]
        weight_ih = unpadded_gates(self._grad_weight_ih, H, I)
        weight_hh = unpadded_gates(self._grad_weight_hh, H, self._P)
        state = State(self._grad_h[:, : self._P], self._grad_c[:, :H])
        grads = LSTMParams.of_sum(weight_ih, weight_hh, bias)
        return SequenceGradients(self._grad_x[:, :I], state, None, grads, {})


def _runs(count: int, threads: int, unit: int) -> list[tuple[int, int]]:
    """Cut ``count`` rows into runs of whole units."""
    units = -(-count // unit)
    return [(units * k // threads * unit, min(count, units * (k + 1) // threads * unit)) for k in range(threads)]


def _zeros(rows: int, columns: int, dtype: DType) -> Array:
    """Return zeros of which one row is in memory."""
    return as_strided(np.zeros((1, columns), dtype), (rows, columns), (0, dtype.itemsize), writeable=False)
