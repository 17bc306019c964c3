"""Sequences of different lengths in one batch: packed, padded, and what the time loop sees of them.

The time loop knows one layout only, the packed one: the rows of step 0, then those of step 1, …, where the
sequences stand sorted by length, longest first, so that the ones still running at a step are the first
``batch_sizes[t]``. A batch of equal lengths is the special case in which packing is a reshape. So padding
can leak nowhere: the loop never sees it.

Index arithmetic is done on the host, with NumPy; the data may be on any backend.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from nplstm._shapes import check_size
from nplstm._typing import Array, HostIndices
from nplstm.backends import Backend, backend_of, check_arrays
from nplstm.errors import ArgumentError, BackendError, DTypeError, ShapeError

__all__ = [
    "PackedSequence",
    "Steps",
    "check_lengths",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
]


class Steps:
    """Where each step's rows are in packed data. Not to be changed.

    Attributes
    ----------
    batch : int
        B, the number of sequences; those of length 0 count and have no rows.
    batch_sizes : HostIndices, shape (T,)
        How many sequences reach each step; never increasing.
    bounds : list of T + 1 ints
        Step t has the rows ``bounds[t]`` to ``bounds[t + 1]``.
    """

    __slots__ = ("batch", "batch_sizes", "bounds")

    def __init__(self, batch: int, batch_sizes: HostIndices) -> None:
        self.batch = batch
        self.batch_sizes = batch_sizes
        self.bounds: list[int] = [0, *np.cumsum(batch_sizes).tolist()]

    @classmethod
    def equal(cls, steps: int, batch: int) -> Self:
        """Make ``steps`` steps of ``batch`` sequences, all of one length."""
        return cls(batch, np.full(steps, batch, dtype=np.int64))

    @classmethod
    def from_sorted_lengths(cls, lengths: HostIndices) -> Self:
        """Make the steps of sequences of these lengths, which are in decreasing order."""
        return cls(len(lengths), _running(lengths).sum(axis=1))

    def __len__(self) -> int:
        return len(self.batch_sizes)

    @property
    def total(self) -> int:
        """N, the number of rows: the sum of all lengths."""
        return self.bounds[-1]

    def rows(self, first: int, last: int | None = None) -> slice:
        """Rows of step ``first``, or of the steps ``first`` to ``last``, both included."""
        return slice(self.bounds[first], self.bounds[(first if last is None else last) + 1])

    def blocks(self, rows: int, *, reverse: bool) -> Iterator[range]:
        """Cut the steps, in the order of processing, into runs of at most ``rows`` rows (at least one step)."""
        order = range(len(self) - 1, -1, -1) if reverse else range(len(self))
        start = filled = 0
        for k, t in enumerate(order):
            size = self.bounds[t + 1] - self.bounds[t]
            if k > start and filled + size > rows:
                yield order[start:k]
                start, filled = k, 0
            filled += size
        if start < len(order):
            yield order[start:]

    @property
    def lengths(self) -> HostIndices:
        """Each sequence's length, in decreasing order."""
        return (self.batch_sizes[:, None] > np.arange(self.batch)).sum(axis=0)


