"""Packed batch index: which sequences reach which step, and where their rows are.

Packed data holds the rows of step 0, then those of step 1, and so on. The sequences are sorted by length, longest
first, so the ones that reach step t are the first ``batch_sizes[t]``. For a batch of equal lengths packing is a
reshape. The time loop reads packed data only, which has no padding; so padding cannot change a result.

Index arithmetic is done on the host, with NumPy; the data may be on any backend.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Self, TypeVar, cast

import numpy as np

from nplstm._typing import Array, HostIndices
from nplstm.backends import Backend
from nplstm.errors import ArgumentError, BackendError, DTypeError, ShapeError

__all__ = [
    "KEPT_STEPS",
    "PackedSteps",
    "check_lengths",
    "host_array",
    "host_integers",
    "inverse_permutation",
    "padded_places",
    "reversed_places",
    "sort_by_length",
]


S = TypeVar("S", bound="PackedSteps")
T = TypeVar("T")


class PackedSteps:
    """Where each step's rows are in packed data. Must not be modified.

    Attributes
    ----------
    batch : int
        B, the number of sequences, with those of length 0, which have no rows.
    batch_sizes : HostIndices, shape (T,)
        How many sequences reach each step; never increasing.
    offsets : HostIndices, shape (T + 1,)
        Step t has the rows ``offsets[t]`` to ``offsets[t + 1]``.
    bounds : list of T + 1 ints
        The same as Python's integers.
    total : int
        N, the number of rows: the sum of all lengths.
    ragged : bool
        Whether a sequence ends before the last step.
    """

    __slots__ = ("_prepared", "batch", "batch_sizes", "bounds", "offsets", "ragged", "total")

    def __init__(self, batch: int, batch_sizes: HostIndices) -> None:
        self.batch = batch
        self.batch_sizes = batch_sizes
        self.offsets: HostIndices = np.zeros(len(batch_sizes) + 1, dtype=np.int64)
        np.cumsum(batch_sizes, out=self.offsets[1:])
        self.bounds: list[int] = self.offsets.tolist()
        self.total: int = self.bounds[-1]
        self.ragged: bool = self.total != len(batch_sizes) * batch
        self._prepared: dict[Any, Any] = {}

    @classmethod
    def equal(cls, steps: int, batch: int) -> Self:
        """Return ``steps`` steps of ``batch`` sequences, all of one length."""
        make = _equal if steps <= KEPT_STEPS else _equal.__wrapped__
        return make(cls, steps, batch)

    @classmethod
    def from_sorted_lengths(cls, lengths: HostIndices) -> Self:
        """Make the steps of sequences of these lengths, which are in decreasing order."""
        return cls(len(lengths), _running(lengths).sum(axis=1))

    def __len__(self) -> int:
        return len(self.batch_sizes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.batch, self.batch_sizes)  # without what engines made of it

    def prepared(self, make: Callable[["PackedSteps"], T]) -> T:
        """Return ``make(self)``, an engine's own form of the index; made once and cached."""
        if make not in self._prepared:
            self._prepared[make] = make(self)
        return self._prepared[make]

    def size(self, t: int) -> int:
        """How many sequences take step ``t``."""
        return self.bounds[t + 1] - self.bounds[t]

    def rows(self, t: int) -> slice:
        """Rows of step ``t``."""
        return slice(self.bounds[t], self.bounds[t + 1])

    def span(self, first: int, last: int, *, reverse: bool = False) -> slice:
        """Rows of the steps from ``first`` to before ``last``; with ``reverse`` counted from the last one back."""
        if reverse:
            first, last = len(self) - last, len(self) - first
        return slice(self.bounds[first], self.bounds[last])

    def blocks(self, rows: int, *, reverse: bool) -> Iterator[range]:
        """Cut the steps, in the order of processing, into runs of at most ``rows`` rows (at least one step)."""
        order = range(len(self) - 1, -1, -1) if reverse else range(len(self))
        if self.batch and not self.ragged:
            count = max(1, rows // self.batch)
            yield from (order[first : first + count] for first in range(0, len(order), count))
            return
        start = filled = 0
        for k, t in enumerate(order):
            size = self.size(t)
            if k > start and filled + size > rows:
                yield order[start:k]
                start, filled = k, 0
            filled += size
        if start < len(order):
            yield order[start:]

    def reversed_rows(self) -> HostIndices:
        """For each row, the row that takes its place when every sequence is reversed in time; (N,)."""
        j = self.sequences
        t = np.repeat(np.arange(len(self)), self.batch_sizes)
        return np.asarray(self.bounds)[self.lengths[j] - 1 - t] + j

    def rows_before(self, rows: slice, *, reverse: bool) -> tuple[HostIndices, HostIndices, HostIndices]:
        """For rows of whole steps, find where their sequences were a step before, in the order of processing.

        Returns
        -------
        places : shape (n,)
            The row of the step before; an arbitrary row for a sequence that begins here.
        begins, sequences : shape (m,)
            The rows of sequences that begin here, counted from the first of ``rows``; and the sequences.
        """
        start, stop = int(rows.start), int(rows.stop)
        first, last = bisect_left(self.bounds, start), bisect_left(self.bounds, stop)
        counts = self.batch_sizes[first:last]
        begin = cast("HostIndices", np.repeat(self.offsets[first:last], counts))
        j = np.arange(start, stop) - begin
        t = np.repeat(np.arange(first, last), counts) + (1 if reverse else -1)
        sizes = np.append(
            self.batch_sizes, 0
        )  # the step before the first (index -1) and the one after the last have no rows
        inside = j < sizes[t]
        begins = np.flatnonzero(~inside)
        return np.where(inside, self.offsets[t] + j, 0), begins, j[begins]

    @property
    def sequences(self) -> HostIndices:
        """Each row's sequence, (N,)."""
        return np.nonzero(_running(self.lengths))[1]

    @property
    def lengths(self) -> HostIndices:
        """Each sequence's length, in decreasing order."""
        return (self.batch_sizes[:, None] > np.arange(self.batch)).sum(axis=0)


KEPT_STEPS = 1024
"""Steps up to which an index is cached: a longer one takes much memory, and little of a call's time."""


@lru_cache(maxsize=32)
def _equal(kind: type[S], steps: int, batch: int) -> S:
    """Make the index once for successive calls of the same size."""
    return kind(batch, np.full(steps, batch, dtype=np.int64))


def _running(sorted_lengths: HostIndices) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(T, B): which sequences reach which step."""
    longest = int(sorted_lengths.max(initial=0))
    return np.arange(longest)[:, None] < sorted_lengths


def padded_places(sorted_lengths: HostIndices, order: HostIndices | None, backend: Backend) -> tuple[Array, Array]:
    """Return each packed row's step and sequence, its place in a padded (T, B, ...) array.

    ``order[j]`` is the place in the padded batch of the j-th longest sequence; None where they are sorted.
    """
    t, j = np.nonzero(_running(sorted_lengths))
    return backend.asarray(t), backend.asarray(j if order is None else order[j])


def reversed_places(T: int, lengths: HostIndices) -> tuple[HostIndices, HostIndices]:
    """Step and sequence that come to each place of a padded batch when every sequence is reversed in time."""
    t = np.arange(T)[:, None]
    return np.where(t < lengths, lengths - 1 - t, t), np.arange(len(lengths))


def host_array(argument: str, values: Any, what: str, form: str = "an array") -> "np.ndarray[Any, Any]":
    """Return a NumPy array of the user's values; raise for arrays on a GPU and for values that are no array."""
    if hasattr(values, "__cuda_array_interface__"):
        raise BackendError(f"{argument}: expected {what} on the host, got an array on a GPU; use .get()")
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"{argument}: expected {form} of {what}, got {values!r}") from error


