"""Tensors of an ONNX model: what they declare, and their numbers, in the model or in a file beside it."""

import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.model_file import TensorInfo, array_from_bytes, damaged
from nplstm.io.onnx import onnx_library

__all__ = ["DTYPES", "LazyTensor", "tensor_from_constant", "tensor_from_proto"]

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip
"""ONNX's numbers of the element types that are read."""

_FIELDS = {
    "float32": "float_data", "complex64": "float_data", "float64": "double_data", "complex128": "double_data",
    "int64": "int64_data", "uint32": "uint64_data", "uint64": "uint64_data",
}  # fmt: skip
"""Fields of numbers that are not raw bytes; other types use ``int32_data``."""

_EXTERNAL = 1
_MOST_BYTES = 2**62
_MOST_AXES = 64  # NumPy's


class LazyTensor(NamedTuple):
    """A tensor of a file that is read on request. The caller counts the memory."""

    info: TensorInfo
    read: Callable[[], Array]


def tensor_from_proto(name: str, proto: Any, path: str | os.PathLike[str]) -> LazyTensor:
    """Return the tensor of a ``TensorProto``, or of a ``SparseTensorProto``, which is refused when it is read.

    Parameters
    ----------
    name : str
        For messages.
    proto : TensorProto or SparseTensorProto
    path : str or PathLike
        Of the model.

    Raises
    ------
    FileFormatError
        If its shape is invalid. Its bytes are checked when it is read.
    """
    if hasattr(proto, "values"):
        dtype = f"sparse {DTYPES.get(proto.values.data_type, proto.values.data_type)}"
        info = TensorInfo(_shape(proto.dims, path, name), dtype)
        return LazyTensor(info, lambda: _refuse(path, name, "is sparse, which is not read"))
    info = TensorInfo(_shape(proto.dims, path, name), DTYPES.get(proto.data_type) or _type_name(proto.data_type))
    return LazyTensor(info, lambda: _read(proto, info, path, name))


def tensor_from_constant(
    name: str, attribute: str, value: Any, stored: Callable[[str, Any], LazyTensor]
) -> LazyTensor | None:
    """Return the tensor in an attribute of a Constant node: ``value``, ``value_float``, ``value_ints``, ...

    None where it is none: text, or an attribute of another kind than its name says. ``stored`` returns the tensor
    of a name and its proto.
    """
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if hasattr(value, "data_type") or hasattr(value, "values"):
        return stored(name, value)
    if attribute not in kinds:
        return None
    try:
        array = np.array(value, dtype=kinds[attribute])
    except (TypeError, ValueError):
        return None
    return LazyTensor(TensorInfo(array.shape, array.dtype.name), array.copy)


def _shape(dims: Any, path: str | os.PathLike[str], name: str) -> tuple[int, ...]:
    """Return the shape, if an array can have it. The number of axes comes first: a product of many is slow."""
    shape = tuple(int(size) for size in dims[: _MOST_AXES + 1])
    if len(shape) > _MOST_AXES or min(shape, default=0) < 0 or prod(n for n in shape if n) * 16 > _MOST_BYTES:
        _refuse(path, name, f"declares the shape {shape!s:.200}")
    return shape


def _type_name(number: int) -> str:
    """Return ONNX's name of an element type."""
    try:
        return str(onnx_library().TensorProto.DataType.Name(number))
    except ValueError:
        return f"UNKNOWN {number}"


def _refuse(path: str | os.PathLike[str], name: str, problem: str) -> Any:
    raise FileFormatError(f"{os.fspath(path)}: the tensor {name!r} {problem}")


def _read(proto: Any, info: TensorInfo, path: str | os.PathLike[str], name: str) -> Array:
    """Return the numbers, after comparing their count with the shape."""
    if info.dtype not in DTYPES.values():
        _refuse(path, name, f"is of ONNX's type {info.dtype}, which is not read")
    if proto.HasField("segment"):
        _refuse(path, name, "is a segment of a tensor, which is not read")
    nbytes = info.size * (2 if info.dtype == "bfloat16" else np.dtype(info.dtype).itemsize)
    if proto.data_location == _EXTERNAL:
        data = _read_external(proto, path, name, nbytes)
    elif proto.HasField("raw_data"):
        data = proto.raw_data
        if len(data) != nbytes:
            _refuse(path, name, f"declares {info.dtype} {info.shape} and holds {len(data):,} bytes")
    else:
        data = _typed(proto, info, path, name)
    return array_from_bytes(data, info.dtype, info.shape)


