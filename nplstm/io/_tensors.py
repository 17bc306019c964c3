"""Named arrays with text metadata in a safetensors file."""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from nplstm._typing import Array
from nplstm.backends import backend_of
from nplstm.errors import FileFormatError, MissingDependencyError
from nplstm.io._atomic import atomic_write


def _library(part: str) -> Any:
    try:
        return import_module(part)
    except ImportError as error:
        raise MissingDependencyError(
            "safetensors is not installed, and model files need it: pip install 'nplstm[train]'"
        ) from error


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to a safetensors file, wholly or not at all.

    Parameters
    ----------
    path : str or PathLike
        Replaced where it exists.
    tensors : mapping of name to Array
        Of either backend.
    metadata : mapping of str to str

    Raises
    ------
    MissingDependencyError
        If safetensors is not installed.
    OSError
        If the file cannot be written; what was there is intact.
    """
    save = _library("safetensors.numpy").save
    arrays = {name: backend_of(array).to_numpy(array) for name, array in tensors.items()}
    # the library writes memory as it lies: what it gets must be contiguous
    packed = {name: array if array.flags.c_contiguous else array.copy() for name, array in arrays.items()}
    data: bytes = save(packed, metadata=dict(metadata))
    with atomic_write(path) as file:
        file.write(data)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Read all arrays and the metadata of a safetensors file; NumPy arrays.

    Raises
    ------
    FileFormatError
        If the file is truncated, damaged, or no safetensors file.
    MissingDependencyError
        If safetensors is not installed.
    OSError
        If the file cannot be read.
    """
    library = _library("safetensors")
    with open(path, "rb"):  # noqa: PTH123  a missing or unreadable file is an OSError, not a damaged file
        pass
    try:
        with library.safe_open(os.fspath(path), framework="numpy") as file:
            tensors: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata: dict[str, str] = dict(file.metadata() or {})
    except library.SafetensorError as error:
        raise FileFormatError(f"{path}: not a whole safetensors file: {error}") from error
    return tensors, metadata
