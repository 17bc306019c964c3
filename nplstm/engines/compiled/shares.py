"""How threads share a layer: by sequences where there are many, else by cells. The results are the same."""

from itertools import pairwise

import numpy as np

from nplstm._typing import HostIndices
from nplstm.engines.compiled.gradient_kernels import GROUP
from nplstm.engines.compiled.rows import Share
from nplstm.engines.compiled.simd import vector_length
from nplstm.engines.compiled.step_kernel import PARTS
from nplstm.engines.compiled.waiting import CAN_WAIT, LINE
from nplstm.steps import Steps

__all__ = ["WORTH_A_THREAD", "progress_of", "shares", "step_ends"]

WORTH_A_THREAD = 2_500_000
"""Multiplications below which to share them, some 30 microseconds, takes longer than it saves."""

_WORTH_WAITING = 50_000
"""Multiplications in a step below which waiting for each other takes longer than it saves."""

_STEP_WORTH_A_THREAD = 120_000
"""The same for a step in real time."""

_STEP_THREADS = 8
"""Threads of a stream at most."""

_MANY, _FEW = 8, 4
"""Sequences of a share: with so many, none has to wait for another; with so few, each reads all the weights for
little, and a share of the cells is better, where there are enough of them. With fewer still it does not pay."""


def shares(steps: Steps, Hp: int, itemsize: int, threads: int, work: int) -> list[Share]:
    """Cut a layer into at most ``threads`` shares; ``work``: multiplications of one sequence in one step."""
    B, panels = steps.batch, Hp // vector_length(itemsize)
    whole = [Share(0, B, 0, panels, 0, 1)]
    if threads == 1 or work * steps.total < WORTH_A_THREAD:
        return whole
    groups = -(-panels // GROUP)
    can_wait = CAN_WAIT and work * B >= _WORTH_WAITING
    ways = {"many": B // _MANY, "cells": groups if can_wait else 1, "few": B // _FEW}
    way, n = max(((name, min(threads, most)) for name, most in ways.items()), key=lambda found: found[1])
    if n <= 1:
        return whole
    if way != "cells":
        return [Share(a, b, 0, panels, 0, 1) for a, b in pairwise(_balanced(steps, n))]
    bounds = [min(panels, groups * k // n * GROUP) for k in range(n + 1)]
    return [Share(0, B, a, b, k, n) for k, (a, b) in enumerate(pairwise(bounds))]


def _balanced(steps: Steps, n: int) -> list[int]:
    """Cut the sequences, longest first, into ``n`` runs of about as many rows."""
    if not steps.ragged:
        return [steps.batch * k // n for k in range(n + 1)]
    lengths = steps.lengths
    middles = np.cumsum(lengths) - lengths / 2  # a sequence is on the side where more of it is
    return [0, *np.searchsorted(middles, steps.total * np.arange(1, n) / n).tolist(), steps.batch]


def step_ends(work: int, threads: int) -> list[int]:
    """Cut a step of so many multiplications by cells: where each thread's panels begin and end, in parts."""
    n = min(threads, _STEP_THREADS) if work >= _STEP_WORTH_A_THREAD and CAN_WAIT else 1
    return [PARTS * k // n for k in range(n + 1)]


def progress_of(members: int) -> HostIndices:
    """Return the counts by which so many threads wait for each other."""
    return np.zeros(members * LINE, np.int64)
