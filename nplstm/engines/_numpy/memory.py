"""Arrays that begin where a cache line begins: a vector that lies across two lines costs two reads."""

from math import prod

import numpy as np

from nplstm._typing import Array, DType

__all__ = ["aligned_copy", "aligned_empty", "aligned_zeros"]

_LINE = 64


def aligned_empty(shape: tuple[int, ...], dtype: DType) -> Array:
    """As ``numpy.empty``."""
    size = prod(shape) * dtype.itemsize
    room = np.empty(size + _LINE, np.uint8)
    start = -room.__array_interface__["data"][0] % _LINE
    return room[start : start + size].view(dtype).reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype: DType) -> Array:
    """As ``numpy.zeros``."""
    array = aligned_empty(shape, dtype)
    array[...] = 0
    return array


def aligned_copy(values: Array) -> Array:
    """Return a copy without gaps, in the order of the axes."""
    array = aligned_empty(values.shape, values.dtype)
    array[...] = values
    return array
