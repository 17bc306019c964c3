"""Packing and padding of sequences of different lengths, as in ``torch.nn.utils.rnn``.

``nplstm/core/packed.py`` describes packed data.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from nplstm._shapes import check_flag, check_size, describe_axes
from nplstm._typing import Array, DType, HostIndices
from nplstm.backends import backend_of, check_arrays
from nplstm.core.packed import (
    PackedSteps,
    check_lengths,
    host_integers,
    inverse_permutation,
    padded_places,
    sort_by_length,
)
from nplstm.errors import ArgumentError, BackendError, ShapeError

__all__ = [
    "PackedSequence",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
]


class _PackedFields(NamedTuple):
    data: Array
    batch_sizes: HostIndices
    sorted_indices: HostIndices | None
    unsorted_indices: HostIndices | None


class PackedSequence(_PackedFields):
    """Sequences of different lengths without padding, as ``torch.nn.utils.rnn.PackedSequence``.

    A named tuple, made by ``pack_padded_sequence`` and ``pack_sequence``.

    Attributes
    ----------
    data : Array, shape (N, ...)
        The rows of step 0, of step 1, and so on; within a step, longest sequence first.
    batch_sizes : int64 NumPy array, shape (T,)
        How many sequences reach each step. Like the indices it is read-only, and on the host also when ``data`` is
        on a GPU.
    sorted_indices : int64 NumPy array, shape (B,), or None
        ``sorted_indices[j]`` is the user's index of the j-th longest sequence; None if the user's order was
        sorted.
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
        """Check the fields; compute one permutation from the other where only one is given."""
        if backend_of(data, "data") and data.ndim == 0:
            raise ShapeError("data: expected shape (N, ...), got ()")
        sizes = host_integers("batch_sizes", batch_sizes)
        if len(sizes) == 0 or sizes.min() < 1 or (np.diff(sizes) > 0).any() or sizes.sum() != len(data):
            raise ShapeError(
                f"batch_sizes: expected positive sizes that never increase and add up to the {len(data)} "
                f"rows of data, got {sizes.tolist()}"
            )
        order = None if sorted_indices is None else host_integers("sorted_indices", sorted_indices)
        inverse = None if unsorted_indices is None else host_integers("unsorted_indices", unsorted_indices)
        for argument, indices in (("sorted_indices", order), ("unsorted_indices", inverse)):
            if indices is not None and not np.array_equal(np.sort(indices), np.arange(int(sizes[0]))):
                raise ShapeError(f"{argument}: expected a permutation of {sizes[0]}, got {indices.tolist()}")
        if order is None and inverse is not None:
            order = inverse_permutation(inverse)
        if order is not None and inverse is None:
            inverse = inverse_permutation(order)
        if order is not None and inverse is not None and (order[inverse] != np.arange(len(order))).any():
            raise ShapeError("unsorted_indices: expected the inverse permutation of sorted_indices")
        return super().__new__(cls, data, sizes, order, inverse)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        # _replace calls it: the checks hold there, too
        return cls(*iterable)

    @property
    def steps(self) -> PackedSteps:
        """The packed batch index, as the time loop reads it.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> steps = nplstm.pack_sequence([np.array([1.0, 2.0, 3.0]), np.array([4.0])]).steps
        >>> len(steps), steps.batch, steps.total  # T, B and N
        (3, 2, 4)
        """
        return PackedSteps(int(self.batch_sizes[0]), self.batch_sizes)


