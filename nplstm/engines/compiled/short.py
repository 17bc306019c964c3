"""Short calls on the compiled engine: where what surrounds a kernel would take longer than the kernel.

One thread, equal lengths, inference: the kernels of ``forward.py`` with as little around them as can be. The
results are the same to the bit.
"""

import numpy as np

from nplstm._typing import Array
from nplstm.engines._numpy.memory import aligned_empty
from nplstm.engines.base import ShortCall
from nplstm.engines.compiled.forward import aligned_rows
from nplstm.engines.compiled.kernels import kernels
from nplstm.engines.compiled.packing import Packed, pack
from nplstm.engines.compiled.rows import Share, Span
from nplstm.engines.compiled.shares import WORTH_A_THREAD, progress_of
from nplstm.engines.compiled.simd import vector_length
from nplstm.recurrence import Recurrence
from nplstm.steps import Steps

__all__ = ["CompiledShortCall"]

_SCRATCH_ROWS = 256


class CompiledShortCall(ShortCall):
    """See ``ShortCall``."""

    def __init__(self, recurrences: list[list[Recurrence]], directions: tuple[bool, ...]) -> None:
        params = recurrences[0][0].params
        self._dtype = params.weight_ih.dtype
        self._directions = directions
        self._packed: list[list[Packed]] = [[r.prepared(pack) for r in row] for row in recurrences]
        self._H = params.weight_hh.shape[1]
        V = vector_length(self._dtype.itemsize)
        self._panels = -(-self._H // V)
        self._Hp = self._panels * V
        self._work = sum(p.weight_ih.size + p.weight_hh.size for row in self._packed for p in row)
        self._forward = kernels(self._dtype).forward
        self._progress = progress_of(1)

    def takes(self, steps: int, batch: int) -> bool:
        """Tell whether a call is short, which is where one thread is enough."""
        return steps * batch * self._work < WORTH_A_THREAD

    def __call__(self, x: Array, h_0: Array | None, c_0: Array | None) -> tuple[Array, Array, Array]:
        """Run all layers on ``x`` (T, B, I)."""
        (T, B, _), H, Hp, D, dtype = x.shape, self._H, self._Hp, len(self._directions), self._dtype
        offsets = Steps.equal(T, B).offsets
        block = max(1, _SCRATCH_ROWS // B)
        gates = aligned_empty((min(block, T) * B, 4 * Hp), dtype)
        share = Share(0, B, 0, self._panels, 0, 1)
        states = len(self._packed) * D, B, H
        h_n, c_n = np.empty(states, dtype), np.empty(states, dtype)
        h_0 = np.zeros(states, dtype) if h_0 is None else h_0
        rows, k = aligned_rows(x.reshape(T * B, -1)), 0
        for layer in self._packed:
            joined = np.empty((T * B, D * H), dtype)
            for d, packed in enumerate(layer):
                reverse, out = self._directions[d], joined[:, d * H : (d + 1) * H]
                c = np.zeros((B, Hp), dtype)
                if c_0 is not None:
                    c[:, :H] = c_0[k]
                span = Span(reverse, block, False)
                self._forward(
                    rows, *packed, aligned_rows(h_0[k]), c, out, gates, c, offsets, span, share, self._progress
                )
                h_n[k] = out[:B] if reverse else out[-B:]
                c_n[k] = c[:, :H]
                k += 1
            rows = joined
        return rows.reshape(T, B, D * H), h_n, c_n
