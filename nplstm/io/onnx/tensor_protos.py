"""The tensors of an ONNX model: what they declare, and their numbers, in the model or in a file beside it."""

import os
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.model_file import TensorInfo, damaged, widen_bfloat16
from nplstm.io.onnx.external_data import read_external

__all__ = ["DTYPES", "LazyTensor", "of_attribute", "of_proto", "of_sparse"]

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip
"""The numbers that ONNX gives to the element types that are read."""

_FIELDS = {
    "float32": "float_data", "complex64": "float_data", "float64": "double_data", "complex128": "double_data",
    "int64": "int64_data", "uint32": "uint64_data", "uint64": "uint64_data",
}  # fmt: skip
"""Where numbers stand that are not raw bytes; those of all other types, in ``int32_data``."""

_EXTERNAL = 1
_MOST_BYTES = 2**62
_MOST_AXES = 64  # NumPy's


class LazyTensor(NamedTuple):
    """A tensor of a file: what it is, and how to get it. The caller counts the memory."""

    info: TensorInfo
    read: Callable[[], Array]


def of_proto(proto: Any, path: str | os.PathLike[str], name: str, type_name: Callable[[int], str]) -> LazyTensor:
    """Return the tensor of a ``TensorProto``.

    Parameters
    ----------
    proto : TensorProto
    path : str or PathLike
        Of the model.
    name : str
        For messages.
    type_name : callable
        ONNX's name for the number of an element type.

    Raises
    ------
    FileFormatError
        If its shape is no shape. What is declared of its bytes is checked when it is read.
    """
    dtype = DTYPES.get(proto.data_type) or _type_name(proto.data_type, type_name)
    info = TensorInfo(_shape(proto.dims, path, name), dtype)
    return LazyTensor(info, lambda: _read(proto, info, path, name))


def of_sparse(proto: Any, path: str | os.PathLike[str], name: str) -> LazyTensor:
    """Return a ``SparseTensorProto``, which is listed, and refused when it is read."""
    dtype = f"sparse {DTYPES.get(proto.values.data_type, proto.values.data_type)}"
    info = TensorInfo(_shape(proto.dims, path, name), dtype)
    return LazyTensor(info, lambda: _refuse(path, name, "is sparse, which is not read"))


def of_attribute(name: str, value: Any) -> LazyTensor | None:
    """Return the numbers that a Constant node holds as an attribute: ``value_float``, ``value_ints``, ..."""
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if name not in kinds:
        return None
    try:
        array = np.array(value, dtype=kinds[name])
    except (TypeError, ValueError):  # an attribute of another kind than its name says
        return None
    return LazyTensor(TensorInfo(array.shape, array.dtype.name), array.copy)


def _shape(dims: Any, path: str | os.PathLike[str], name: str) -> tuple[int, ...]:
    """Return a shape that an array can have. How many axes there are comes first: a product of many is slow."""
    shape = tuple(int(size) for size in dims[: _MOST_AXES + 1])
    if len(shape) > _MOST_AXES or min(shape, default=0) < 0 or prod(n for n in shape if n) * 16 > _MOST_BYTES:
        _refuse(path, name, f"declares the shape {shape!s:.200}")
    return shape


def _type_name(number: int, type_name: Callable[[int], str]) -> str:
    try:
        return type_name(number)
    except ValueError:
        return f"UNKNOWN {number}"


def _refuse(path: str | os.PathLike[str], name: str, problem: str) -> Any:
    raise FileFormatError(f"{os.fspath(path)}: the tensor {name!r} {problem}")


def _read(proto: Any, info: TensorInfo, path: str | os.PathLike[str], name: str) -> Array:
    """Return the numbers, after comparing how many there are with what the shape says."""
    if info.dtype not in DTYPES.values():
        _refuse(path, name, f"is of ONNX's type {info.dtype}, which is not read")
    if proto.HasField("segment"):
        _refuse(path, name, "is a segment of a tensor, which is not read")
    stored = _stored_type(info.dtype)
    if proto.data_location == _EXTERNAL:
        data = read_external(proto, path, name, info.size * stored.itemsize)
    elif proto.HasField("raw_data"):
        data = proto.raw_data
        if len(data) != info.size * stored.itemsize:
            _refuse(path, name, f"declares {info.dtype} {info.shape} and holds {len(data):,} bytes")
    else:
        data = _typed(proto, info, path, name)
    if info.dtype == "bfloat16":
        return widen_bfloat16(data, info.shape)
    return np.frombuffer(data, dtype=stored).reshape(info.shape).astype(info.dtype)


def _stored_type(dtype: str) -> "np.dtype[Any]":
    """Return how ONNX's raw bytes hold numbers of a type: the smaller end first."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")


def _typed(proto: Any, info: TensorInfo, path: str | os.PathLike[str], name: str) -> bytes:
    """Return numbers that stand in a list of their own kind, as raw bytes would hold them."""
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
    # a float16 or bfloat16 stands in an int32 as the integer that its bits are
    bits = "uint16" if info.dtype in {"float16", "bfloat16"} else info.dtype
    return listed.astype(np.dtype(bits).newbyteorder("<")).tobytes()
