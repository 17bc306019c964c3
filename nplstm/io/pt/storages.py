"""Storages and strided tensors: a tensor in a file is a window into a storage, with type, sizes and strides."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeGuard, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nplstm._typing import Array
from nplstm.io.model_file import WIDENED, Budget, widen_bfloat16
from nplstm.io.pt.unpickler import RefusedError, Value

__all__ = ["ITEMSIZES", "NUMPY_CODES", "Storage", "StridedTensor", "bytes_of", "is_possible", "is_shape"]

NUMPY_CODES = {
    "float16": "f2", "float32": "f4", "float64": "f8", "complex64": "c8", "complex128": "c16", "bool": "b1",
    "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8",
}  # fmt: skip
"""The element types that torch and NumPy both have, with NumPy's codes."""

ITEMSIZES = {
    **{name: np.dtype(code).itemsize for name, code in NUMPY_CODES.items()},
    "bfloat16": 2,
    "complex32": 4,
    **dict.fromkeys(["qint8", "quint8", "quint4x2", "quint2x4"], 1),
    "qint32": 4,
    **dict.fromkeys(["float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz", "float8_e8m0fnu"], 1),
    **dict.fromkeys(["float4_e2m1fn_x2", "bits8", "bits1x8", "bits2x4", "bits4x2"], 1),
    "bits16": 2,
}
"""Bytes of one element, by torch's names of the types."""

_MOST_AXES = 64
"""NumPy's limit, and torch's."""
_SIGNED = {"float16", "float32", "float64", "bfloat16", "complex64", "complex128"}


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A sequence of bytes in a file."""

    name: str
    dtype: str | None  # None: untyped, the tensor has the type
    nbytes: int
    order: str  # "<" or ">"
    read: Callable[[int, int], bytes | bytearray]
    """Takes start and stop, returns these bytes."""


def bytes_of(data: bytes, name: str, order: str = "<") -> Storage:
    """Return a storage of bytes in memory."""
    return Storage(name, None, len(data), order, lambda start, stop: bytearray(data[start:stop]))


def is_shape(value: Value) -> TypeGuard[tuple[int, ...]]:
    """Tell whether a value is a tuple of integers, as sizes and strides are; NumPy does not count booleans.

    Length and integers are limited: one tuple may be used by many tensors, and each of them walks through it.
    """
    if not isinstance(value, tuple) or len(cast("tuple[Value, ...]", value)) > _MOST_AXES:
        return False
    return all(type(size) is int and size.bit_length() < 64 for size in cast("tuple[Value, ...]", value))


def is_possible(shape: tuple[int, ...]) -> bool:
    """Tell whether an array can have these sizes."""
    return min(shape, default=0) >= 0 and prod(max(size, 1) for size in shape) < 2**59


@dataclass(frozen=True, slots=True, eq=False)
class StridedTensor:
    """A file's description of a tensor, which is not trusted before ``check``."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()  # in elements
    offset: int = 0
    storage: Storage | None = None  # None where the element type is one that cannot be read
    conjugated: bool = False
    negated: bool = False

    @property
    def readable(self) -> bool:
        """Whether NumPy has the element type, or one that holds all its values."""
        return self.storage is not None and (self.dtype in NUMPY_CODES or self.dtype in WIDENED)

    def check(self) -> None:
        """Raise RefusedError if sizes, strides or offset are impossible, or reach beyond the storage."""
        if not is_possible(self.shape):
            raise RefusedError("has sizes that no tensor has")
        if self.readable:
            self._check_window()

    def _check_window(self) -> None:
        assert self.storage is not None
        if self.storage.dtype not in {None, self.dtype}:
            raise RefusedError(f"is of type {self.dtype}, and its storage holds {self.storage.dtype}")
        if (self.conjugated or self.negated) and self.dtype not in _SIGNED:
            raise RefusedError(f"is conjugated or negated, and of type {self.dtype}")
        if len(self.strides) != len(self.shape):
            raise RefusedError(f"has {len(self.shape)} axes and {len(self.strides):,} strides")
        if self.offset < 0 or min(self.strides, default=0) < 0:
            raise RefusedError("has a negative stride or place in its storage")
        if self._window()[1] > self.storage.nbytes:
            raise RefusedError(
                f"reaches beyond its storage {self.storage.name}, which has {self.storage.nbytes:,} bytes"
            )

    def _window(self) -> tuple[int, int]:
        """Return start and stop of its bytes in the storage."""
        itemsize = ITEMSIZES[self.dtype]
        start = self.offset * itemsize
        if 0 in self.shape:
            return start, start
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return start, start + (last + 1) * itemsize

    def read(self, budget: Budget) -> Array:
        """Return the tensor as a new array; its size has been counted, gaps between elements are counted here."""
        if self.storage is None or not self.readable:
            raise RefusedError(f"is of type {self.dtype}, which NumPy does not have")
        start, stop = self._window()
        between = max(stop - start - prod(self.shape) * ITEMSIZES[self.dtype], 0)
        budget.take(between, "what lies between its elements")
        array = self._array(self.storage.read(start, stop), self.storage.order)
        budget.give_back(between)
        if self.conjugated:
            array = np.conjugate(array)
        return np.negative(array) if self.negated else array

    def _array(self, data: bytes | bytearray, order: str) -> Array:
        code = {"bfloat16": "u2", "bool": "u1"}.get(self.dtype) or NUMPY_CODES[self.dtype]
        if not data:
            return np.zeros(self.shape, dtype=WIDENED.get(self.dtype, self.dtype))
        flat = np.frombuffer(data, dtype=order + code)
        # along an axis of one element the stride is not used, and may be any number
        steps = zip(self.shape, self.strides, strict=True)
        strides = tuple(stride * flat.itemsize if size > 1 else 0 for size, stride in steps)
        view = as_strided(flat, self.shape, strides)  # `check` has made sure that it stays within `flat`
        whole = np.ascontiguousarray(view, dtype=code).reshape(self.shape)
        if self.dtype == "bfloat16":
            return widen_bfloat16(whole.reshape(-1).data, self.shape, "=")
        return whole != 0 if self.dtype == "bool" else whole  # any byte but 0 is true
