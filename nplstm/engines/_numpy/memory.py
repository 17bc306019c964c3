"""Arrays aligned to cache lines: a SIMD vector that lies across two lines takes two reads."""

from math import prod

import numpy as np

from nplstm._typing import Array, DType

__all__ = ["aligned_copy", "aligned_empty", "aligned_zeros", "work_space"]

_LINE = 64

_SMALL = 1 << 14
"""Bytes of a work space up to which alignment takes longer than it saves in one call."""


def aligned_empty(shape: tuple[int, ...], dtype: DType) -> Array:
    """Return an uninitialised array, as ``numpy.empty``."""
    return _aligned(np.empty(prod(shape) * dtype.itemsize + _LINE, np.uint8), shape, dtype)


def aligned_zeros(shape: tuple[int, ...], dtype: DType) -> Array:
    """Return zeros, as ``numpy.zeros``: a large array takes memory when it is first written to."""
    return _aligned(np.zeros(prod(shape) * dtype.itemsize + _LINE, np.uint8), shape, dtype)


def aligned_copy(values: Array) -> Array:
    """Return a C-contiguous copy."""
    array = aligned_empty(values.shape, values.dtype)
    array[...] = values
    return array


def work_space(shape: tuple[int, ...], dtype: DType) -> Array:
    """Return an uninitialised array for one call; aligned if it is large enough to gain by it."""
    return np.empty(shape, dtype) if prod(shape) * dtype.itemsize <= _SMALL else aligned_empty(shape, dtype)


def _aligned(room: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    start = -room.__array_interface__["data"][0] % _LINE
    return room[start : start + len(room) - _LINE].view(dtype).reshape(shape)