def pack_padded_sequence(
    input: Array,
    lengths: Any,
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Pack a padded batch: drop the padding.

    Parameters
    ----------
    input : Array, shape (T, B, ...), or (B, T, ...) with ``batch_first``
        Padded sequences, of any element type, with any further axes.
    lengths : sequence of B integers, on the host
        Each in [1, T].
    batch_first : bool
        The order of the first two axes.
    enforce_sorted : bool
        True: the sequences must be sorted, longest first. False: any order, which unpacking restores.

    Raises
    ------
    ArgumentError
        If a length is not in [1, T], or with ``enforce_sorted`` the lengths are not in decreasing order.
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
    check_flag("batch_first", batch_first)
    check_flag("enforce_sorted", enforce_sorted)
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
    return PackedSequence(data, PackedSteps.from_sorted_lengths(numbers).batch_sizes, order)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Array, HostIndices]:
    """Pad a packed batch: the inverse of ``pack_padded_sequence``.

    Parameters
    ----------
    sequence : PackedSequence
        N rows in all.
    batch_first : bool
        Return (B, T, ...) instead of (T, B, ...).
    padding_value : float
        Value past each sequence's end.
    total_length : int, optional
        T of the result; by default the longest length.

    Returns
    -------
    padded : Array, shape (T, B, ...) or (B, T, ...)
    lengths : int64 NumPy array, shape (B,)
        Both in the order before packing.

    Raises
    ------
    ArgumentError
        If ``total_length`` is less than the longest length, or the data cannot hold ``padding_value``.
    BackendError
        If ``sequence`` is not a PackedSequence.

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
    _check_padding_value(padding_value, sequence.data.dtype)
    shape = (T, steps.batch, *sequence.data.shape[1:])
    padded = backend.xp.full(shape, padding_value, dtype=sequence.data.dtype)
    lengths = steps.lengths
    padded[padded_places(lengths, sequence.sorted_indices, backend)] = sequence.data
    if sequence.unsorted_indices is not None:
        lengths = lengths[sequence.unsorted_indices]
    return (padded.swapaxes(0, 1) if batch_first else padded), lengths


def _check_sequences(sequences: Iterable[Array]) -> list[Array]:
    if not isinstance(sequences, Iterable):
        raise BackendError(f"sequences: expected arrays in a sequence, got {type(sequences).__qualname__}")
    sequences = list(sequences)
    if len(sequences) == 0:
        raise ShapeError("sequences: expected at least one array, got none")
    named = {f"sequences[{k}]": array for k, array in enumerate(sequences)}
    first = sequences[0]
    check_arrays("sequences[0]", backend_of(first, "sequences[0]"), first.dtype, **named)
    for argument, array in named.items():
        if array.ndim < 1 or array.shape[1:] != first.shape[1:]:
            axes = describe_axes([("length", None), *((str(size), size) for size in first.shape[1:])])
            raise ShapeError(f"{argument}: expected shape {axes} like sequences[0], got {array.shape}")
    return sequences


def _check_padding_value(value: float, dtype: DType) -> None:
    """Raise unless an array of that type can hold the value: integer arrays cannot hold 0.5 or NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"padding_value: expected a number, got {value!r}") from error
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not (number.is_integer() and limits.min <= number <= limits.max):
            raise ArgumentError(f"padding_value: {value!r} does not fit into {dtype} data")


def pad_sequence(
    sequences: Iterable[Array],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Array:
    """Stack arrays of shapes (length, ...) into one, padded to the longest.

    Parameters
    ----------
    sequences : iterable of Arrays, each of shape (length, ...)
        Equal in all axes but the first, in element type and in backend.
    batch_first : bool
        Return (B, T, ...) instead of (T, B, ...).
    padding_value : float
        Value of the padding.
    padding_side : {"right", "left"}
        Where the padding goes. ``lengths=`` and packing expect "right".

    Raises
    ------
    ShapeError
        If there is no array, or their trailing axes differ.
    DTypeError, BackendError
        If their element types or backends differ.
    ArgumentError
        If ``padding_side`` is neither of the two, or the arrays cannot hold ``padding_value``.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> nplstm.pad_sequence([np.array([1, 2, 3]), np.array([4])], batch_first=True)
    array([[1, 2, 3],
           [4, 0, 0]])
    """
    if padding_side not in ("right", "left"):
        raise ArgumentError(f"padding_side: expected 'right' or 'left', got {padding_side!r}")
    padded = _stack(_check_sequences(sequences), padding_value, left=padding_side == "left")
    return padded if batch_first else padded.swapaxes(0, 1)


def _stack(sequences: list[Array], padding_value: float, *, left: bool) -> Array:
    """Stack checked arrays as (B, T, ...)."""
    first = sequences[0]
    _check_padding_value(padding_value, first.dtype)
    T = max(len(array) for array in sequences)
    shape = (len(sequences), T, *first.shape[1:])
    padded = backend_of(first).xp.full(shape, padding_value, dtype=first.dtype)
    for k, array in enumerate(sequences):
        padded[k, slice(T - len(array), T) if left else slice(len(array))] = array
    return padded


def pack_sequence(sequences: Iterable[Array], enforce_sorted: bool = True) -> PackedSequence:
    """Pack arrays of shapes (length, ...) into one batch.

    Parameters and errors are those of ``pad_sequence`` and ``pack_padded_sequence``: it does one after the other.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> nplstm.pack_sequence([np.array([4.0]), np.array([1.0, 2.0])], enforce_sorted=False).data
    array([1., 4., 2.])
    """
    checked = _check_sequences(sequences)
    lengths = [len(array) for array in checked]
    padded = _stack(checked, 0.0, left=False)
    return pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=enforce_sorted)
