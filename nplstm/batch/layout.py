"""From the user's layout to the packed one of the time loop, and back.

A user's batch may be time-major or batch-first, have no batch axis, be padded with ``lengths``, have gaps
(``mask``) or new beginnings (``reset``), or come as a ``PackedSequence``. The loop sees none of it: it sees
sequences without gaps, longest first. A sequence with resets is several of them, its segments, which all start
from its initial state.

Each way in has its transpose, by which gradients travel: ``pack`` and ``unpack`` for what is given per step,
``gather`` and ``scatter_add`` for what is given per sequence, ``final`` and ``final_gradient`` for final states.
"""

from abc import ABC, abstractmethod
from operator import itemgetter
from typing import Any, Self

from nplstm._shapes import Axis, check_shape
from nplstm._typing import Array, HostIndices
from nplstm.backends import Backend
from nplstm.batch.packing import PackedSequence
from nplstm.core.packed import (
    PackedSteps,
    inverse_permutation,
    padded_places,
    reversed_places,
    sort_by_length,
)
from nplstm.errors import BackendError, ShapeError

__all__ = ["Layout", "PackedLayout", "PaddedLayout"]

_SIZE = itemgetter(1)


class Layout(ABC):
    """How one batch is laid out by the user.

    Parameters
    ----------
    backend : Backend
        Of the batch.
    steps : PackedSteps
        What the time loop sees.
    batch : int
        B, the number of the user's sequences.
    order : HostIndices or None
        ``order[j]``: the user's index of the loop's j-th sequence; None where they are the same.
    batched : bool
        Whether there is a batch axis.
    """

    fills = False
    """Whether the output has values at steps that are masked out."""

    def __init__(
        self, backend: Backend, steps: PackedSteps, batch: int, order: HostIndices | None, *, batched: bool
    ) -> None:
        self.backend = backend
        self.steps = steps
        self.batch = batch
        self.batched = batched
        self.reorders = order is not None
        """Whether the loop's order of states is another than the user's."""
        self._order: Array | None = None
        self._inverse: Array | None = None
        if order is not None:
            self._order = backend.asarray(order)
            self._inverse = backend.asarray(inverse_permutation(order))

    @abstractmethod
    def check(self, argument: str, values: Any, axes: list[Axis]) -> None:
        """Raise unless values per step are laid out like the input, with these axes behind."""

    @abstractmethod
    def pack(self, argument: str, values: Any, axes: list[Axis], *, keep: bool = False) -> Array:
        """Check the user's values per step (an input, a gradient) and return them as (N, *axes).

        With ``keep`` the result shares no memory with them: the user may write into a batch that a tape holds.
        """

    @abstractmethod
    def unpack(self, rows: Array) -> Any:
        """Return (N, ...) rows in the user's layout."""

    @abstractmethod
    def flip(self, values: Any) -> Any:
        """Reverse each sequence of an output in time; twice is once."""

    @abstractmethod
    def data_of(self, argument: str, values: Any) -> Any:
        """Return the array in the user's values."""

    def fill(self, rows: Array, initial: Array, *, reverse: bool) -> Array:
        """Return a direction's output with what it shows at steps that were left out; here there is nothing."""
        return rows

    def fill_gradient(self, grad: Array, *, reverse: bool) -> tuple[Array, Array | None]:
        """Bring gradients of ``fill``'s result back to its rows and, where it showed that, to the initial h."""
        return grad, None

    def pack_filled(self, argument: str, values: Any, axes: list[Axis]) -> Array:
        """Return the user's gradient of an output as ``fill`` left its rows."""
        return self.pack(argument, values, axes)

    def unpack_filled(self, rows: Array) -> Any:
        """Return rows as ``fill`` left them in the user's layout."""
        return self.unpack(rows)

    def gather(self, values: Array) -> Array:
        """Bring what is given per sequence, (B, ...), into the loop's order."""
        return values if self._order is None else values[self._order]

    def scatter_add(self, values: Array) -> Array:
        """Bring gradients of ``gather``'s result back to (B, ...)."""
        return values if self._inverse is None else values[self._inverse]

    def initial(self, state: Array, reverse: tuple[bool, ...]) -> Array:
        """Bring initial states (..., D, B, width) into the loop's order; ``reverse``: by direction."""
        return state if self._order is None else state.take(self._order, axis=-2)

    def initial_gradient(self, grad: Array, reverse: tuple[bool, ...]) -> Array:
        """Bring gradients of ``initial``'s result back to (..., D, B, width)."""
        return grad if self._inverse is None else grad.take(self._inverse, axis=-2)

    def final(self, state: Array, reverse: tuple[bool, ...]) -> Array:
        """Return the user's final states (..., D, B, width), given the loop's."""
        return state if self._inverse is None else state.take(self._inverse, axis=-2)

    def final_gradient(self, grad: Array, reverse: tuple[bool, ...]) -> Array:
        """Bring gradients of the user's final states into the loop's order."""
        return grad if self._order is None else grad.take(self._order, axis=-2)


