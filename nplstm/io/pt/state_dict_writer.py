"""Writer of state dicts for ``torch.load``: a zip archive with a pickle, and a storage for each tensor.

The pickle is written without a pickler: it is one dictionary, and the opcodes of its tensors differ only in name,
type and shape.
"""

import json
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, BinaryIO

import numpy as np

from nplstm._typing import Array
from nplstm.errors import ArgumentError
from nplstm.io._atomic import atomic_write

__all__ = ["METADATA", "write_pt"]

METADATA = "nplstm.json"
"""The entry with the metadata; torch ignores it."""

_STORAGES = {
    "bool": "BoolStorage", "uint8": "ByteStorage", "int8": "CharStorage", "int16": "ShortStorage",
    "int32": "IntStorage", "int64": "LongStorage", "float16": "HalfStorage", "float32": "FloatStorage",
    "float64": "DoubleStorage", "complex64": "ComplexFloatStorage", "complex128": "ComplexDoubleStorage",
}  # fmt: skip

_FOLDER = "archive"
_ALIGNMENT = 64
"""Storages begin at multiples of this, so that torch can map them into memory."""


def write_pt(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write NumPy arrays and metadata as a state dict that ``torch.load`` reads."""
    for name, array in arrays.items():
        if array.dtype.name not in _STORAGES:
            raise ArgumentError(f"tensors: {name!r} is {array.dtype}, which torch's state dicts do not hold")
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, file, "data.pkl", b"".join(_pickle(arrays)))
        _add(archive, file, "byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            _add(archive, file, f"data/{key}", little.reshape(-1).view(np.uint8).data)
        _add(archive, file, "version", b"3\n")
        if metadata:
            _add(archive, file, METADATA, json.dumps(dict(metadata)).encode())


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: "bytes | memoryview[Any]") -> None:
    """Add an entry whose bytes begin at a multiple of the alignment, by means of padding in its extra field."""
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}")
    large = len(data) * 1.05 > zipfile.ZIP64_LIMIT  # as zipfile itself decides
    header = 30 + len(info.filename) + (20 if large else 0)  # of 64-bit sizes
    padding = -(file.tell() + header + 4) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    info.file_size = len(data)
    with archive.open(info, "w", force_zip64=large) as entry:
        entry.write(data)


def _pickle(arrays: Mapping[str, Array]) -> Iterator[bytes]:
    """Yield the opcodes of ``OrderedDict([(name, tensor), ...])``, protocol 2."""
    yield b"\x80\x02" + _EMPTY_DICT + b"("
    for key, (name, array) in enumerate(arrays.items()):
        strides = tuple(prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        yield _text(name) + _global("torch._utils", "_rebuild_tensor_v2")
        yield b"(" + _storage(str(key), array) + _integer(0) + _sizes(array.shape) + _sizes(strides)
        yield b"\x89" + _EMPTY_DICT + b"tR"  # requires no gradient, and has no hooks
    yield b"u."


def _storage(key: str, array: Array) -> bytes:
    """Return the reference to a storage: ("storage", its class, its entry, its device, how many numbers)."""
    kind = _global("torch", _STORAGES[array.dtype.name])
    return b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _integer(array.size) + b"tQ"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


_EMPTY_DICT = _global("collections", "OrderedDict") + b")R"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", number)


def _sizes(sizes: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, sizes)) + b"t"
