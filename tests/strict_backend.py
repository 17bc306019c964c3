"""A third backend, for tests on machines without a GPU: NumPy behind the rules that CuPy enforces.

Its arrays are no ndarrays and refuse to become one. Operands must be of the same backend and the same element
type, or Python scalars. Its namespace has only what CuPy's has. So code that calls NumPy by name, mixes
backends, or lets float64 creep in, fails here as it would fail, or be slow, on a GPU.
"""

import operator
from functools import cached_property
from typing import Any

import numpy as np

from nplstm.backends import register
from nplstm.backends._cuda import Cuda, CudaBackend
from nplstm.backends._numpy import draw, require_numpy_generator

# What the shared code may use; tests/test_backends.py compares it with CuPy's namespace where CuPy is installed.
NAMES = frozenset(
    """abs add arange array asarray broadcast_to clip concatenate divide empty empty_like exp expm1 float32 float64
    full int64 log log1p matmul maximum minimum moveaxis multiply sqrt stack tanh where zeros zeros_like""".split()
)


class StrictTypeError(TypeError):
    """An operation that CuPy would refuse, or do slowly or in another type."""


class StrictArray:
    """An array that knows its own kind only."""

    __array_ufunc__ = None  # NumPy's functions refuse it
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self.device = StrictBackend.device

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise StrictTypeError("implicit conversion to a NumPy array")

    def __getattr__(self, name: str) -> Any:
        if name in {"shape", "dtype", "ndim", "size", "strides", "nbytes", "flags"}:
            return getattr(self._values, name)
        if name == "T":
            return StrictArray(self._values.T)
        methods = {
            "reshape",
            "swapaxes",
            "sum",
            "min",
            "max",
            "clip",
            "any",
            "all",
            "copy",
            "astype",
            "nonzero",
            "take",
        }
        if name in methods:
            return _wrapped(getattr(self._values, name))
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(self._values)

    def __float__(self) -> float:
        return float(self._values)

    def __int__(self) -> int:
        return int(self._values)

    def __index__(self) -> int:
        return operator.index(self._values)

    def __bool__(self) -> bool:
        return bool(self._values)

    def __repr__(self) -> str:
        return f"StrictArray({self._values!r})"

    def __getitem__(self, index: Any) -> "StrictArray":
        return _wrap(self._values[_unwrap_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[_unwrap_index(index)] = _unwrap(value, like=self._values)


def _unwrap(value: Any, like: np.ndarray | None = None) -> Any:
    if isinstance(value, StrictArray):
        floats = like is not None and like.dtype.kind == "f" and value._values.dtype.kind == "f"
        if floats and like.dtype != value._values.dtype:
            raise StrictTypeError(f"operands of {like.dtype} and {value._values.dtype}")
        return value._values
    if isinstance(value, np.ndarray | np.generic):
        raise StrictTypeError(f"a NumPy {type(value).__name__} among strict arrays")
    if isinstance(value, tuple | list):
        return type(value)(_unwrap(item) for item in value)
    return value


def _unwrap_index(index: Any) -> Any:
    if isinstance(index, np.ndarray | list):
        raise StrictTypeError("an index on the host")
    if isinstance(index, tuple):
        return tuple(_unwrap_index(item) for item in index)
    return index._values if isinstance(index, StrictArray) else index


def _wrap(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return StrictArray(np.asarray(value) if isinstance(value, np.generic) else value)
    if isinstance(value, tuple | list):
        return type(value)(_wrap(item) for item in value)
    return value


def _wrapped(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        arrays = [a._values for a in args if isinstance(a, StrictArray) and a._values.dtype.kind == "f"]
        like = arrays[0] if arrays else None
        return _wrap(
            function(*(_unwrap(a, like) for a in args), **{key: _unwrap(a, like) for key, a in kwargs.items()})
        )

    return call


def _operator(name: str) -> Any:
    def method(self: StrictArray, *others: Any) -> Any:
        result = getattr(self._values, name)(*(_unwrap(other, like=self._values) for other in others))
        return self if result is self._values else _wrap(result)

    return method


for _name in """add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv pow ipow matmul rmatmul
        neg abs lt le gt ge eq ne and or""".split():
    setattr(StrictArray, f"__{_name}__", _operator(f"__{_name}__"))


class _UFunc:
    def __init__(self, function: np.ufunc) -> None:
        self._call = _wrapped(function)
        self.at = _wrapped(function.at)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)


def _filled_with_what_was_there(make: Any) -> Any:
    """Return the function with arrays that are no numbers until they are written: a GPU's memory is used again."""

    def empty(*args: Any, **kwargs: Any) -> np.ndarray:
        made = make(*args, **kwargs)
        made.reshape(-1).view(np.uint8)[...] = 0xFF
        return made

    return empty


class StrictNamespace:
    """NumPy's functions under CuPy's rules."""

    ndarray = StrictArray

    def __getattr__(self, name: str) -> Any:
        if name not in NAMES:
            raise AttributeError(f"the shared code may not use xp.{name}")
        found = getattr(np, name)
        if isinstance(found, type):
            return found
        if name in ("empty", "empty_like"):
            found = _filled_with_what_was_there(found)
        return _UFunc(found) if isinstance(found, np.ufunc) else _wrapped(found)


class StrictBackend(CudaBackend):
    """NumPy behind CuPy's rules, and kernels on the CPU."""

    name = "strict"
    xp: Any = StrictNamespace()
    float_dtypes = ("float16", "float32", "float64")
    device = "strict:0"

    @cached_property
    def cuda(self) -> Cuda:
        from cuda_on_cpu import CudaOnCpu

        return CudaOnCpu()

    def is_array(self, value: object) -> bool:
        return isinstance(value, StrictArray)

    def device_of(self, array: Any) -> str:
        return array.device

    def current_device(self) -> str:
        return self.device

    def asarray(self, values: Any, dtype: Any = None) -> Any:
        values = values._values if isinstance(values, StrictArray) else values
        return StrictArray(np.array(values, dtype=dtype))

    def to_numpy(self, array: Any) -> Any:
        return array._values.copy()

    def freeze(self, array: Any) -> Any:
        return array

    def guard(self, array: Any) -> Any:
        return array.copy()

    def random(self, rng: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        return StrictArray(draw(require_numpy_generator(rng), shape, dtype))

    def synchronize(self) -> None:
        pass


register(StrictBackend())
