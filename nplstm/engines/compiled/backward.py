"""The way back of the compiled engine: what the kernels are given, block by block of steps."""

from typing import Any

import numpy as np

from nplstm._typing import Array
from nplstm.engines._numpy.memory import aligned_empty
from nplstm.engines.compiled.forward import CompiledTape, aligned_rows
from nplstm.engines.compiled.library import library
from nplstm.engines.compiled.packing import pack_backward, padded_cells, padded_zeros, unpadded_gates
from nplstm.engines.threads import get_num_threads
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
    found, threads, steps = library(), get_num_threads(), tapes[0].steps
    rows = max(_BLOCK_ROWS, _BLOCK_BYTES // max(lane.row_bytes for lane in lanes))
    block = max(1, rows // max(1, steps.batch))
    for end in range(len(steps), 0, -block):
        begin = max(0, end - block)
        parts = tuple(lane.steps(begin, end) for lane in lanes)
        found.module.backward(found.index, parts, steps.offsets, begin, end, threads)
        found.module.sums(found.index, tuple(lane.sums(begin, end) for lane in lanes), threads)
        for lane in lanes:
            lane.add_up(last=begin == 0)
    return [lane.gradients() for lane in lanes]


class _WayBack:
    """One layer in one direction on its way back, and the sums that grow on it."""

    def __init__(self, grad_out: Array | None, final: State, tape: CompiledTape) -> None:
        self._tape = tape
        (N, I), self._P, dtype = tape.x.shape, tape.out.shape[1], tape.x.dtype
        self._H = final.c.shape[1]
        self._grad_out = None if grad_out is None else aligned_rows(grad_out)
        self._grad_h, self._grad_c = padded_cells(final.h), padded_cells(final.c)
        self._G = 4 * self._grad_c.shape[1]
        self._packed = tape.recurrence.prepared(pack_backward)
        self._grad_a, self._before = aligned_empty((0, self._G), dtype), np.empty((0, self._P), dtype)
        self._grad_x = padded_zeros(N, I, dtype)
        self._of_block = self._zeros()
        self._total: tuple[Array, ...] | None = None

    @property
    def row_bytes(self) -> int:
        """Of the gradients of one row's gates."""
        return self._G * self._tape.x.itemsize

    def _zeros(self) -> tuple[Array, ...]:
        """Return zeros for the gradients of W_ih, W_hh and b."""
        dtype = self._tape.x.dtype
        weights = (padded_zeros(self._G, width, dtype) for width in (self._tape.x.shape[1], self._P))
        return (*weights, np.zeros(self._G, dtype))

    def steps(self, first: int, last: int) -> tuple[Any, ...]:
        """Return what ``backward`` of the kernels takes for some steps."""
        tape = self._tape
        rows = tape.steps.span(first, last, reverse=tape.reverse)
        count = rows.stop - rows.start
        if len(self._grad_a) < count:
            self._grad_a = aligned_empty((count, self._G), tape.x.dtype)
            self._before = np.empty((count, self._P), tape.x.dtype)
        state = (self._grad_out, self._packed.weight_hh, self._grad_h, self._grad_c, tape.c_0)
        return (*state, tape.gates, tape.cells, self._grad_a, rows.start, tape.reverse, self._H)

    def sums(self, first: int, last: int) -> tuple[Any, ...]:
        """Return what ``sums`` of the kernels takes for the rows of some steps."""
        tape, found = self._tape, library()
        rows = tape.steps.span(first, last, reverse=tape.reverse)
        count = rows.stop - rows.start
        before = self._before[:count]
        found.module.previous(
            found.index, tape.out, tape.h_0, tape.steps.offsets, first, last, tape.reverse, before
        )
        read = (self._grad_a[:count], tape.x[rows], before)
        return (*read, *self._of_block, self._packed.weight_ih, self._grad_x[rows], self._H, None)

    def add_up(self, *, last: bool) -> None:
        """Add the block's sums to those of all blocks: in two levels, sums over very many rows keep their digits."""
        if self._total is None:
            self._total = self._of_block
            if not last:
                self._of_block = self._zeros()
            return
        for total, share in zip(self._total, self._of_block, strict=True):
            np.add(total, share, out=total)
            share[...] = 0

    def gradients(self) -> SequenceGradients:
        """Return what was summed up, without what fills up the last panels."""
        params, I, H = self._tape.recurrence.params, self._tape.x.shape[1], self._H
        of_ih, of_hh, of_bias = self._of_block if self._total is None else self._total
        bias = None if params.bias_ih is None else unpadded_gates(of_bias[:, None], H, 1)[:, 0]
        grads = LSTMParams.of_sum(unpadded_gates(of_ih, H, I), unpadded_gates(of_hh, H, self._P), bias)
        state = State(self._grad_h[:, : self._P], self._grad_c[:, :H])
        return SequenceGradients(self._grad_x[:, :I], state, None, grads, {})
