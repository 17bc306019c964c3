"""Layouts of batches with gaps and resets, whose sequences are cut into pieces; see ``nplstm.batch.segments``."""

from typing import Any

from nplstm._shapes import Axis
from nplstm._typing import Array
from nplstm.backends import Backend
from nplstm.batch.layout import PaddedLayout
from nplstm.batch.segments import Pieces

__all__ = ["FilledLayout", "PiecesLayout"]


class PiecesLayout(PaddedLayout):
    """A padded array with gaps or resets: each sequence is cut into pieces, from which the gaps are taken out."""

    def __init__(
        self, backend: Backend, T: int, B: int, pieces: Pieces, *, batch_first: bool, batched: bool
    ) -> None:
        super().__init__(
            backend,
            (T, B),
            pieces.steps,
            (backend.asarray(pieces.times), backend.asarray(pieces.owners_of_rows)),
            lengths=pieces.extents,
            batch_first=batch_first,
            batched=batched,
        )
        self._pieces = pieces
        self._owners = backend.asarray(pieces.owners)
        self._ends = [backend.asarray(pieces.last), backend.asarray(pieces.first)]  # forward, reverse
        self._fresh = [backend.asarray(fresh) for fresh in pieces.fresh]  # forward, reverse

    def gather(self, values: Array) -> Array:
        """Give each piece what its sequence was given."""
        return values[self._owners]

    def scatter_add(self, values: Array) -> Array:
        """Sum over the pieces of each sequence."""
        xp = self.backend.xp
        sums = xp.zeros((self.batch, *values.shape[1:]), dtype=values.dtype)
        xp.add.at(sums, self._owners, values)
        return sums

    def initial(self, state: Array, *, reverse: bool) -> Array:
        """Give each piece its sequence's initial state, or zeros."""
        own = self.gather(state)
        own[self._fresh[reverse]] = 0.0
        return own

    def initial_gradient(self, grad: Array, *, reverse: bool) -> Array:
        """Sum over the pieces that started from the initial state."""
        grad = grad.copy()
        grad[self._fresh[reverse]] = 0.0
        return self.scatter_add(grad)

    def final(self, state: Array, *, reverse: bool) -> Array:
        """Take the state of the piece in which a direction ends."""
        return state[self._ends[reverse]]

    def final_gradient(self, grad: Array, *, reverse: bool) -> Array:
        """Give it to that piece alone."""
        own = self.backend.xp.zeros((self.steps.batch, *grad.shape[1:]), dtype=grad.dtype)
        own[self._ends[reverse]] = grad
        return own


class FilledLayout(PiecesLayout):
    """The same, where the output has values at masked steps, too: those before, in the order of processing."""

    fills = True

    def fill(self, rows: Array, initial: Array, *, reverse: bool) -> Array:
        """Return (T * B, w): at masked steps the output before, in the order of processing, or the initial state.

        ``rows`` (N, w) is the output of a direction, ``initial`` (pieces, w) its initial h.
        """
        return self.backend.xp.concatenate([rows, initial])[self._sources(reverse)]

    def fill_gradient(self, grad: Array, *, reverse: bool) -> tuple[Array, Array | None]:
        """Bring (T * B, w) back to the rows (N, w) and the initial h (pieces, w)."""
        xp, N = self.backend.xp, self.steps.total
        sums = xp.zeros((N + self.steps.batch, grad.shape[1]), dtype=grad.dtype)
        xp.add.at(sums, self._sources(reverse), grad)
        return sums[:N], sums[N:]

    def _sources(self, reverse: bool) -> Array:
        return self.backend.asarray(self._pieces.sources(reverse=reverse).reshape(-1))

    def pack_filled(self, argument: str, values: Any, axes: list[Axis]) -> Array:
        """Check values at all steps, masked ones too, and return them as (T * B, w)."""
        time_major = self._time_major(argument, values, axes)
        return time_major.reshape(self._T * self._B, time_major.shape[-1])

    def unpack_filled(self, rows: Array) -> Array:
        """Return (T * B, w) in the user's layout."""
        return self._user_layout(rows.reshape(self._T, self._B, rows.shape[-1]))
