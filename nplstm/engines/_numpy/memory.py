"""Arrays that begin where a cache line begins: a vector that lies across two lines costs two reads."""

from math import prod

import numpy as np

from nplstm._typing import Array, DType

__all__ = ["aligned_copy", "aligned_empty", "aligned_zeros"]

_LINE = 64

_SMALL = 4096
"""Bytes up to which an array stays where the C library puts it: to align it would take longer than what is won."""


def aligned_empty(shape: tuple[int, ...], dtype: DType) -> Array:
    """As ``numpy.empty``."""
    if prod(shape) * dtype.itemsize <= _SMALL:
        return np.empty(shape, dtype)
    return _aligned(np.empty(prod(shape) * dtype.itemsize + _LINE, np.uint8), shape, dtype)


def aligned_zeros(shape: tuple[int, ...], dtype: DType) -> Array:
    """As ``numpy.zeros``: large ones are in memory once they are written to."""
    if prod(shape) * dtype.itemsize <= _SMALL:
        return np.zeros(shape, dtype)
    return _aligned(np.zeros(prod(shape) * dtype.itemsize + _LINE, np.uint8), shape, dtype)


def _aligned(room: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    start = -room.__array_interface__["data"][0] % _LINE
    return room[start : start + len(room) - _LINE].view(dtype).reshape(shape)


def aligned_copy(values: Array) -> Array:
    """Return a copy without gaps, in the order of the axes."""
    array = aligned_empty(values.shape, values.dtype)
    array[...] = values
    return array
