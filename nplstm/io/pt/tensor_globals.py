"""Allowed globals for tensors: torch's element types, storages and rebuild functions, and NumPy's arrays.

torch's functions make the tensor at once. Ours return a ``StridedTensor``, a description that is checked once the
tensor's name is known. Checkpoints often hold NumPy's arrays and scalars, too.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import cast

from nplstm.io.pt.storages import ITEMSIZES, NUMPY_CODES, Storage, StridedTensor, bytes_of, is_possible, is_shape
from nplstm.io.pt.unpickler import (
    INVALID_ARGUMENTS,
    AllowedFunction,
    Buildable,
    PickledDict,
    Placeholder,
    Value,
    latin1,
)

__all__ = ["TENSOR_GLOBALS", "NumpyArray", "StorageClass"]

_Arguments = tuple[Value, ...]


class TorchDtype(Placeholder):
    """One of torch's element types."""


class TensorKind(Placeholder):
    """Dense or one of the sparse kinds: what torch calls a tensor's layout."""


@dataclass(frozen=True, slots=True, eq=False)
class StorageClass(Placeholder):
    """One of torch's storage classes, and its element type; None for untyped storages."""

    dtype: str | None


_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Bool": "bool",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "UInt16": "uint16", "UInt32": "uint32", "UInt64": "uint64",
    "ComplexDouble": "complex128", "ComplexFloat": "complex64", "ComplexHalf": "complex32",
    "QInt8": "qint8", "QUInt8": "quint8", "QInt32": "qint32", "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4",
    **{name.capitalize(): name for name in ITEMSIZES if name.startswith(("float8", "float4"))},
}  # fmt: skip
"""Element types of torch's storage classes, by their names without ``Storage``. For the newest types torch.save
writes untyped storages; TorchScript has these names."""

