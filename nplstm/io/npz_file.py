"""``.npz``: arrays by name in a zip archive, with NumPy alone, and never a pickled object."""

import json
import os
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

from nplstm._typing import Array, DType
from nplstm.backends import backend_of
from nplstm.errors import ArgumentError, FileFormatError
from nplstm.io._atomic import atomic_write
from nplstm.io.archive import Archive
from nplstm.io.model_file import Budget, FoundLayer, ModelFile, TensorInfo, damaged
from nplstm.io.saved_layer import layers_by_metadata

__all__ = ["NpzFile", "write_npz"]

_METADATA = "__metadata__"
"""The entry that holds the text beside the arrays: a JSON object, as UTF-8 bytes."""

_HEADER = 65_536
"""More than any header of an array takes: a version, its length, and a line of at most 64 KiB."""


class NpzFile(ModelFile):
    """An ``.npz`` file, packed or not."""

    format = "npz"

    def __init__(self, path: str | os.PathLike[str], budget: Budget) -> None:
        super().__init__(path, budget)
        self._file = Path(path).open("rb")  # noqa: SIM115  close() closes it
        try:
            self._archive = Archive(self._file, path, budget)
            self._headers = {name.removesuffix(".npy"): self._header(name) for name in self._archive.names}
            self.tensors = {
                name: TensorInfo(shape, dtype.name) for name, (shape, _, dtype, _) in self._headers.items()
            }
            if _METADATA in self.tensors:
                self.metadata = self._metadata()
        except BaseException:
            self._file.close()
            raise

    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs that are in the file."""
        return layers_by_metadata(self)

    def _header(self, entry: str) -> tuple[tuple[int, ...], bool, DType, int]:
        """Return shape, whether it is in Fortran's order, element type and length of the header of an array."""
        size = self._archive.size(entry)
        start = BytesIO(self._archive.read(entry, 0, min(size, _HEADER)))
        # ValueError is NumPy's; the rest comes of a header that is no dictionary of what it should be
        with damaged(self.path, f"{entry!r} is not an array", Exception):
            version = np.lib.format.read_magic(start)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise ValueError(f"version {version} of its format is not known")
            shape, fortran, dtype = readers[version](start)
        if dtype.hasobject:
            raise FileFormatError(f"{self.path}: {entry!r} holds Python objects, which could run code; refused")
        info = TensorInfo(shape, dtype.name)
        if min(shape, default=0) < 0 or info.size * dtype.itemsize != size - start.tell():
            raise FileFormatError(
                f"{self.path}: {entry!r} declares {dtype} {shape} and holds {size - start.tell():,} bytes"
            )
        return shape, fortran, dtype, start.tell()

    def _read(self, name: str) -> Array:
        shape, fortran, dtype, start = self._headers[name]
        entry = name if name in self._archive else name + ".npy"
        flat = np.frombuffer(self._archive.read(entry, start), dtype=dtype)
        array = flat.reshape(shape, order="F" if fortran else "C")
        return np.ascontiguousarray(array, dtype=dtype.newbyteorder("=")).reshape(shape)

    def _metadata(self) -> dict[str, str]:
        text = self.read(_METADATA)
        del self.tensors[_METADATA]
        with damaged(
            self.path, f"{_METADATA!r} is not text", ValueError, TypeError, AttributeError, RecursionError
        ):
            found = json.loads(text.tobytes().decode())
            return {str(key): str(value) for key, value in found.items()}

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def write_npz(path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays, of any backend, and text to an ``.npz`` file, wholly or not at all."""
    if _METADATA in tensors:
        raise ArgumentError(f"tensors: the name {_METADATA!r} is taken in .npz files")
    arrays = {name: backend_of(array).to_numpy(array) for name, array in tensors.items()}
    if metadata:
        arrays[_METADATA] = np.frombuffer(json.dumps(dict(metadata)).encode(), dtype=np.uint8)
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
