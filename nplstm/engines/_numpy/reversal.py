"""Reversal of sequences in time, so that rows are read and written in the order of processing."""

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps

__all__ = ["Reversal"]


class Reversal:
    """Reads and writes packed data in the order of processing; with ``reverse`` from each sequence's end."""

    def __init__(self, steps: PackedSteps, *, reverse: bool) -> None:
        self._steps = steps
        self._reverse = reverse
        self._places = steps.reversed_rows() if reverse and steps.ragged else None

    def read(self, values: Array, first: int, last: int) -> Array:
        """Return the rows of the steps from ``first`` to before ``last``; a copy if they are reversed."""
        if self._places is not None:
            return values[self._places[self._steps.span(first, last)]]
        rows = values[self._steps.span(first, last, reverse=self._reverse)]
        return self._turned(rows, last - first) if self._reverse else rows

    def write(self, into: Array, first: int, last: int, values: Array) -> None:
        """Write the rows of these steps."""
        if self._places is not None:
            into[self._places[self._steps.span(first, last)]] = values
        else:
            rows = self._turned(values, last - first) if self._reverse else values
            into[self._steps.span(first, last, reverse=self._reverse)] = rows

    def whole(self, values: Array) -> Array:
        """Return all rows in the order of processing; applied twice it is the identity."""
        return self.read(values, 0, len(self._steps)) if self._reverse else values

    @staticmethod
    def _turned(rows: Array, count: int) -> Array:
        """Reverse ``count`` steps that have the same number of sequences."""
        by_step = rows.reshape(count, len(rows) // max(1, count), rows.shape[1])
        return by_step[::-1].reshape(rows.shape)