def _running(sorted_lengths: HostIndices) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(T, B): which sequences reach which step."""
    longest = int(sorted_lengths.max(initial=0))
    return np.arange(longest)[:, None] < sorted_lengths


def padded_places(sorted_lengths: HostIndices, order: HostIndices | None, backend: Backend) -> tuple[Array, Array]:
    """For each packed row its step and its sequence: where it stands in a padded (T, B, ...) array.

    ``order[j]`` is the place in the padded batch of the j-th longest sequence; None where they are sorted.
    """
    t, j = np.nonzero(_running(sorted_lengths))
    return backend.asarray(t), backend.asarray(j if order is None else order[j])


class _PackedFields(NamedTuple):
    data: Array
    batch_sizes: HostIndices
    sorted_indices: HostIndices | None
    unsorted_indices: HostIndices | None


class PackedSequence(_PackedFields):
    """Sequences of different lengths without padding, as ``torch.nn.utils.rnn.PackedSequence``.

    Made by ``pack_padded_sequence`` and ``pack_sequence``; unpacks like the tuple that it is.

    Attributes
    ----------
    data : Array, shape (N, ...)
        The rows of step 0, of step 1, and so on; within a step, longest sequence first.
    batch_sizes : int64 NumPy array, shape (T,)
        How many sequences reach each step. On the host, also when ``data`` is on a GPU.
    sorted_indices : int64 NumPy array, shape (B,), or None
        ``sorted_indices[j]`` is the user's index of the j-th longest sequence; None where the user's order
        was sorted already.
    unsorted_indices : int64 NumPy array, shape (B,), or None
        The inverse permutation.

    Raises
    ------
    ShapeError
        If the batch sizes increase, are not positive, or do not add up to the rows of ``data``; if the
        indices are not a permutation.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> packed = nplstm.pack_sequence([np.array([1.0, 2.0, 3.0]), np.array([4.0])])
    >>> packed.data, packed.batch_sizes
    (array([1., 4., 2., 3.]), array([2, 1, 1]))
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Array,
        batch_sizes: Sequence[int] | HostIndices,
        sorted_indices: Sequence[int] | HostIndices | None = None,
        unsorted_indices: Sequence[int] | HostIndices | None = None,
    ) -> Self:
        """Check the layout, and complete the two permutations from one another."""
        backend_of(data, "data")
        sizes = _host_integers("batch_sizes", batch_sizes)
        if len(sizes) == 0 or sizes.min() < 1 or (np.diff(sizes) > 0).any() or sizes.sum() != len(data):
            raise ShapeError(
                f"batch_sizes: expected positive sizes that never increase and add up to the {len(data)} "
                f"rows of data, got {sizes.tolist()}"
            )
        order = None if sorted_indices is None else _host_integers("sorted_indices", sorted_indices)
        inverse = None if unsorted_indices is None else _host_integers("unsorted_indices", unsorted_indices)
        for argument, indices in (("sorted_indices", order), ("unsorted_indices", inverse)):
            if indices is not None and not np.array_equal(np.sort(indices), np.arange(int(sizes[0]))):
                raise ShapeError(f"{argument}: expected a permutation of {sizes[0]}, got {indices.tolist()}")
        if order is None and inverse is not None:
            order = np.argsort(inverse)
        if order is not None and inverse is None:
            inverse = np.argsort(order)
        if order is not None and inverse is not None and (order[inverse] != np.arange(len(order))).any():
            raise ShapeError("unsorted_indices: expected the inverse permutation of sorted_indices")
        return super().__new__(cls, data, sizes, order, inverse)

    @property
    def steps(self) -> Steps:
        """The layout, as the time loop reads it."""
        return Steps(int(self.batch_sizes[0]), self.batch_sizes)


def _host_integers(argument: str, values: Any) -> HostIndices:
    """Return a one-dimensional int64 NumPy array; refuse what is not integers, or not on the host."""
    if hasattr(values, "__cuda_array_interface__"):
        raise BackendError(f"{argument}: expected integers on the host, got an array on a GPU; use .get()")
    try:
        numbers = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"{argument}: expected a sequence of integers, got {values!r}") from error
    if numbers.ndim != 1:
        raise ShapeError(f"{argument}: expected shape (B,), got {numbers.shape}")
    if numbers.size and numbers.dtype.kind not in "iu":
        raise DTypeError(f"{argument}: expected integers, got {numbers.dtype}: {values!r}")
    return numbers.astype(np.int64)


def check_lengths(lengths: Any, *, steps: int, batch: int, minimum: int) -> HostIndices:
    """Return the lengths as int64 if there are ``batch`` of them, each in [minimum, steps]."""
    numbers = _host_integers("lengths", lengths)
    if numbers.shape != (batch,):
        raise ShapeError(f"lengths: expected one for each of B={batch} sequences, got {numbers.shape[0]}")
    bad = np.flatnonzero((numbers < minimum) | (numbers > steps))
    if bad.size:
        first = int(bad[0])
        hint = "; LSTM's lengths= takes sequences of length 0" if numbers[first] == 0 else ""
        raise ArgumentError(
            f"lengths: expected integers in [{minimum}, T={steps}], got lengths[{first}] = {numbers[first]}{hint}"
        )
    return numbers


def sort_by_length(lengths: HostIndices) -> HostIndices:
    """Return the permutation that puts the longest first; equal lengths keep their order."""
    return np.argsort(-lengths, kind="stable")


