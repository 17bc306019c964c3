"""From the user's layout to the packed one of the time loop, and back.

A user's batch may be time-major or batch-first, have no batch axis, be padded with ``lengths`` or come as a
``PackedSequence``. ``pack`` and ``unpack`` are each other's transposes, so gradients travel the same way:
the gradient of an input is ``unpack`` of the packed gradient, and past a sequence's end it is zero.
"""

from abc import ABC, abstractmethod
from typing import Any

from nplstm._shapes import Axis, check_shape
from nplstm._typing import Array, DType, HostIndices
from nplstm.backends import Backend
from nplstm.errors import ArgumentError, BackendError, ShapeError
from nplstm.packing import PackedSequence
from nplstm.steps import Steps, check_lengths, inverse_permutation, padded_places, sort_by_length

__all__ = ["Layout", "PackedLayout", "PaddedLayout", "find_layout"]


class Layout(ABC):
    """How one batch is laid out by the user.

    Parameters
    ----------
    backend : Backend
        Of the batch.
    steps : Steps
        What the time loop sees.
    order : HostIndices or None
        ``order[j]``: the user's index of the j-th longest sequence; None where they are sorted already.
    batched : bool
        Whether there is a batch axis.
    """

    def __init__(self, backend: Backend, steps: Steps, order: HostIndices | None, *, batched: bool) -> None:
        self.backend = backend
        self.steps = steps
        self.batched = batched
        self._order: Array | None = None
        self._inverse: Array | None = None
        if order is not None:
            self._order = backend.asarray(order)
            self._inverse = backend.asarray(inverse_permutation(order))

    @abstractmethod
    def pack(self, argument: str, values: Any, width: Axis, *, keep: bool = False) -> Array:
        """Check the user's values (an input or a gradient) and return them as (N, width).

        With ``keep`` the result shares no memory with them: the user may write into a batch that a tape holds.
        """

    @abstractmethod
    def unpack(self, rows: Array) -> Any:
        """Return (N, width) rows in the user's layout."""

    @abstractmethod
    def data_of(self, argument: str, values: Any) -> Any:
        """Return the array in the user's values."""

    def pack_state(
        self,
        argument: str,
        state: Array | None,
        count: int,
        width: Axis,
        dtype: DType,
        *,
        shareable: bool,
    ) -> Array:
        """Return a user's state as a new array (L * D, B, width), longest sequence first; zeros for None.

        ``state`` has the user's layout of states, or if ``shareable`` is (width,): one vector for all layers,
        directions and sequences.
        """
        shape = (count, self.steps.batch, width[1] or 0)
        if state is None:
            return self.backend.xp.zeros(shape, dtype=dtype)
        if shareable and state.ndim == 1:
            check_shape(argument, state.shape, [width])
            return self.backend.xp.broadcast_to(state, shape).copy()
        batch_axis: list[Axis] = [("B", self.steps.batch)] if self.batched else []
        check_shape(argument, state.shape, [("layers*directions", count), *batch_axis, width])
        packed = state.reshape(shape)
        return packed.copy() if self._order is None else packed[:, self._order]

    def unpack_state(self, state: Array) -> Array:
        """Return (L * D, B, width) in the user's order, without the batch axis where the user has none."""
        if self._inverse is not None:
            state = state[:, self._inverse]
        return state if self.batched else state[:, 0]

    def unpack_state_gradient(self, grad: Array, *, shared: bool) -> Array:
        """Return a state's gradient as the user gave the state; ``shared`` where it was one vector for all."""
        return grad.sum(axis=(0, 1)) if shared else self.unpack_state(grad)


class PackedLayout(Layout):
    """A PackedSequence: packed already."""

    def __init__(self, backend: Backend, x: PackedSequence) -> None:
        super().__init__(backend, x.steps, x.sorted_indices, batched=True)
        self._like = x

    def pack(self, argument: str, values: Any, width: Axis, *, keep: bool = False) -> Array:
        """Take the data."""
        if not isinstance(values, PackedSequence):
            raise BackendError(
                f"{argument}: expected a PackedSequence, as the input was, got {type(values).__qualname__}"
            )
        for field in ("batch_sizes", "sorted_indices"):
            expected, got = (_indices(sequence, field) for sequence in (self._like, values))
            if got != expected:
                raise ShapeError(f"{argument}: expected {field} {expected} as in the input, got {got}")
        check_shape(f"{argument}.data", values.data.shape, [("N", self.steps.total), width])
        return values.data.copy() if keep else values.data

    def unpack(self, rows: Array) -> PackedSequence:
        """Wrap the data."""
        return PackedSequence(rows, self._like.batch_sizes, self._like.sorted_indices)

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
        self, backend: Backend, T: int, B: int, lengths: Any, *, batch_first: bool, batched: bool
    ) -> None:
        self._T, self._B = T, B
        self._swap = batch_first and batched
        self._places: tuple[Array, Array] | None = None
        order = None
        steps = Steps.equal(T, B)
        if lengths is not None:
            numbers = check_lengths(lengths, steps=T, batch=B, minimum=0)
            by_length = sort_by_length(numbers)
            order = None if (by_length[1:] > by_length[:-1]).all() else by_length
            numbers = numbers[by_length]
            steps = Steps.from_sorted_lengths(numbers)
            self._places = padded_places(numbers, order, backend)
        super().__init__(backend, steps, order, batched=batched)

    def pack(self, argument: str, values: Any, width: Axis, *, keep: bool = False) -> Array:
        """Drop the padding."""
        sizes: list[Axis] = [("T", self._T), ("B", self._B)] if self.batched else [("T", self._T)]
        check_shape(argument, values.shape, [*(reversed(sizes) if self._swap else sizes), width])
        time_major = values.swapaxes(0, 1) if self._swap else values
        if self._places is not None:
            return time_major[self._places]
        if keep:
            time_major = time_major.copy(order="C")
        return time_major.reshape(self.steps.total, values.shape[-1])

    def unpack(self, rows: Array) -> Array:
        """Put the rows back; zeros past the ends."""
        if not self.batched:
            return rows
        shape = (self._T, self._B, rows.shape[-1])
        if self._places is None:
            values = rows.reshape(shape)
        else:
            values = self.backend.xp.zeros(shape, dtype=rows.dtype)
            values[self._places] = rows
        return values.swapaxes(0, 1) if self._swap else values

    def data_of(self, argument: str, values: Any) -> Any:
        """Return the values: they have to be an array."""
        if isinstance(values, PackedSequence):
            raise BackendError(f"{argument}: expected an array, as the input was, got a PackedSequence")
        return values


def find_layout(x: Any, lengths: Any, *, input_size: int, batch_first: bool, backend: Backend) -> Layout:
    """Read the layout off an input: its type and its axes."""
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise ArgumentError("lengths: a PackedSequence has its lengths already; pass one of the two")
        return PackedLayout(backend, x)
    if x.ndim not in {2, 3}:
        axes = "(B, T, I" if batch_first else "(T, B, I"
        raise ShapeError(
            f"input: expected shape {axes}={input_size}), or (T, I={input_size}) unbatched, got {x.shape}"
        )
    batched = x.ndim == 3
    if lengths is not None and not batched:
        raise ArgumentError(f"lengths: an unbatched input (T, I) has none; the input is {x.shape}")
    T, B = (x.shape[1], x.shape[0]) if batched and batch_first else (x.shape[0], x.shape[1] if batched else 1)
    if T == 0:
        raise ShapeError(f"input: expected at least one time step, got T=0 in shape {x.shape}")
    return PaddedLayout(backend, T, B, lengths, batch_first=batch_first, batched=batched)
