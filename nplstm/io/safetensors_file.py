"""safetensors, through its own library: named tensors, with text beside them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nplstm._typing import Array
from nplstm.backends import backend_of
from nplstm.errors import ArgumentError
from nplstm.io._atomic import atomic_write
from nplstm.io._optional import optional
from nplstm.io.model_file import Budget, FoundLayer, ModelFile, TensorInfo, damaged, widen_bfloat16
from nplstm.io.saved_layer import layers_by_metadata

__all__ = ["SafetensorsFile", "write_safetensors"]

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64",
}  # fmt: skip
"""safetensors' names of element types; those that are not here have no counterpart in NumPy."""


def _library(part: str) -> Any:
    return optional(part, extra="safetensors", files=".safetensors")


class SafetensorsFile(ModelFile):
    """A safetensors file. The library checks its header: places, sizes, gaps and overlaps."""

    format = "safetensors"

    def __init__(self, path: str | os.PathLike[str], budget: Budget) -> None:
        super().__init__(path, budget)
        library = _library("safetensors")
        with Path(path).open("rb"):  # a file that cannot be read is an OSError, not a damaged one
            pass
        problem = "not a whole safetensors file"
        with damaged(path, problem, library.SafetensorError, TypeError, ValueError, OverflowError):
            self._opened: Any = library.safe_open(os.fspath(path), framework="numpy")
            self._handle = self._opened.__enter__()
            self.metadata = dict(self._handle.metadata() or {})
            for name in self._handle.keys():  # noqa: SIM118  it is no mapping
                part = self._handle.get_slice(name)
                dtype = str(part.get_dtype())
                self.tensors[name] = TensorInfo(tuple(map(int, part.get_shape())), _DTYPES.get(dtype, dtype))

    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs that are in the file."""
        return layers_by_metadata(self)

    def _read(self, name: str) -> Array:
        info = self.tensors[name]
        if info.dtype == "bfloat16":
            return widen_bfloat16(self._bytes(name), info.shape)
        with damaged(
            self.path, f"the tensor {name!r} cannot be read", Exception
        ):  # what the library raises varies
            array: Array = self._handle.get_tensor(name)
        return array

    def _bytes(self, name: str) -> bytes:
        """Read a tensor's bytes by the header, which the library has checked; it gives no bfloat16 to NumPy."""
        with Path(self.path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            start, stop = json.loads(file.read(length))[name]["data_offsets"]
            file.seek(8 + length + start)
            return file.read(stop - start)

    def close(self) -> None:
        """Let the file go."""
        self._opened.__exit__(None, None, None)


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write arrays, of any backend, and text to a safetensors file, wholly or not at all."""
    save = _library("safetensors.numpy").save
    arrays = {name: backend_of(array).to_numpy(array) for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES.values():
            raise ArgumentError(f"tensors: {name!r} is {array.dtype}, which safetensors does not have")
    # the library writes memory as it lies: what it gets must be contiguous
    packed = {name: array if array.flags.c_contiguous else array.copy() for name, array in arrays.items()}
    data: bytes = save(packed, metadata=dict(metadata))
    with atomic_write(path) as file:
        file.write(data)
