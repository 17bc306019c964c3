"""Real time on the compiled engine: one kernel call a step, whatever the number of layers."""

from itertools import accumulate, pairwise

import numpy as np

from nplstm._typing import Array
from nplstm.engines._numpy.memory import aligned_copy, aligned_zeros
from nplstm.engines.base import Stepper
from nplstm.engines.compiled.library import library
from nplstm.engines.compiled.packing import pack
from nplstm.engines.threads import get_num_threads
from nplstm.recurrence import Recurrence

__all__ = ["CompiledStepper"]


class CompiledStepper(Stepper):
    """See ``Stepper``. Weights and states of all layers stand in one array each."""

    def __init__(self, recurrences: list[Recurrence], batch: int) -> None:
        params = [recurrence.params for recurrence in recurrences]
        packed = [recurrence.prepared(pack) for recurrence in recurrences]
        I, dtype = params[0].weight_ih.shape[1], params[0].weight_ih.dtype
        widths = [p.weight_hh.shape[1] for p in params]
        padded = [p.bias.size // 4 for p in packed]
        super().__init__(np.zeros((batch, I), dtype), np.zeros((batch, widths[-1]), dtype))
        weights = aligned_copy(np.concatenate([w for p in packed for w in (p.weight_ih, p.weight_hh)]))
        biases = aligned_copy(np.concatenate([p.bias for p in packed]))
        # h of the step before and of this one, which take turns
        both = [np.zeros(batch * sum(widths), dtype) for _ in range(2)]
        c = aligned_zeros((batch * sum(padded),), dtype)
        gates = aligned_zeros((batch * 4 * max(padded),), dtype)
        self._h = [_by_layer(flat, batch, widths) for flat in both]
        self._c = [whole[:, :H] for whole, H in zip(_by_layer(c, batch, padded), widths, strict=True)]
        self._turn = 0
        found, sizes = library(), np.array([I, *widths], np.int64)
        arrays = (self.x, sizes, weights, biases, *both, c, gates, self.y)
        self._step = found.module.new_step(found.index, *arrays, get_num_threads())
        self._take = found.module.step

    def step(self) -> None:
        """Run the kernel, in several threads where the weights are large and no one else has these."""
        self._turn = self._take(self._step)

    @property
    def h(self) -> list[Array]:
        """By layer, (B, H)."""
        return self._h[self._turn]

    @property
    def c(self) -> list[Array]:
        """By layer, (B, H)."""
        return self._c


def _by_layer(flat: Array, batch: int, widths: list[int]) -> list[Array]:
    """Return the parts (batch, width) of a flat array."""
    ends = [0, *accumulate(batch * width for width in widths)]
    return [flat[a:b].reshape(batch, -1) for a, b in pairwise(ends)]