def host_integers(argument: str, values: Any) -> HostIndices:
    """Return a one-dimensional int64 NumPy array; raise for values that are not integers or not on the host."""
    numbers = host_array(argument, values, "integers", "a sequence")
    if numbers.ndim != 1:
        raise ShapeError(f"{argument}: expected shape (B,), got {numbers.shape}")
    if numbers.size and numbers.dtype.kind not in "iu":
        raise DTypeError(f"{argument}: expected integers, got {numbers.dtype}: {values!r}")
    if numbers.dtype.kind == "u" and numbers.max(initial=0) > np.iinfo(np.int64).max:
        raise ArgumentError(f"{argument}: expected sizes of arrays, got {numbers.max()}")
    numbers = numbers.astype(np.int64)  # a copy: the caller may modify its own array later
    numbers.flags.writeable = False
    return numbers


def check_lengths(lengths: Any, *, steps: int, batch: int, minimum: int, argument: str = "lengths") -> HostIndices:
    """Return the lengths as int64 if there are ``batch`` of them, each in [minimum, steps]."""
    numbers = host_integers(argument, lengths)
    if numbers.shape != (batch,):
        raise ShapeError(f"{argument}: expected one for each of B={batch} sequences, got {numbers.shape[0]}")
    bad = np.flatnonzero((numbers < minimum) | (numbers > steps))
    if bad.size:
        first = int(bad[0])
        hint = "; LSTM's lengths= takes sequences of length 0" if numbers[first] == 0 else ""
        raise ArgumentError(
            f"{argument}: expected integers in [{minimum}, T={steps}], got "
            f"{argument}[{first}] = {numbers[first]}{hint}"
        )
    return numbers


def sort_by_length(lengths: HostIndices) -> HostIndices:
    """Return the permutation that puts the longest first; equal lengths keep their order."""
    return np.argsort(-lengths, kind="stable")


def inverse_permutation(permutation: HostIndices) -> HostIndices:
    """Return the permutation that undoes this one; read-only."""
    inverse = np.argsort(permutation)
    inverse.flags.writeable = False
    return inverse