_TENSOR_TYPES = {
    (module, name): Placeholder(f"{module}.{name}")
    for module, name in (
        ("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer")
    )
}  # fmt: skip
_SCHEMES = (
    "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)  # fmt: skip
_FLAGS = ("conj", "neg")


def _tensor(
    storage: Value,
    dtype: Value,
    offset: Value,
    sizes: Value,
    strides: Value,
    flags: Value,
) -> Value:
    pairs: list[tuple[Value, Value]] = (
        [] if flags is None else flags.pairs if isinstance(flags, PickledDict) else [(0, 0)]
    )
    if len(pairs) > len(_FLAGS) or not all(key in _FLAGS and isinstance(value, bool) for key, value in pairs):
        return INVALID_ARGUMENTS
    if not isinstance(storage, Storage) or not isinstance(dtype, str) or not isinstance(offset, int):
        return INVALID_ARGUMENTS
    if not is_shape(sizes) or not is_shape(strides):
        return INVALID_ARGUMENTS
    on = [key for key, value in pairs if value]
    return StridedTensor(dtype, sizes, strides, offset, storage, conjugated="conj" in on, negated="neg" in on)


def _rebuilt(arguments: _Arguments) -> Value:
    """Return a tensor of its storage's type; the arguments for gradients and hooks do not change its values."""
    match arguments:
        case (Storage() as storage, offset, sizes, strides):
            return _tensor(storage, storage.dtype, offset, sizes, strides, None)
        case (Storage() as storage, offset, sizes, strides, _, _):
            return _tensor(storage, storage.dtype, offset, sizes, strides, None)
        case (Storage() as storage, offset, sizes, strides, _, _, flags):
            return _tensor(storage, storage.dtype, offset, sizes, strides, flags)
        case _:
            return INVALID_ARGUMENTS


def _rebuilt_typed(arguments: _Arguments) -> Value:
    """Return a tensor whose type is an argument."""
    match arguments:
        case (storage, offset, sizes, strides, _, _, TorchDtype() as dtype):
            return _tensor(storage, dtype.name, offset, sizes, strides, None)
        case (storage, offset, sizes, strides, _, _, TorchDtype() as dtype, flags):
            return _tensor(storage, dtype.name, offset, sizes, strides, flags)
        case _:
            return INVALID_ARGUMENTS


def _first_tensor(arguments: _Arguments) -> Value:
    """Return a parameter's tensor; hooks and attributes do not change its values."""
    match arguments:
        case (StridedTensor() as tensor, _, _) | (StridedTensor() as tensor, _, _, _):
            return tensor
        case _:
            return INVALID_ARGUMENTS


def _moved(arguments: _Arguments) -> Value:
    """Return a tensor that was moved from its device to be saved."""
    match arguments:
        case (StridedTensor() as tensor, TorchDtype() as dtype, _, _) if tensor.dtype == dtype.name:
            return tensor
        case _:
            return INVALID_ARGUMENTS


def _of_type(arguments: _Arguments) -> Value:
    """Return the result of another of these functions, for a tensor with attributes."""
    match arguments:
        case (AllowedFunction() as function, Placeholder() as kind, inner, _) if (
            function in _MAKERS and kind in _TENSOR_TYPES.values() and isinstance(inner, tuple)
        ):
            return function.run(cast("_Arguments", inner))
        case _:
            return INVALID_ARGUMENTS


def _quantized(arguments: _Arguments) -> Value:
    match arguments:
        case (Storage(dtype=str() as dtype), _, sizes, _, _, _, _) if is_shape(sizes):
            return StridedTensor(dtype, sizes)
        case _:
            return INVALID_ARGUMENTS


def _sparse(arguments: _Arguments) -> Value:
    match arguments:
        case (TensorKind() as layout, (_, StridedTensor() as values, sizes)) if is_shape(sizes):
            pass
        case (TensorKind() as layout, (_, StridedTensor() as values, sizes, bool() | None)) if is_shape(sizes):
            pass
        case (TensorKind() as layout, (_, _, StridedTensor() as values, sizes)) if is_shape(sizes):
            pass
        case _:
            return INVALID_ARGUMENTS
    if values.dtype not in ITEMSIZES:  # the result of this function, whose type's name would grow each time
        return INVALID_ARGUMENTS
    return StridedTensor(f"{values.dtype} ({layout.name})", sizes)


def _without_values(arguments: _Arguments) -> Value:
    match arguments:
        case (TorchDtype() as dtype, sizes, _, _) if is_shape(sizes):
            return StridedTensor(f"{dtype.name} (meta)", sizes)
        case _:
            return INVALID_ARGUMENTS


def _layout(arguments: _Arguments) -> Value:
    match arguments:
        case ("torch.strided" | "torch.sparse_coo" | "torch.sparse_csr" | "torch.sparse_csc" | "torch.sparse_bsr"
              | "torch.sparse_bsc" as name,):  # fmt: skip
            return TensorKind(name.removeprefix("torch."))
        case _:
            return INVALID_ARGUMENTS


def _size(arguments: _Arguments) -> Value:
    return arguments[0] if len(arguments) == 1 and is_shape(arguments[0]) else INVALID_ARGUMENTS


def _unchanged(arguments: _Arguments) -> Value:
    """Return a container unchanged: TorchScript adds the type of its values."""
    return arguments[0] if arguments else INVALID_ARGUMENTS


def _functions() -> dict[tuple[str, str], Value]:
    """Return torch's functions that a pickle may call."""
    utils, script = "torch._utils", "torch.jit._pickle"
    table: dict[tuple[str, str], Callable[[_Arguments], Value]] = {
        (utils, "_rebuild_tensor"): _rebuilt,
        (utils, "_rebuild_tensor_v2"): _rebuilt,
        (utils, "_rebuild_tensor_v3"): _rebuilt_typed,
        (utils, "_rebuild_parameter"): _first_tensor,
        (utils, "_rebuild_parameter_with_state"): _first_tensor,
        (utils, "_rebuild_device_tensor_from_cpu_tensor"): _moved,
        (utils, "_rebuild_qtensor"): _quantized,
        (utils, "_rebuild_sparse_tensor"): _sparse,
        (utils, "_rebuild_meta_tensor_no_storage"): _without_values,
        ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
        ("torch.tensor", "_rebuild_from_type_v2"): _of_type,  # before 1.9
        ("torch.serialization", "_get_layout"): _layout,
        ("torch", "Size"): _size,
        ("torch", "device"): lambda _: Placeholder("torch.device"),
        ("torch.torch_version", "TorchVersion"): lambda _: Placeholder("a version of torch"),
        **{(script, f"build_{kind}list"): _unchanged for kind in ("int", "double", "bool", "tensor")},
        (script, "restore_type_tag"): _unchanged,
    }
    return {names: AllowedFunction(".".join(names), function) for names, function in table.items()}


def _torch_globals() -> dict[tuple[str, str], Value]:
    names = _functions() | _TENSOR_TYPES
    for module in ("torch", "torch.cuda"):
        for name, dtype in _STORAGES.items():
            names[module, f"{name}Storage"] = StorageClass(f"{module}.{name}Storage", dtype)
    names["torch.storage", "UntypedStorage"] = StorageClass("torch.storage.UntypedStorage", None)
    names["torch.storage", "TypedStorage"] = Placeholder("torch.storage.TypedStorage")
    for name in ITEMSIZES:
        names["torch", name] = TorchDtype(name)
    for name in _SCHEMES:
        names["torch", name] = Placeholder(f"torch.{name}")
    return names


TORCH_GLOBALS = _torch_globals()

_MAKERS = {TORCH_GLOBALS["torch._utils", f"_rebuild_{name}"] for name in (
    "tensor", "tensor_v2", "tensor_v3", "parameter", "qtensor", "sparse_tensor", "meta_tensor_no_storage"
)}  # fmt: skip
"""Functions that may be an argument: those that take none themselves, so that calls do not nest."""


# NumPy

_NUMPY_NAMES = {code: name for name, code in NUMPY_CODES.items()}
_CODE = re.compile(r"[a-zA-Z?]\d{0,6}")
_NUMBERS = re.compile(r"[iufc]\d{1,2}|b1")
_ARRAY = Placeholder("numpy.ndarray")


class NumpyType(Buildable):
    """One of NumPy's element types; its state is the byte order."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    def build(self, state: Value) -> bool:
        """Take the byte order; the rest is for types that are not plain numbers, which are left out."""
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, *_):
                self.order = ">" if order == ">" else "<"
                return True
            case _:
                return False


class NumpyArray(Buildable):
    """One of NumPy's arrays; its state is everything it has."""

    tensor: StridedTensor | None = None
    """None for an array of text or objects, which is not a tensor."""

    def build(self, state: Value) -> bool:
        """Take sizes, element type, whether in Fortran order, and the bytes, which old pickles store as text."""
        match state:
            case (int(), shape, NumpyType() as dtype, int() as fortran, data) if is_shape(shape):
                self.tensor = _numpy_tensor(shape, dtype, data, fortran=bool(fortran))
                return self.tensor is not None or _NUMBERS.fullmatch(dtype.code) is None
            case _:
                return False


def _numpy_tensor(shape: tuple[int, ...], dtype: NumpyType, data: Value, *, fortran: bool) -> StridedTensor | None:
    raw = latin1(data) if isinstance(data, str) else data
    if not isinstance(raw, bytes) or not _NUMBERS.fullmatch(dtype.code):
        return None
    storage = bytes_of(raw, "in the pickle", dtype.order)
    return StridedTensor(
        _NUMPY_NAMES.get(dtype.code, dtype.code), shape, _strides(shape, fortran), storage=storage
    )


def _strides(shape: tuple[int, ...], fortran: bool) -> tuple[int, ...]:
    """Return the strides; none for sizes that ``check`` refuses, whose products could be huge."""
    if not shape or not is_possible(shape):
        return ()
    sizes = shape if fortran else shape[::-1]
    strides = tuple(accumulate(sizes[:-1], mul, initial=1))
    return strides if fortran else strides[::-1]


def _type(arguments: _Arguments) -> Value:
    match arguments:
        case (str() as code, *_) if _CODE.fullmatch(code):
            return NumpyType(code)
        case _:
            return INVALID_ARGUMENTS


def _new_array(arguments: _Arguments) -> Value:
    return NumpyArray() if arguments and arguments[0] is _ARRAY else INVALID_ARGUMENTS


def _array_of_buffer(arguments: _Arguments) -> Value:
    match arguments:
        case (bytes() as data, NumpyType() as dtype, shape, "C" | "F" as order):
            array = NumpyArray()
            return array if array.build((1, shape, dtype, order == "F", data)) else INVALID_ARGUMENTS
        case _:
            return INVALID_ARGUMENTS


def _scalar(arguments: _Arguments) -> Value:
    return (
        Placeholder("a scalar of NumPy")
        if arguments and isinstance(arguments[0], NumpyType)
        else INVALID_ARGUMENTS
    )


def _numpy_globals() -> dict[tuple[str, str], Value]:
    functions = {("numpy", "dtype"): _type}
    for core in ("numpy.core", "numpy._core"):
        functions[f"{core}.multiarray", "_reconstruct"] = _new_array
        functions[f"{core}.multiarray", "scalar"] = _scalar
        functions[f"{core}.numeric", "_frombuffer"] = _array_of_buffer  # protocol 5
    return {("numpy", "ndarray"): _ARRAY} | {
        names: AllowedFunction(".".join(names), function) for names, function in functions.items()
    }


TENSOR_GLOBALS = TORCH_GLOBALS | _numpy_globals()
