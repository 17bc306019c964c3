"""Backward pass of the compiled engine: kernel arguments, block by block of steps."""

from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.core.params import LSTMParams
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines._numpy.memory import work_space
from nplstm.engines.compiled.forward import CompiledTape, aligned_rows, checked_steps
from nplstm.engines.compiled.kernel_weights import (
    gate_gradient,
    pack,
    pack_backward,
    padded_cells,
    padded_width,
    padded_zeros,
)
from nplstm.engines.compiled.library import library
from nplstm.engines.threads import get_num_threads

__all__ = ["compiled_backward"]

_BLOCK_ROWS, _BLOCK_BYTES = 1024, 1 << 22
"""Rows of gradients at a time, or what fills so many bytes: enough for the sums, and a bound on the memory."""

_LEVEL_ROWS = 1 << 15
"""Rows that are summed in one level."""


def compiled_backward(grad_out: list[Array] | None, grad: State, tape: CompiledTape) -> list[SequenceGradients]:
    """Run the directions of a layer back; see ``Engine.backward``."""
    directions = [
        _DirectionBack(None if grad_out is None else grad_out[d], State(grad.h[d], grad.c[d]), tape, d)
        for d in range(len(tape.x))
    ]
    kernels, threads, steps = library(), get_num_threads(), tape.steps
    rows = max(_BLOCK_ROWS, _BLOCK_BYTES // directions[0].row_bytes)
    block = max(1, rows // max(1, steps.batch))
    checked = checked_steps(steps)
    for end in range(len(steps), 0, -block):
        begin = max(0, end - block)
        parts = tuple(direction.steps(begin, end) for direction in directions)
        kernels.module.backward(kernels.choice, parts, checked, begin, end, threads)
        sums = tuple(direction.sums(checked, begin, end) for direction in directions)
        kernels.module.sums(kernels.choice, sums, threads)
        for direction in directions:
            direction.add_up((end - begin) * steps.batch, last=begin == 0)
    return [direction.gradients() for direction in directions]


class _Gradients(NamedTuple):
    """Of the parameters, as the kernels add them up; None where there is no such parameter."""

    weight_ih: Array  # (4Hp, Ip)
    weight_hh: Array  # (4Hp, Pp)
    bias: Array  # (4Hp,)
    peephole: Array | None  # (3, Hp)
    weight_hr: Array | None  # (Pp, Hp)

    def add(self, share: "_Gradients") -> None:
        """Add another's, and set that to zero."""
        for total, part in zip(self, share, strict=True):
            if total is not None and part is not None:
                np.add(total, part, out=total)
                part[...] = 0


class _DirectionBack:
    """One direction of a layer on its way back, and the sums that grow on it."""

    def __init__(self, grad_out: Array | None, grad: State, tape: CompiledTape, d: int) -> None:
        weights, self._kernels = tape.weights[d], library()
        self._grad, self._steps, self._reverse = grad, tape.steps, tape.reverse[d]
        self._x, self._out, self._h_0, self._c_0 = tape.x[d], tape.out[d], tape.h_0[d], tape.c_0[d]
        self._gates, self._cells = tape.gates[d], tape.cells[d]
        self._spec, self._packed = weights.spec, pack_backward(weights)
        self._biased, self._peephole = weights.params.bias_ih is not None, pack(weights).peephole
        (N, I), self._P, self._dtype = self._x.shape, self._out.shape[1], self._x.dtype
        self._H = grad.c.shape[1]
        self._grad_out = None if grad_out is None else aligned_rows(grad_out)
        self._grad_h, self._grad_c = padded_cells(grad.h), padded_cells(grad.c)
        self._Pp, self._Hp = self._grad_h.shape[1], self._grad_c.shape[1]
        self._grad_m = None if self._packed.weight_hr is None else np.empty_like(self._grad_c)
        self._rooms: dict[str, Array] = {}
        self._grad_x = work_space((N, padded_width(I, self._dtype.itemsize)), self._dtype)
        self._rows_summed = 0
        self._of_block = self._zeros()
        self._total: _Gradients | None = None

    @property
    def row_bytes(self) -> int:
        """Of the gradients of one row's gates."""
        return 4 * self._Hp * self._dtype.itemsize

    def _zeros(self) -> _Gradients:
        I, G, dtype = self._x.shape[1], 4 * self._Hp, self._dtype
        return _Gradients(
            padded_zeros(G, I, dtype),
            padded_zeros(G, self._P, dtype),
            np.zeros(G, dtype),
            None if self._peephole is None else np.zeros((3, self._Hp), dtype),
            None if self._packed.weight_hr is None else np.zeros((self._Pp, self._Hp), dtype),
        )

    def _room(self, name: str, rows: int, width: int) -> Array:
        """Return a work space for some rows, the same memory for each block."""
        room = self._rooms.get(name)
        if room is None or len(room) < rows:
            room = self._rooms[name] = work_space((rows, width), self._dtype)
        return room[:rows]

    def _rows(self, first: int, last: int) -> slice:
        return self._steps.span(first, last, reverse=self._reverse)

    def steps(self, first: int, last: int) -> tuple[Any, ...]:
        """Return what ``backward`` of the kernels takes for some steps."""
        rows = self._rows(first, last)
        count = rows.stop - rows.start
        grad_projected = None if self._grad_m is None else self._room("projected", count, self._Pp)
        return (
            *(self._grad_out, self._packed.weight_hh, self._grad_h, self._grad_c, self._c_0),
            *(self._gates, self._cells, self._room("a", count, 4 * self._Hp), rows.start, self._reverse),
            *(self._H, self._P, self._peephole, self._spec.clip or 0.0),
            *(self._packed.weight_hr, grad_projected, self._grad_m),
        )

    def sums(self, checked: Any, first: int, last: int) -> tuple[Any, ...]:
        """Return what ``sums`` of the kernels takes for the rows of some steps."""
        kernels, rows, sums = self._kernels, self._rows(first, last), self._of_block
        count = rows.stop - rows.start

        def before(name: str, values: Array, initial: Array) -> Array:
            into = self._room(name, count, values.shape[1])
            kernels.module.previous(kernels.choice, values, initial, checked, first, last, self._reverse, into)
            return into

        cells_before = None if sums.peephole is None else before("cells", self._cells, self._c_0)
        grad_projected = m = None
        if sums.weight_hr is not None:
            grad_projected, m = self._room("projected", count, self._Pp), self._room("m", count, self._Hp)
            kernels.module.outputs(kernels.choice, self._gates[rows], self._cells[rows], self._H, m)
        h_before = before("h", self._out, self._h_0)
        return (
            *(self._room("a", count, 4 * self._Hp), self._x[rows], h_before),
            *(sums.weight_ih, sums.weight_hh, sums.bias, self._packed.weight_ih, self._grad_x[rows]),
            *(self._H, self._P, self._cells[rows], cells_before, sums.peephole),
            *(grad_projected, m, sums.weight_hr),
        )

    def add_up(self, rows: int, *, last: bool) -> None:
        """Take over the sums of so many rows: in two levels, those over very many rows keep their digits."""
        self._rows_summed += rows
        if self._rows_summed < _LEVEL_ROWS and not last:
            return
        self._rows_summed = 0
        if self._total is not None:
            self._total.add(self._of_block)
        else:
            self._total = self._of_block
            if not last:
                self._of_block = self._zeros()

    def gradients(self) -> SequenceGradients:
        """Return what was summed up, without what fills up the last panels."""
        total = self._of_block if self._total is None else self._total
        self._grad.h[...], self._grad.c[...] = self._grad_h[:, : self._P], self._grad_c[:, : self._H]
        return SequenceGradients(self._grad_x[:, : self._x.shape[1]], self._params(total))

    def _params(self, total: _Gradients) -> LSTMParams:
        H, P, coupled = self._H, self._P, self._spec.coupled_input_forget
        peephole = bias = weight_hr = None
        if self._biased:
            bias = gate_gradient(total.bias[:, None], H, 1, coupled=coupled)[:, 0]
        if total.peephole is not None:
            i, f, o = total.peephole[:, :H]
            peephole = np.concatenate([i - f, o] if coupled else [i, f, o])
        if total.weight_hr is not None:
            weight_hr = total.weight_hr[:P, :H].copy()
        weight_ih = gate_gradient(total.weight_ih, H, self._x.shape[1], coupled=coupled)
        weight_hh = gate_gradient(total.weight_hh, H, P, coupled=coupled)
        grads = LSTMParams.of_sum(weight_ih, weight_hh, bias)
        return grads._replace(weight_ch=peephole, weight_hr=weight_hr)
