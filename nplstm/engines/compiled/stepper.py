"""Real time on the compiled engine: one kernel call a step, whatever the number of layers."""

from itertools import accumulate, pairwise
from math import inf
from time import perf_counter
from typing import Any

import numpy as np

from nplstm._typing import Array, HostIndices
from nplstm.engines._numpy.memory import aligned_copy, aligned_zeros
from nplstm.engines.base import Stepper
from nplstm.engines.compiled.calls import Calls, Kernel, Task
from nplstm.engines.compiled.kernels import kernels
from nplstm.engines.compiled.packing import pack
from nplstm.engines.compiled.shares import progress_of, step_ends
from nplstm.engines.compiled.step_kernel import PARTS
from nplstm.engines.compiled.team import TEAM
from nplstm.engines.threads import get_num_threads
from nplstm.recurrence import Recurrence

__all__ = ["CompiledStepper"]

_SOON = 1e-4
"""Seconds between steps below which it pays to have threads wait for the next."""

_LONGEST_PAUSE = 1000
"""Steps taken alone after one that took longer in company, at most."""


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
        self._taken = np.zeros(1, np.int64)
        self._last = 0.0  # when the last step was over
        self._fastest = inf  # of those that one thread took alone
        self._pause = 1  # steps that are to be taken alone; the first, to know how long that takes
        ends = step_ends(weights.size * batch, get_num_threads())
        steps = kernels(dtype).step
        stack, rest = (self.x, weights, biases, sizes), (c, gates, self.y)
        orders = [(*stack, old, new, *rest) for old, new in (both, both[::-1])]
        self._shared = [_cut(steps, order, self._taken, ends) for order in orders] if len(ends) > 2 else []
        self._alone = [_cut(steps, order, self._taken, [0, PARTS]) for order in orders]

    def step(self) -> None:
        """Run the kernel, in several threads where the weights are large and no one else has these."""
        turn = self._turn
        if not self._shared:
            self._alone[turn].run()
            return
        start = perf_counter()
        # in real time no step waits for a thread that has to be woken
        together = self._pause == 0 and TEAM.run_if_awake(self._shared[turn], wake=start - self._last < _SOON)
        if not together:
            self._alone[turn].run()
        self._last = perf_counter()
        self._judge(self._last - start, together=together)

    def _judge(self, took: float, *, together: bool) -> None:
        """Share no more for a while where it took longer: on a busy machine others may have to wait for a CPU.

        So many steps are taken alone that what was lost is a fifth of what they take.
        """
        if not together:
            self._fastest = min(self._fastest, took)
            self._pause = max(0, self._pause - 1)
        elif took > self._fastest:
            self._pause = min(_LONGEST_PAUSE, int(5 * (took - self._fastest) / self._fastest))

    @property
    def _turn(self) -> int:
        """Which of the two places h is in."""
        return self._taken.item() % 2

    @property
    def h(self) -> list[Array]:
        """By layer, (B, H)."""
        return self._h[self._turn]

    @property
    def c(self) -> list[Array]:
        """By layer, (B, H)."""
        return self._c


def _cut(kernel: Kernel, operands: tuple[Any, ...], taken: HostIndices, ends: list[int]) -> Calls:
    """Put the shares of a step down."""
    members = len(ends) - 1
    progress = progress_of(members)
    shares = [
        (first, last, member, members, progress, taken) for member, (first, last) in enumerate(pairwise(ends))
    ]
    return Calls([Task(kernel, (*operands, *share)) for share in shares])


def _by_layer(flat: Array, batch: int, widths: list[int]) -> list[Array]:
    """Return the parts (batch, width) of a flat array."""
    ends = [0, *accumulate(batch * width for width in widths)]
    return [flat[a:b].reshape(batch, -1) for a, b in pairwise(ends)]
