"""Numba and llvmlite under names without types: neither has stubs for what extends the compiler."""

from importlib import import_module
from typing import Any

__all__ = [
    "binding",
    "cfunction",
    "cgutils",
    "compiled",
    "from_dtype",
    "intrinsic",
    "ir",
    "models",
    "njit",
    "overload",
    "register_model",
    "typeof",
    "types",
]

_numba: Any = import_module("numba")
_extending: Any = import_module("numba.extending")

binding: Any = import_module("llvmlite.binding")
cgutils: Any = import_module("numba.core.cgutils")
ir: Any = import_module("llvmlite.ir")
types: Any = _numba.types

njit: Any = _numba.njit
from_dtype: Any = _numba.from_dtype
typeof: Any = _numba.typeof

intrinsic: Any = _extending.intrinsic
models: Any = _extending.models
overload: Any = _extending.overload
register_model: Any = _extending.register_model


def compiled(signature: Any) -> Any:
    """Compile a function for these types as it is defined; it needs no GIL.

    Nothing is kept on disk: Numba's cache may join what two processes compiled, and then computes nonsense.
    """
    return _numba.njit(signature, nogil=True, error_model="numpy")


def cfunction(signature: Any) -> Any:
    """Compile a function that is called by its ``address``."""
    return _numba.cfunc(signature, error_model="numpy")
