"""Layouts of batches with gaps and resets, whose sequences are cut into segments; see ``segments.py``."""

from typing import Any

from nplstm._shapes import Axis
from nplstm._typing import Array
from nplstm.backends import Backend
from nplstm.batch.layout import PaddedLayout
from nplstm.batch.segments import Segments

__all__ = ["FilledLayout", "SegmentLayout"]


class SegmentLayout(PaddedLayout):
    """A padded array with gaps or resets, whose sequences are cut into segments."""

    def __init__(
        self, backend: Backend, T: int, B: int, segments: Segments, *, batch_first: bool, batched: bool
    ) -> None:
        super().__init__(
            backend,
            (T, B),
            segments.steps,
            (backend.asarray(segments.times), backend.asarray(segments.owners_of_rows)),
            lengths=segments.extents,
            batch_first=batch_first,
            batched=batched,
        )
        self.reorders = True  # each segment has states of its own
        self._segments = segments
        self._owners = backend.asarray(segments.owners)
        self._ends = [backend.asarray(segments.last), backend.asarray(segments.first)]  # forward, reverse
        self._fresh = [backend.asarray(fresh) for fresh in segments.fresh]  # forward, reverse

    def gather(self, values: Array) -> Array:
        """Return for each segment the values of its sequence."""
        return values[self._owners]

    def scatter_add(self, values: Array) -> Array:
        """Sum over the segments of each sequence."""
        xp = self.backend.xp
        sums = xp.zeros((self.batch, *values.shape[1:]), dtype=values.dtype)
        xp.add.at(sums, self._owners, values)
        return sums

    def initial(self, state: Array, reverse: tuple[bool, ...]) -> Array:
        """Return for each segment its initial state: its sequence's, or zeros."""
        own = state.take(self._owners, axis=-2)
        self._clear(own, reverse)
        return own

    def initial_gradient(self, grad: Array, reverse: tuple[bool, ...]) -> Array:
        """Sum over the segments that started from the initial state."""
        xp = self.backend.xp
        grad = grad.copy()
        self._clear(grad, reverse)
        return xp.moveaxis(self.scatter_add(xp.moveaxis(grad, -2, 0)), 0, -2)

    def _clear(self, state: Array, reverse: tuple[bool, ...]) -> None:
        """Write zeros where a segment starts from zero."""
        for d, from_the_end in enumerate(reverse):
            state[..., d, self._fresh[from_the_end], :] = 0.0

    def final(self, state: Array, reverse: tuple[bool, ...]) -> Array:
        """Return for each sequence the final state of the segment in which a direction ends."""
        xp = self.backend.xp
        ends = [state[..., d, :, :].take(self._ends[r], axis=-2) for d, r in enumerate(reverse)]
        return xp.stack(ends, axis=-3)

    def final_gradient(self, grad: Array, reverse: tuple[bool, ...]) -> Array:
        """Return gradients of the segments' final states: zeros but for those segments."""
        own = self.backend.xp.zeros((*grad.shape[:-2], self.steps.batch, grad.shape[-1]), dtype=grad.dtype)
        for d, from_the_end in enumerate(reverse):
            own[..., d, self._ends[from_the_end], :] = grad[..., d, :, :]
        return own


class FilledLayout(SegmentLayout):
    """The same, with output at masked steps: that of the step before, in the order of processing."""

    fills = True

    def fill(self, rows: Array, initial: Array, *, reverse: bool) -> Array:
        """Return (T * B, w): at masked steps the output before, in the order of processing, or the initial state.

        ``rows`` (N, w) is the output of a direction, ``initial`` (segments, w) its initial h.
        """
        return self.backend.xp.concatenate([rows, initial])[self._sources(reverse)]

    def fill_gradient(self, grad: Array, *, reverse: bool) -> tuple[Array, Array | None]:
        """Bring (T * B, w) back to the rows (N, w) and the initial h (segments, w)."""
        xp, N = self.backend.xp, self.steps.total
        sums = xp.zeros((N + self.steps.batch, grad.shape[1]), dtype=grad.dtype)
        xp.add.at(sums, self._sources(reverse), grad)
        return sums[:N], sums[N:]

    def _sources(self, reverse: bool) -> Array:
        return self.backend.asarray(self._segments.sources(reverse=reverse).reshape(-1))

    def pack_filled(self, argument: str, values: Any, axes: list[Axis]) -> Array:
        """Check values at all steps, masked ones too, and return them as (T * B, w)."""
        self.check(argument, values, axes)
        time_major = self._time_major(values)
        return time_major.reshape(self._T * self._B, time_major.shape[-1])

    def unpack_filled(self, rows: Array) -> Array:
        """Return (T * B, w) in the user's layout."""
        return self._user_layout(rows.reshape(self._T, self._B, rows.shape[-1]))