def pack_padded_sequence(
    input: Array,
    lengths: Any,
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Drop the padding of a batch.

    Parameters
    ----------
    input : Array, shape (T, B, ...), or (B, T, ...) with ``batch_first``
        Padded sequences, with any axes behind the first two and any element type.
    lengths : sequence of B integers, on the host
        Each in [1, T].
    batch_first : bool
        The order of the first two axes.
    enforce_sorted : bool
        True: the sequences come sorted, longest first. False: in any order; results come back in the same.

    Raises
    ------
    ArgumentError
        If a length is not in [1, T], or the lengths are not sorted where they have to be.
    ShapeError, DTypeError
        If there are not B lengths, or they are not integers.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> padded = np.array([[1, 4], [2, 0], [3, 0]])  # (T=3, B=2)
    >>> nplstm.pack_padded_sequence(padded, [3, 1]).data
    array([1, 4, 2, 3])
    """
    backend = backend_of(input, "input")
    if input.ndim < 2:
        raise ShapeError(f"input: expected shape (T, B, ...) or (B, T, ...), got {input.shape}")
    padded = input.swapaxes(0, 1) if batch_first else input
    T, B = padded.shape[:2]
    numbers = check_lengths(lengths, steps=T, batch=B, minimum=1)
    if B == 0:
        raise ShapeError("input: expected at least one sequence to pack, got B=0")
    order = None
    if enforce_sorted and (np.diff(numbers) > 0).any():
        raise ArgumentError(
            f"lengths: expected decreasing order, got {numbers.tolist()}; "
            f"pass enforce_sorted=False for sequences in any order"
        )
    if not enforce_sorted:
        order = sort_by_length(numbers)
        numbers = numbers[order]
    data = padded[padded_places(numbers, order, backend)]
    return PackedSequence(data, Steps.from_sorted_lengths(numbers).batch_sizes, order)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Array, HostIndices]:
    """Give a packed batch its padding back: the inverse of ``pack_padded_sequence``.

    Parameters
    ----------
    sequence : PackedSequence
        N rows in all.
    batch_first : bool
        Return (B, T, ...) instead of (T, B, ...).
    padding_value : float
        What stands past a sequence's end.
    total_length : int, optional
        T of the result; by default the longest length.

    Returns
    -------
    padded : Array, shape (T, B, ...) or (B, T, ...)
    lengths : int64 NumPy array, shape (B,)
        Both in the user's order.

    Raises
    ------
    ArgumentError
        If ``total_length`` is less than the longest length.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> packed = nplstm.pack_sequence([np.array([1, 2, 3]), np.array([4])])
    >>> nplstm.pad_packed_sequence(packed, batch_first=True)
    (array([[1, 2, 3],
           [4, 0, 0]]), array([3, 1]))
    """
    if not isinstance(sequence, PackedSequence):
        raise BackendError(f"sequence: expected a PackedSequence, got {type(sequence).__qualname__}")
    steps = sequence.steps
    T = len(steps) if total_length is None else check_size("total_length", total_length)
    if len(steps) > T:
        raise ArgumentError(f"total_length: expected at least the longest length {len(steps)}, got {T}")
    backend = backend_of(sequence.data)
    shape = (T, steps.batch, *sequence.data.shape[1:])
    padded = backend.xp.full(shape, padding_value, dtype=sequence.data.dtype)
    padded[padded_places(steps.lengths, sequence.sorted_indices, backend)] = sequence.data
    lengths = steps.lengths
    if sequence.unsorted_indices is not None:
        lengths = lengths[sequence.unsorted_indices]
    return (padded.swapaxes(0, 1) if batch_first else padded), lengths


def _check_sequences(sequences: Sequence[Array]) -> None:
    if len(sequences) == 0:
        raise ShapeError("sequences: expected at least one array, got none")
    named = {f"sequences[{k}]": array for k, array in enumerate(sequences)}
    first = sequences[0]
    check_arrays("sequences[0]", backend_of(first, "sequences[0]"), first.dtype, **named)
    for argument, array in named.items():
        if array.ndim < 1 or array.shape[1:] != first.shape[1:]:
            axes = ", ".join(["length", *map(str, first.shape[1:])])
            raise ShapeError(f"{argument}: expected shape ({axes}) like sequences[0], got {array.shape}")


def pad_sequence(
    sequences: Sequence[Array],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Array:
    """Stack arrays of shapes (length, ...) into one, padded to the longest.

    Parameters
    ----------
    sequences : sequence of Arrays, each of shape (length, ...)
        Equal in all axes but the first, in element type and in backend.
    batch_first : bool
        Return (B, T, ...) instead of (T, B, ...).
    padding_value : float
        What stands in the padding.
    padding_side : {"right", "left"}
        Where the padding goes. ``lengths=`` and packing expect "right".

    Raises
    ------
    ShapeError
        If there is no array, or their trailing axes differ.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> nplstm.pad_sequence([np.array([1, 2, 3]), np.array([4])], batch_first=True)
    array([[1, 2, 3],
           [4, 0, 0]])
    """
    if padding_side not in {"right", "left"}:
        raise ArgumentError(f"padding_side: expected 'right' or 'left', got {padding_side!r}")
    _check_sequences(sequences)
    first = sequences[0]
    T = max(len(array) for array in sequences)
    shape = (len(sequences), T, *first.shape[1:])
    padded = backend_of(first).xp.full(shape, padding_value, dtype=first.dtype)
    for k, array in enumerate(sequences):
        padded[k, slice(len(array)) if padding_side == "right" else slice(T - len(array), T)] = array
    return padded if batch_first else padded.swapaxes(0, 1)


def pack_sequence(sequences: Sequence[Array], enforce_sorted: bool = True) -> PackedSequence:
    """Pack arrays of shapes (length, ...) into one batch.

    Parameters and errors are those of ``pad_sequence`` and ``pack_padded_sequence``, which it joins.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> nplstm.pack_sequence([np.array([4.0]), np.array([1.0, 2.0])], enforce_sorted=False).data
    array([1., 4., 2.])
    """
    padded = pad_sequence(sequences)
    lengths = [len(array) for array in sequences]
    return pack_padded_sequence(padded, lengths, enforce_sorted=enforce_sorted)