def _typed(proto: Any, info: TensorInfo, path: str | os.PathLike[str], name: str) -> bytes:
    """Return numbers of a typed field, such as ``float_data``, as raw bytes."""
    field = _FIELDS.get(info.dtype, "int32_data")
    values = getattr(proto, field)
    parts = 2 if info.dtype.startswith("complex") else 1
    if len(values) != info.size * parts:
        _refuse(path, name, f"declares {info.dtype} {info.shape} and holds {len(values):,} numbers in {field}")
    kind = {"float_data": "<f4", "double_data": "<f8", "int64_data": "<i8", "uint64_data": "<u8"}.get(field, "<i4")
    with damaged(path, f"the tensor {name!r} cannot be read", ValueError, OverflowError):
        listed = np.fromiter(values, dtype=kind, count=len(values))
    if parts == 2:
        return listed.tobytes()
    # an int32 holds the bits of a float16 or bfloat16 as an integer
    bits = "uint16" if info.dtype in {"float16", "bfloat16"} else info.dtype
    return listed.astype(np.dtype(bits).newbyteorder("<")).tobytes()


def _read_external(proto: Any, path: str | os.PathLike[str], name: str, nbytes: int) -> bytes:
    """Return the external data of a ``TensorProto``; only this part of the other file is read.

    The model names the file, so nothing about it is trusted: it has to be an ordinary file in the model's folder
    or below it, and to have the bytes that the tensor's shape asks for, which have been counted.
    """
    tensor = f"{os.fspath(path)}: the tensor {name!r}"
    location, start, length = _location_of(proto, tensor, nbytes)
    if length != nbytes:
        raise FileFormatError(f"{tensor} takes {nbytes:,} bytes, and its external data declares {length:,}")
    try:
        target = _target(path, location, tensor)
        size = target.stat().st_size
        if start + nbytes > size:
            raise FileFormatError(
                f"{tensor} has {nbytes:,} bytes from {start:,} on in {location!r}, which has {size:,} in all"
            )
        with target.open("rb") as file:
            file.seek(start)
            data = file.read(nbytes)
    except (OSError, RuntimeError) as error:  # before Python 3.13, links in a circle are a RuntimeError
        raise FileFormatError(f"{tensor} has its data in {location!r}, which cannot be read: {error}") from error
    if len(data) != nbytes:
        raise FileFormatError(f"{tensor} has its data in {location!r}, which ends early")
    return data


def _location_of(proto: Any, tensor: str, nbytes: int) -> tuple[str, int, int]:
    """Return the file's name, and offset and length of the numbers in it, in bytes."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    try:
        start, length = _number(entries.get("offset", "0")), _number(entries.get("length", f"{nbytes}"))
        return entries["location"], start, length
    except (KeyError, ValueError):
        raise FileFormatError(f"{tensor} has external data of no known place: {entries!s:.200}") from None


def _number(text: str) -> int:
    """Return a number in ASCII digits; ``int`` would take signs and other digits too."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _target(path: str | os.PathLike[str], location: str, tensor: str) -> Path:
    """Return the path of an ordinary file in the model's folder or below it, after links are resolved."""
    parts = location.split("/")
    named = not ("\\" in location or "\0" in location or location[1:2] == ":" or "" in parts or ".." in parts)
    if named:
        folder = Path(path).absolute().parent.resolve()
        target = (folder / location).resolve()
        if target.is_relative_to(folder) and target.is_file():
            return target
        if target.is_relative_to(folder):
            raise FileFormatError(f"{tensor} has its data in {location!r}, which is not an ordinary file")
    raise FileFormatError(f"{tensor} has its data in {location!r}, which does not lie in the model's folder")
