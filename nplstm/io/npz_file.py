"""Reader and writer of ``.npz`` files: named arrays in a zip archive; pickled objects are refused."""

import json
import os
import zipfile
from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import NamedTuple

import numpy as np

from nplstm._typing import Array, DType
from nplstm.errors import ArgumentError, FileFormatError
from nplstm.io._atomic import atomic_write
from nplstm.io.layer_metadata import layers_by_metadata, text_of_json
from nplstm.io.model_file import FoundLayer, OpenModelFile, TensorInfo, damaged
from nplstm.io.zip_archive import ZipArchive, leads_out

__all__ = ["NpzFile", "write_npz"]

_METADATA = "__metadata__"
"""The entry that holds the text beside the arrays: a JSON object, as UTF-8 bytes."""

_HEADER = 16_384
"""More bytes than the header of an array of numbers takes: a version, its length, and a line."""

_MOST_AXES = 64


class _Header(NamedTuple):
    entry: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: DType
    start: int  # of the numbers, in the entry


class NpzFile(OpenModelFile):
    """An ``.npz`` file, compressed or not."""

    format = "npz"

    def _open(self) -> None:
        self._archive = ZipArchive(self._file, self.path, self.budget)
        self._headers = {entry.removesuffix(".npy"): self._header(entry) for entry in self._archive.names}
        self.tensors = {
            name: TensorInfo(header.shape, header.dtype.name) for name, header in self._headers.items()
        }
        if _METADATA in self.tensors:
            self.metadata = self._metadata()

    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs that are in the file."""
        return layers_by_metadata(self)

    def _header(self, entry: str) -> _Header:
        """Return an array's header, after comparing the size that it declares with the bytes of the entry."""
        size = self._archive.size(entry)
        start = BytesIO(self._archive.head(entry, _HEADER))
        # ValueError is NumPy's; other errors come from a header that is not the dictionary it should be
        with damaged(self.path, f"{entry!r} is not an array", Exception):
            version = np.lib.format.read_magic(start)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise ValueError(f"version {version} of its format is not known")
            shape, fortran, dtype = readers[version](start)
        if dtype.hasobject:
            raise FileFormatError(f"{self.path}: {entry!r} holds Python objects, which could run code; refused")
        held = size - start.tell()
        if (
            not _is_shape(shape)
            or dtype.itemsize == 0
            or TensorInfo(shape, dtype.name).size * dtype.itemsize != held
        ):
            raise FileFormatError(f"{self.path}: {entry!r} declares {dtype} {shape} and holds {held:,} bytes")
        return _Header(entry, shape, fortran, dtype, start.tell())

    def _read(self, name: str) -> Array:
        entry, shape, fortran, dtype, start = self._headers[name]
        flat = np.frombuffer(self._archive.read(entry), dtype=dtype, offset=start)
        array = flat.reshape(shape, order="F" if fortran else "C")
        return np.ascontiguousarray(array, dtype=dtype.newbyteorder("=")).reshape(shape)

    def _metadata(self) -> dict[str, str]:
        text = self.read(_METADATA)
        del self.tensors[_METADATA]
        return text_of_json(self.path, repr(_METADATA), text.tobytes())


def _is_shape(shape: tuple[int, ...]) -> bool:
    """Tell whether an array can have this shape; a header may have any tuple there."""
    sizes = [max(size, 1) for size in shape if type(size) is int and size >= 0]
    return len(sizes) == len(shape) <= _MOST_AXES and prod(sizes) < 2**59


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write NumPy arrays and text to an ``.npz`` file, wholly or not at all."""
    for name in arrays:
        if name == _METADATA or leads_out(f"{name}.npy"):
            raise ArgumentError(f"tensors: {name!r} cannot be the name of an array in an .npz file")
    text = json.dumps(dict(metadata)).encode()
    beside = {_METADATA: np.frombuffer(text, dtype=np.uint8)} if metadata else {}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in {**arrays, **beside}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