class PackedLayout(Layout):
    """A PackedSequence: packed already."""

    def __init__(self, backend: Backend, x: PackedSequence) -> None:
        super().__init__(backend, x.steps, x.steps.batch, x.sorted_indices, batched=True)
        self._like = x

    def check(self, argument: str, values: Any, axes: list[Axis]) -> None:
        """Compare type, order and shape."""
        if not isinstance(values, PackedSequence):
            raise BackendError(
                f"{argument}: expected a PackedSequence, as the input was, got {type(values).__qualname__}"
            )
        for field in ("batch_sizes", "sorted_indices"):
            expected, got = (_indices(sequence, field) for sequence in (self._like, values))
            if got != expected:
                raise ShapeError(f"{argument}: expected {field} {expected} as in the input, got {got}")
        check_shape(f"{argument}.data", values.data.shape, [("N", self.steps.total), *axes])

    def pack(self, argument: str, values: Any, axes: list[Axis], *, keep: bool = False) -> Array:
        """Take the data."""
        self.check(argument, values, axes)
        return values.data.copy() if keep else values.data

    def unpack(self, rows: Array) -> PackedSequence:
        """Wrap the data."""
        return PackedSequence(rows, self._like.batch_sizes, self._like.sorted_indices)

    def flip(self, values: PackedSequence) -> PackedSequence:
        """Reverse each sequence."""
        return self.unpack(values.data[self.backend.asarray(self.steps.reversed_rows())])

    def data_of(self, argument: str, values: Any) -> Any:
        """Look into the PackedSequence."""
        return values.data if isinstance(values, PackedSequence) else values


def _indices(sequence: PackedSequence, field: str) -> list[int]:
    """Return one of a PackedSequence's fields as a list; no order is the order that is sorted already."""
    indices = getattr(sequence, field)
    return list(range(int(sequence.batch_sizes[0]))) if indices is None else indices.tolist()


class PaddedLayout(Layout):
    """An array (T, B, I), (B, T, I) with ``batch_first``, or (T, I); with lengths, padded at the end."""

    def __init__(
        self,
        backend: Backend,
        shape: tuple[int, int],
        steps: PackedSteps,
        places: tuple[Array, Array] | None,
        *,
        order: HostIndices | None = None,
        lengths: HostIndices | None = None,
        batch_first: bool,
        batched: bool,
    ) -> None:
        """Take (T, B), and for each packed row its step and sequence; None where packing is a reshape."""
        super().__init__(backend, steps, shape[1], order, batched=batched)
        self._T, self._B = shape
        self._swap = batch_first and batched
        sizes: list[Axis] = [("T", self._T), ("B", self._B)] if batched else [("T", self._T)]
        self._leading = sizes[::-1] if self._swap else sizes
        self._shape = tuple(size for _, size in self._leading)
        self._places = places
        self._lengths = lengths

    @classmethod
    def of_lengths(
        cls, backend: Backend, T: int, B: int, lengths: HostIndices | None, *, batch_first: bool, batched: bool
    ) -> Self:
        """Lay out (T, B) steps of sequences of these lengths, which are checked; None for all T."""
        if lengths is None:
            return cls(backend, (T, B), PackedSteps.equal(T, B), None, batch_first=batch_first, batched=batched)
        by_length = sort_by_length(lengths)
        order = None if (by_length[1:] > by_length[:-1]).all() else by_length
        numbers = lengths[by_length]
        return cls(
            backend,
            (T, B),
            PackedSteps.from_sorted_lengths(numbers),
            padded_places(numbers, order, backend),
            order=order,
            lengths=lengths,
            batch_first=batch_first,
            batched=batched,
        )

    def check(self, argument: str, values: Any, axes: list[Axis]) -> None:
        """Compare the shape."""
        check_shape(argument, values.shape, self._leading + axes)

    def pack(self, argument: str, values: Any, axes: list[Axis], *, keep: bool = False) -> Array:
        """Drop the padding."""
        shape = values.shape
        if shape != (*self._shape, *map(_SIZE, axes)):
            self.check(argument, values, axes)
        if self._swap or self._places is not None:
            values = self._time_major(values)
        if self._places is not None:
            return values[self._places]
        if keep:
            values = values.copy(order="C")
        return values.reshape(self.steps.total, *shape[len(self._shape) :])

    def _time_major(self, values: Any) -> Array:
        """Return an array per step as (T, B, ...), or (T, ...) without a batch axis where packing is a reshape."""
        if self._swap:
            return values.swapaxes(0, 1)
        return values[:, None] if self._places is not None and not self.batched else values

    def unpack(self, rows: Array) -> Array:
        """Put the rows back; zeros where nothing was read."""
        shape = (self._T, self._B, *rows.shape[1:])
        if self._places is None:
            return self._user_layout(rows.reshape(shape))
        values = self.backend.xp.zeros(shape, dtype=rows.dtype)
        values[self._places] = rows
        return self._user_layout(values)

    def _user_layout(self, values: Array) -> Array:
        if not self.batched:
            return values[:, 0]
        return values.swapaxes(0, 1) if self._swap else values

    def flip(self, values: Array) -> Array:
        """Reverse each sequence; with lengths, its own steps, so that the padding stays at the end."""
        if self._lengths is None:
            return values[:, ::-1] if self._swap else values[::-1]
        t, b = reversed_places(self._T, self._lengths)
        time_major = values.swapaxes(0, 1) if self._swap else values
        return self._user_layout(time_major[self.backend.asarray(t), self.backend.asarray(b)])

    def data_of(self, argument: str, values: Any) -> Any:
        """Return the values: they have to be an array."""
        if isinstance(values, PackedSequence):
            raise BackendError(f"{argument}: expected an array, as the input was, got a PackedSequence")
        return values
