"""Where the rows of a step are, in packed data and in the order of processing, and which of them a thread has."""

from typing import Any, NamedTuple

from nplstm.engines.compiled._numba import njit

__all__ = ["Share", "Span", "first_row", "rows_before", "rows_of", "time_of"]


class Span(NamedTuple):
    """How the steps are walked."""

    reverse: bool
    block: int  # steps whose input is transformed at once
    keep: bool  # whether ``gates`` and ``cells`` have room for all rows, or gates for a block's alone


class Share(NamedTuple):
    """What one thread does of it."""

    first: int  # sequences
    last: int
    first_panel: int  # of cells
    last_panel: int
    member: int  # of the threads that wait for each other
    members: int


@njit(nogil=True)
def time_of(offsets: Any, s: Any, reverse: Any) -> Any:
    """Return which step is the s-th to be processed."""
    return len(offsets) - 2 - s if reverse else s


@njit(nogil=True)
def first_row(offsets: Any, first: Any, last: Any, reverse: Any) -> Any:
    """Return the lowest row of some steps."""
    return offsets[time_of(offsets, last - 1 if reverse else first, reverse)]


@njit(nogil=True)
def rows_of(offsets: Any, s: Any, reverse: Any, share: Any) -> Any:
    """Return where a share's rows of step s begin, and how many there are."""
    t = time_of(offsets, s, reverse)
    return offsets[t] + share.first, max(0, min(share.last, offsets[t + 1] - offsets[t]) - share.first)


@njit(nogil=True)
def rows_before(offsets: Any, s: Any, rows: Any, reverse: Any, share: Any) -> Any:
    """Return where the step before had these sequences, and how many of them took it."""
    if s == 0:
        return 0, 0
    row, began = rows_of(offsets, s - 1, reverse, share)
    return row, min(rows, began)
