"""Reader and writer of ``.safetensors`` files; the package safetensors checks the header, and writes."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from nplstm._typing import Array
from nplstm.errors import ArgumentError
from nplstm.io._atomic import atomic_write
from nplstm.io._optional import optional
from nplstm.io.layer_metadata import layers_by_metadata
from nplstm.io.model_file import FoundLayer, OpenModelFile, TensorInfo, array_from_bytes, damaged

__all__ = ["SafetensorsFile", "write_safetensors"]

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64",
}  # fmt: skip
"""safetensors' names of element types; those that are not here have no counterpart in NumPy."""

_METADATA = "__metadata__"


def _library(part: str) -> Any:
    return optional(part, extra="safetensors", files=".safetensors")


class SafetensorsFile(OpenModelFile):
    """A safetensors file.

    The package checks offsets, sizes, gaps and overlaps. It maps the file into memory, which would end the process
    if the file were cut short meanwhile, and it has no bfloat16 for NumPy: so the numbers are read here.
    """

    format = "safetensors"

    def _open(self) -> None:
        self._check()
        self._read_header()

    def _check(self) -> None:
        library = _library("safetensors")
        problem = "not a whole safetensors file"
        with (
            damaged(self.path, problem, library.SafetensorError, TypeError, ValueError, OverflowError),
            library.safe_open(os.fspath(self.path), framework="numpy"),
        ):
            pass

    def _read_header(self) -> None:
        """Read the header, which the package has checked; the file may have changed since."""
        errors = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
        with damaged(self.path, "not a whole safetensors file", *errors):
            length = int.from_bytes(self._file.read(8), "little")
            self.budget.take(length, "the header")
            header: dict[str, Any] = json.loads(self._file.read(length))
            self.metadata = {str(key): str(value) for key, value in header.pop(_METADATA, {}).items()}
            self._offsets: dict[str, int] = {}
            for name, entry in header.items():
                shape = tuple(map(int, entry["shape"]))
                self.tensors[name] = TensorInfo(shape, _DTYPES.get(entry["dtype"], str(entry["dtype"])))
                self._offsets[name] = 8 + length + int(entry["data_offsets"][0])

    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs that are in the file."""
        return layers_by_metadata(self)

    def _read(self, name: str) -> Array:
        info = self.tensors[name]
        itemsize = 2 if info.dtype == "bfloat16" else np.dtype(info.dtype).itemsize
        data = self._read_at(self._offsets[name], info.size * itemsize, f"the tensor {name!r}")
        with damaged(self.path, f"the tensor {name!r} cannot be read", ValueError):
            return array_from_bytes(data, info.dtype, info.shape)


def write_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write NumPy arrays and text to a safetensors file, wholly or not at all."""
    if _METADATA in arrays:
        raise ArgumentError(f"tensors: the name {_METADATA!r} is taken in safetensors files")
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES.values():
            raise ArgumentError(f"tensors: {name!r} is {array.dtype}, which safetensors does not have")
    # the library writes memory as it lies: what it gets must be contiguous
    packed = {name: array if array.flags.c_contiguous else array.copy() for name, array in arrays.items()}
    data: bytes = _library("safetensors.numpy").save(packed, metadata=dict(metadata))
    with atomic_write(path) as file:
        file.write(data)
