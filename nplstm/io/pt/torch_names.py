"""Torch's names in its files: element types, classes of storages, and the functions that make tensors of storages.

Torch's functions put a tensor together at once. Ours return a ``StoredTensor``, which says the same and is checked
when it is known what the tensor is called.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from nplstm.io.pt.stored import ITEMSIZES, Storage, StoredTensor, is_shape
from nplstm.io.pt.values import UNFIT, Function, Items, Name, Value

__all__ = ["TORCH_NAMES", "StorageType"]

_Arguments = tuple[Value, ...]


class ElementType(Name):
    """One of torch's element types."""


class Layout(Name):
    """A way to lay out the numbers of a tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class StorageType(Name):
    """A class of storages, and its element type; None for bytes that may be anything."""

    dtype: str | None


_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Bool": "bool",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "UInt16": "uint16", "UInt32": "uint32", "UInt64": "uint64",
    "ComplexDouble": "complex128", "ComplexFloat": "complex64", "ComplexHalf": "complex32",
    "QInt8": "qint8", "QUInt8": "quint8", "QInt32": "qint32", "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4",
    **{name.capitalize(): name for name in ITEMSIZES if name.startswith(("float8", "float4"))},
}  # fmt: skip
"""Element types of torch's classes of storages, without the ``Storage`` at their end. For the youngest types
torch.save writes storages without a type, and TorchScript has names."""

_TENSOR_TYPES = {
    (module, name): Name(f"{module}.{name}")
    for module, name in (
        ("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer")
    )
}  # fmt: skip
_SCHEMES = (
    "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)  # fmt: skip
_FLAGS = ("conj", "neg")


def _tensor(storage: Value, dtype: Value, offset: Value, sizes: Value, strides: Value, flags: Value) -> Value:
    given: list[tuple[Value, Value]] = (
        [] if flags is None else flags.pairs if isinstance(flags, Items) else [(0, 0)]
    )
    if len(given) > len(_FLAGS) or not all(key in _FLAGS and isinstance(value, bool) for key, value in given):
        return UNFIT
    if not isinstance(storage, Storage) or not isinstance(dtype, str) or not isinstance(offset, int):
        return UNFIT
    if not is_shape(sizes) or not is_shape(strides):
        return UNFIT
    on = [key for key, value in given if value]
    return StoredTensor(dtype, sizes, strides, offset, storage, conjugated="conj" in on, negated="neg" in on)


def _rebuilt(arguments: _Arguments) -> Value:
    """Return a tensor of its storage's type. Whether it has a gradient, and hooks, do not change its values."""
    match arguments:
        case (Storage() as storage, offset, sizes, strides):
            return _tensor(storage, storage.dtype, offset, sizes, strides, None)
        case (Storage() as storage, offset, sizes, strides, _, _):
            return _tensor(storage, storage.dtype, offset, sizes, strides, None)
        case (Storage() as storage, offset, sizes, strides, _, _, flags):
            return _tensor(storage, storage.dtype, offset, sizes, strides, flags)
        case _:
            return UNFIT


def _rebuilt_typed(arguments: _Arguments) -> Value:
    """Return a tensor of a type of its own."""
    match arguments:
        case (storage, offset, sizes, strides, _, _, ElementType() as dtype):
            return _tensor(storage, dtype.name, offset, sizes, strides, None)
        case (storage, offset, sizes, strides, _, _, ElementType() as dtype, flags):
            return _tensor(storage, dtype.name, offset, sizes, strides, flags)
        case _:
            return UNFIT


def _first_tensor(arguments: _Arguments) -> Value:
    """Return the tensor that a parameter is made of; hooks and attributes do not change its values."""
    match arguments:
        case (StoredTensor() as tensor, _, _) | (StoredTensor() as tensor, _, _, _):
            return tensor
        case _:
            return UNFIT


