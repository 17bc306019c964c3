"""Backends, one for each array library: lookup by name or by an array's type, and checks of arrays.

``backend_of(array)`` imports no library: where there is a CuPy array, CuPy has been imported already. So
``import nplstm`` imports NumPy alone.
"""

from importlib import import_module
from typing import Any, cast

from nplstm._typing import Array, DType, DTypeLike
from nplstm.backends._base import Backend
from nplstm.backends._numpy import BACKEND as NUMPY
from nplstm.errors import ArgumentError, BackendError, DTypeError

__all__ = [
    "NUMPY",
    "Backend",
    "backend_of",
    "check_arrays",
    "check_dtype",
    "get_backend",
    "holds",
    "is_dtype",
    "namespace",
    "register",
    "transfer",
]

_LAZY = {"cupy": "nplstm.backends._cupy"}
_LOADED: dict[str, Backend] = {"numpy": NUMPY}
_BY_TYPE: dict[type[Any], Backend] = {}


def register(backend: Backend) -> None:
    """Add a backend: its arrays are recognised, and ``.to(name)`` finds it."""
    _LOADED[backend.name] = backend


def get_backend(name: str) -> Backend:
    """Return the backend of that name, importing its library at the first call.

    Raises
    ------
    ArgumentError
        If there is no backend of that name.
    BackendUnavailableError
        If its library is not installed, or finds no device: the message says which of the two.

    Examples
    --------
    >>> from nplstm.backends import get_backend
    >>> get_backend("numpy").asarray([1.0, 2.0])
    array([1., 2.])
    """
    if not isinstance(name, str) or name not in {*_LOADED, *_LAZY}:
        known = ", ".join(repr(known) for known in sorted({*_LOADED, *_LAZY}))
        raise ArgumentError(f"backend: expected one of {known}, got {name!r}")
    if name in _LOADED:
        return _LOADED[name]
    backend: Backend = import_module(_LAZY[name]).load()
    register(backend)
    return backend


def backend_of(array: Any, argument: str = "array") -> Backend:
    """Return the backend that ``array`` belongs to, by its type; raise BackendError for other types."""
    found = _BY_TYPE.get(type(array))  # pyright: ignore[reportUnknownArgumentType]
    if found is None:
        found = _BY_TYPE[type(array)] = _find_backend(array, argument)
    return found


def _find_backend(array: Any, argument: str) -> Backend:
    if type(array).__module__.partition(".")[0] in _LAZY:
        get_backend(type(array).__module__.partition(".")[0])
    for backend in _LOADED.values():
        if backend.is_array(array):
            return backend
    kind = cast("type[Any]", type(array))
    raise BackendError(
        f"{argument}: expected an array of NumPy or CuPy, got {kind.__module__}.{kind.__qualname__}; "
        f"numpy.asarray(...) converts most values to an array"
    )


def namespace(array: Array) -> Any:
    """Return the NumPy-like namespace of the library that ``array`` belongs to."""
    return backend_of(array).xp


def transfer(array: Array, target: Backend) -> Array:
    """Return the array on another backend, copied through the host; the array itself if it is there already."""
    source = backend_of(array)
    return array if source is target else target.asarray(source.to_numpy(array))


def is_dtype(value: object) -> bool:
    """Tell whether ``value`` is an element type: a NumPy type, a dtype object or a name."""
    return isinstance(value, type | NUMPY.xp.dtype) or value in ("float16", "float32", "float64")


def check_dtype(dtype: DTypeLike, backend: Backend, argument: str = "dtype") -> DType:
    """Return ``dtype`` as a dtype object; raise DTypeError if the backend does not compute with it."""
    try:
        kind: DType = NUMPY.xp.dtype(dtype)
    except TypeError:
        kind = NUMPY.xp.dtype(object)
    if dtype is None or kind.name not in backend.float_dtypes:
        name = getattr(dtype, "__name__", dtype)
        hint = "; float16 needs backend 'cupy'" if kind.name == "float16" else ""
        raise DTypeError(f"{argument}: backend {backend.name!r} has {backend.float_dtypes}, got {name}{hint}")
    return kind.newbyteorder("=")


def check_arrays(owner: str, backend: Backend, dtype: DType, **arrays: Any) -> None:
    """Raise unless all arrays live on ``backend``, on its current device, with elements ``dtype``.

    ``owner`` is the name in the message of what the arrays must agree with: "the LSTM".
    """
    for argument, array in arrays.items():
        if not holds(backend, array, dtype):
            _refuse_array(owner, backend, dtype, argument, array)


def holds(backend: Backend, array: Any, dtype: DType) -> bool:
    """Tell whether an array lives on ``backend``, on its current device, with elements ``dtype``."""
    same = _BY_TYPE.get(type(array)) is backend and array.dtype == dtype  # pyright: ignore[reportUnknownArgumentType]
    return same and (backend is NUMPY or backend.device_of(array) == backend.current_device())


def _refuse_array(owner: str, backend: Backend, dtype: DType, argument: str, array: Any) -> None:
    """Raise, and say what is wrong with an array; which may be nothing, where its type is new."""
    found, current = backend_of(array, argument), backend.current_device()
    if found is not backend:
        raise BackendError(
            f"{argument}: is an array of {found.name!r}, but {owner} is on {backend.name!r}; "
            f"nothing is transferred silently: move one of them (a layer with .to({found.name!r}))"
        )
    if array.dtype != dtype:
        fits = array.dtype.name in backend.float_dtypes and array.dtype.name != dtype.name
        other = f", or a layer's .to(dtype={array.dtype.name!r})" if fits else ""
        raise DTypeError(
            f"{argument}: is {array.dtype}, but {owner} is {dtype}; nothing is cast silently: use "
            f"{argument}.astype({dtype.name!r}){other}"
        )
    if backend.device_of(array) == current:
        return
    raise BackendError(
        f"{argument}: is on {backend.device_of(array)}, but the current device is {current}; make the "
        f"device of {owner} and its arrays the current one (with cupy.cuda.Device(...):)"
    )
