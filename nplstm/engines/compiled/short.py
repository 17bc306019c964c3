"""Plain calls on the compiled engine: all layers in one kernel call, for sequences of one length."""

import numpy as np

from nplstm._typing import Array
from nplstm.core.step import Recurrence
from nplstm.engines.base import ShortCall
from nplstm.engines.compiled.library import library
from nplstm.engines.compiled.packing import pack
from nplstm.engines.threads import get_num_threads

__all__ = ["CompiledShortCall"]

_MOST_WEIGHTS = 3 * 18
"""Arrays of parameters that one call of the kernels takes beside the others."""


class CompiledShortCall(ShortCall):
    """See ``ShortCall``."""

    def __init__(self, recurrences: list[list[Recurrence]], directions: tuple[bool, ...]) -> None:
        found, params = library(), recurrences[0][0].params
        self._stack, self._set = found.module.stack, found.choice
        self._directions, self._H, self._dtype = directions, params.weight_hh.shape[1], params.weight_hh.dtype
        self._states = len(recurrences) * len(directions)
        self._weights = tuple(array for row in recurrences for r in row for array in pack(r)[:3])

    def takes(self, steps: int, batch: int) -> bool:
        """Take calls of any size, of stacks that are not too high."""
        return len(self._weights) <= _MOST_WEIGHTS

    def __call__(self, x: Array, h_0: Array | None, c_0: Array | None) -> tuple[Array, Array, Array]:
        """Run all layers on ``x`` (T, B, I)."""
        T, B, _ = x.shape
        output = np.empty((T, B, len(self._directions) * self._H), self._dtype)
        h_n, c_n = np.empty((2, self._states, B, self._H), self._dtype)
        arrays = (_whole(x), _whole(h_0), _whole(c_0), output, h_n, c_n)
        self._stack(self._set, *arrays, self._weights, self._directions, get_num_threads())
        return output, h_n, c_n


def _whole(array: Array | None) -> Array | None:
    """Return an array without gaps: itself, or a copy."""
    if array is None or (array.flags.c_contiguous and array.flags.aligned):
        return array
    return np.array(array, order="C")