def _moved(arguments: _Arguments) -> Value:
    """Return a tensor that lived on a device whose memory is not saved as it is."""
    match arguments:
        case (StoredTensor() as tensor, ElementType() as dtype, _, _) if tensor.dtype == dtype.name:
            return tensor
        case _:
            return UNFIT


def _of_type(arguments: _Arguments) -> Value:
    """Return what another of these functions makes: a tensor that has attributes."""
    match arguments:
        case (Function() as function, Name() as kind, given, _) if (
            function in _MAKERS and kind in _TENSOR_TYPES.values() and isinstance(given, tuple)
        ):
            return function.run(cast("_Arguments", given))
        case _:
            return UNFIT


def _quantized(arguments: _Arguments) -> Value:
    match arguments:
        case (Storage(dtype=str() as dtype), _, sizes, _, _, _, _) if is_shape(sizes):
            return StoredTensor(dtype, sizes)
        case _:
            return UNFIT


def _sparse(arguments: _Arguments) -> Value:
    match arguments:
        case (Layout() as layout, (_, StoredTensor() as values, sizes)) if is_shape(sizes):
            pass
        case (Layout() as layout, (_, StoredTensor() as values, sizes, bool() | None)) if is_shape(sizes):
            pass
        case (Layout() as layout, (_, _, StoredTensor() as values, sizes)) if is_shape(sizes):
            pass
        case _:
            return UNFIT
    if values.dtype not in ITEMSIZES:  # one made here, whose name would grow with each time
        return UNFIT
    return StoredTensor(f"{values.dtype} ({layout.name})", sizes)


def _without_values(arguments: _Arguments) -> Value:
    match arguments:
        case (ElementType() as dtype, sizes, _, _) if is_shape(sizes):
            return StoredTensor(f"{dtype.name} (meta)", sizes)
        case _:
            return UNFIT


def _layout(arguments: _Arguments) -> Value:
    match arguments:
        case ("torch.strided" | "torch.sparse_coo" | "torch.sparse_csr" | "torch.sparse_csc" | "torch.sparse_bsr"
              | "torch.sparse_bsc" as name,):  # fmt: skip
            return Layout(name.removeprefix("torch."))
        case _:
            return UNFIT


def _size(arguments: _Arguments) -> Value:
    return arguments[0] if len(arguments) == 1 and is_shape(arguments[0]) else UNFIT


def _as_given(arguments: _Arguments) -> Value:
    """Return a container as it is: TorchScript says what type its values have, and they have it."""
    return arguments[0] if arguments else UNFIT


def _functions() -> dict[tuple[str, str], Value]:
    """Return what torch's functions stand for."""
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
        ("torch", "device"): lambda _: Name("torch.device"),
        ("torch.torch_version", "TorchVersion"): lambda _: Name("a version of torch"),
        **{(script, f"build_{kind}list"): _as_given for kind in ("int", "double", "bool", "tensor")},
        (script, "restore_type_tag"): _as_given,
    }
    return {names: Function(".".join(names), function) for names, function in table.items()}


def _names() -> dict[tuple[str, str], Value]:
    names = _functions() | _TENSOR_TYPES
    for module in ("torch", "torch.cuda"):
        for name, dtype in _STORAGES.items():
            names[module, f"{name}Storage"] = StorageType(f"{module}.{name}Storage", dtype)
    names["torch.storage", "UntypedStorage"] = StorageType("torch.storage.UntypedStorage", None)
    names["torch.storage", "TypedStorage"] = Name("torch.storage.TypedStorage")
    for name in ITEMSIZES:
        names["torch", name] = ElementType(name)
    for name in _SCHEMES:
        names["torch", name] = Name(f"torch.{name}")
    return names


TORCH_NAMES = _names()

_MAKERS = {TORCH_NAMES["torch._utils", f"_rebuild_{name}"] for name in (
    "tensor", "tensor_v2", "tensor_v3", "parameter", "qtensor", "sparse_tensor", "meta_tensor_no_storage"
)}  # fmt: skip
"""Functions that may be named as an argument: those that name none themselves, so that nothing nests."""
