"""Real time on the compiled engine: one kernel call a step, whatever the number of layers."""

from functools import partial
from itertools import accumulate, pairwise

import numpy as np

from nplstm._typing import Array
from nplstm.engines._numpy.memory import aligned_copy, aligned_zeros
from nplstm.engines.base import Stepper
from nplstm.engines.compiled.kernels import kernels
from nplstm.engines.compiled.packing import pack
from nplstm.engines.compiled.servers import Servers
from nplstm.engines.compiled.shares import progress_of, step_ends
from nplstm.engines.compiled.waiting import PATIENCE
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
        sizes = np.array([I, *widths], np.int64)
        # h of the step before and of this one, which take turns
        both = [np.zeros(batch * sum(widths), dtype) for _ in range(2)]
        c = aligned_zeros((batch * sum(padded),), dtype)
        gates = aligned_zeros((batch, 4 * max(padded)), dtype)
        self._h = [_by_layer(flat, batch, widths) for flat in both]
        self._c = [whole[:, :H] for whole, H in zip(_by_layer(c, batch, padded), widths, strict=True)]
        self._count = 0  # of steps
        ends = step_ends(weights.size * batch, get_num_threads())
        members = len(ends)
        progress, signals = progress_of(members), progress_of(2 * members)
        stack, rest = (self.x, weights, biases, sizes), (c, gates, self.y)
        compiled, shared = kernels(dtype), (members, progress, signals)
        self._lead = [
            partial(compiled.lead, *stack, old, new, *rest, ends[0], *shared) for old, new in (both[::-1], both)
        ]
        self._servers = Servers(
            [
                partial(compiled.serve, *stack, *both, *rest, first, last, member, *shared, PATIENCE)
                for member, (first, last) in enumerate(pairwise(ends), 1)
            ],
            signals,
        )

    def step(self) -> None:
        """Run the kernel, in several threads where the weights are large."""
        count = self._count + 1
        while self._lead[count % 2](count):
            self._servers.wake()
        self._count = count

    @property
    def h(self) -> list[Array]:
        """By layer, (B, H)."""
        return self._h[self._count % 2]

    @property
    def c(self) -> list[Array]:
        """By layer, (B, H)."""
        return self._c


def _by_layer(flat: Array, batch: int, widths: list[int]) -> list[Array]:
    """Return the parts (batch, width) of a flat array."""
    ends = [0, *accumulate(batch * width for width in widths)]
    return [flat[a:b].reshape(batch, -1) for a, b in pairwise(ends)]
