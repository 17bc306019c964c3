"""Segments of sequences with gaps and resets: masked steps are removed, and each reset begins a new segment.

The state is carried over a gap. The time loop reads segments as it reads sequences, so it needs no code for gaps
and resets, and computes no masked step.

Index arithmetic is done on the host, with NumPy.
"""

from typing import Any

import numpy as np

from nplstm._shapes import Axis, check_shape
from nplstm._typing import HostIndices
from nplstm.core.packed import PackedSteps, host_array, sort_by_length
from nplstm.errors import DTypeError

__all__ = ["Segments", "find_segments"]


class Segments:
    """Where the segments of a batch are. Must not be modified.

    Attributes
    ----------
    steps : PackedSteps
        The packed batch index of the M segments, longest first.
    owners : HostIndices, shape (M,)
        Each segment's sequence.
    fresh : pair of HostIndices
        For each direction, forward and reverse, the segments that start from zero instead of their sequence's
        initial state.
    first, last : HostIndices, shape (B,)
        Each sequence's first and last segment.
    times, owners_of_rows : HostIndices, shape (N,)
        Each packed row's step and sequence.
    extents : HostIndices, shape (B,), or None
        Each sequence's length where the user gave lengths.
    """

    def __init__(
        self, valid: Any, number: HostIndices, fresh_start: Any, extents: HostIndices | None, *, zero: bool
    ) -> None:
        """Cut (T, B) steps: ``valid`` is False at masked steps, ``number`` counts a sequence's segments."""
        B: int = valid.shape[1]
        counts: HostIndices = number.max(axis=0, initial=0) + 1  # segments of each sequence
        start = np.concatenate([[0], np.cumsum(counts)])  # the number of a sequence's first segment among all
        owners: HostIndices = np.repeat(np.arange(B), counts)
        segment = start[:-1] + number  # (T, B)
        t, b = np.nonzero(valid)
        lengths = np.bincount(segment[t, b], minlength=len(owners))
        order = sort_by_length(lengths)
        rank = np.argsort(order)  # place of a segment in that order
        self.steps = PackedSteps.from_sorted_lengths(lengths[order])
        self.owners = owners[order]
        self.first, self.last = rank[start[:-1]], rank[start[1:] - 1]
        # the initial state belongs to the segment that a direction processes first. A reset before step 0 removes
        # it for the forward direction; the reverse direction reaches that reset after its last step
        ahead, back = np.full(len(owners), zero), np.full(len(owners), zero)
        ahead[self.first] = fresh_start & zero
        back[self.last] = False
        self.fresh = np.flatnonzero(ahead), np.flatnonzero(back)
        self.extents = extents
        by_segment = np.lexsort((t, segment[t, b]))
        t, b = t[by_segment], b[by_segment]
        within = np.arange(len(t)) - np.repeat(
            np.cumsum(lengths) - lengths, lengths
        )  # a row's step in its segment
        packed = np.lexsort((rank[segment[t, b]], within))
        self.times, self.owners_of_rows = t[packed], b[packed]
        self._segment = rank[segment]  # (T, B)
        self._valid = valid

    def sources(self, *, reverse: bool) -> HostIndices:
        """Return (T, B): the row whose output each step shows, or N + the segment whose initial h it shows.

        A masked step shows the output of the step before it, in the order of processing, in its segment; the
        initial h if there is none.
        """
        T, B = self._valid.shape
        N = len(self.times)
        rows = np.full((T, B), -1, dtype=np.int64)
        rows[self.times, self.owners_of_rows] = np.arange(N)
        sources = N + self._segment
        order = range(T - 1, -1, -1) if reverse else range(T)
        before: int | None = None
        for step in order:
            if before is not None:
                same = self._segment[step] == self._segment[before]
                sources[step] = np.where(same, sources[before], sources[step])
            sources[step] = np.where(rows[step] >= 0, rows[step], sources[step])
            before = step
        return sources


def find_segments(
    T: int, B: int, lengths: HostIndices | None, mask: Any, reset: Any, *, zero: bool, swap: bool, batched: bool
) -> Segments:
    """Check ``mask`` and ``reset``, shaped like the input without its last axis, and cut the batch."""
    t = np.arange(T)[:, None]
    valid = np.ones((T, B), dtype=bool) if lengths is None else t < lengths
    if mask is not None:
        valid = _flags("mask", mask, T, B, swap=swap, batched=batched)
    starts = np.zeros((T, B), dtype=bool)
    if reset is not None:
        starts = _flags("reset", reset, T, B, swap=swap, batched=batched).copy()
        if lengths is not None:
            starts &= t < lengths  # resets past a sequence's end are not read
    fresh_start = starts[0].copy()
    starts[0] = False  # the first step begins a segment anyway
    return Segments(valid, np.cumsum(starts, axis=0), fresh_start, lengths, zero=zero)


def _flags(argument: str, values: Any, T: int, B: int, *, swap: bool, batched: bool) -> Any:
    """Return booleans as (T, B); raise for values that are not booleans, or not on the host."""
    flags = host_array(argument, values, "booleans")
    if flags.dtype.kind != "b":
        raise DTypeError(f"{argument}: expected booleans, got {flags.dtype}; use {argument}.astype(bool)")
    axes: list[Axis] = [("T", T)]
    if batched:
        axes = [("B", B), ("T", T)] if swap else [("T", T), ("B", B)]
    check_shape(argument, flags.shape, axes)
    if not batched:
        return flags[:, None]
    return flags.swapaxes(0, 1) if swap else flags
