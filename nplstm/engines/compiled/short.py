"""Plain calls on the compiled engine, with as little around the kernels as can be: inference, equal lengths.

The kernels are those of ``forward.py``, and the results the same to the bit.
"""

from functools import lru_cache, partial
from threading import local

import numpy as np

from nplstm._typing import Array
from nplstm.engines._numpy.memory import aligned_empty
from nplstm.engines.base import ShortCall
from nplstm.engines.compiled import forward
from nplstm.engines.compiled.forward import Walk, aligned_rows, run_lanes
from nplstm.engines.compiled.kernels import kernels
from nplstm.engines.compiled.packing import Packed, pack
from nplstm.engines.compiled.rows import Share, Span
from nplstm.engines.compiled.shares import progress_of
from nplstm.engines.compiled.simd import vector_length
from nplstm.recurrence import Recurrence
from nplstm.steps import Steps

__all__ = ["CompiledShortCall"]

_SCRATCH_ROWS = 256


class CompiledShortCall(ShortCall):
    """See ``ShortCall``."""

    def __init__(self, recurrences: list[list[Recurrence]], directions: tuple[bool, ...]) -> None:
        params = recurrences[0][0].params
        self._directions = directions
        self._packed: list[list[Packed]] = [[r.prepared(pack) for r in row] for row in recurrences]
        self._H = params.weight_hh.shape[1]
        self._Hp = self._packed[0][0].bias.size // 4
        self._panels = self._Hp // vector_length(params.weight_hh.itemsize)
        self._work = sum(p.weight_ih.size + p.weight_hh.size for row in self._packed for p in row)
        self._dtype = params.weight_hh.dtype
        self._own = local()
        self._forward = kernels(self._dtype).forward
        self._nobody = progress_of(1)

    def takes(self, steps: int, batch: int) -> bool:
        """Take calls of any size."""
        return True

    def __call__(self, x: Array, h_0: Array | None, c_0: Array | None) -> tuple[Array, Array, Array]:
        """Run all layers on ``x`` (T, B, I)."""
        (T, B, _), H, D, dtype = x.shape, self._H, len(self._directions), x.dtype
        steps, states = Steps.equal(T, B), (len(self._packed) * D, B, H)
        h = np.zeros(states, dtype) if h_0 is None else h_0
        c = np.zeros((*states[:2], self._Hp), dtype)
        if c_0 is not None:
            c[:, :, :H] = c_0
        h_n = np.empty(states, dtype)
        rows = aligned_rows(x.reshape(T * B, -1))
        small = steps.total * self._work < forward.WORTH_A_THREAD
        for layer, packed in enumerate(self._packed):
            joined, first = np.empty((T * B, D * H), dtype), layer * D
            walks = [
                Walk(rows, p, aligned_rows(h[first + d]), c[first + d], joined[:, d * H : (d + 1) * H], steps)
                for d, p in enumerate(packed)
            ]
            if small:
                self._one_by_one(walks)
            else:
                lanes = zip(walks, self._directions, strict=True)
                cuts = [partial(walk.tasks, reverse, None) for walk, reverse in lanes]
                run_lanes(cuts, steps.total * sum(walk.work for walk in walks))
            for d, reverse in enumerate(self._directions):
                h_n[first + d] = walks[d].out[:B] if reverse else walks[d].out[-B:]
            rows = joined
        return rows.reshape(T, B, D * H), h_n, c if self._Hp == H else c[:, :, :H].copy()

    def _work_space(self, rows: int) -> Array:
        """Return room for the gates of some rows: each thread's own, kept from call to call."""
        room: Array | None = getattr(self._own, "gates", None)
        if room is None or len(room) < rows:
            room = self._own.gates = aligned_empty((rows, 4 * self._Hp), self._dtype)
        return room

    def _one_by_one(self, walks: list[Walk]) -> None:
        """Run them here, without asking how they might be shared."""
        steps = walks[0].steps
        rows, spans, share = _whole(len(steps), steps.batch, self._panels, self._directions)
        gates = self._work_space(rows)
        for (x, packed, h_0, c, out, _), span in zip(walks, spans, strict=True):
            self._forward(x, *packed, h_0, c, out, gates, c, steps.offsets, self._nobody, *span, *share)


@lru_cache(maxsize=64)
def _whole(T: int, B: int, panels: int, directions: tuple[bool, ...]) -> tuple[int, list[Span], Share]:
    """Return rows of work space, and how the steps are walked, by one thread; made once for calls of one size."""
    block = min(T, max(1, _SCRATCH_ROWS // B))
    return block * B, [Span(reverse, block, False) for reverse in directions], Share(0, B, 0, panels, 0, 1)
