"""Detect a file's format from its content, not from its name, and open it with the reader for that format."""

import os
from collections.abc import Callable
from importlib import import_module

from nplstm._shapes import check_size
from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.model_file import MAX_BYTES, Budget, ModelFile, check_ordinary, printable

__all__ = ["open_file", "read_tensors"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")

_TORCH = ("/data.pkl", "/model.json", "/archive_format", "/.data/extern_modules")
"""Entries of PyTorch's archives, also of those that hold a program and are refused."""

# Readers by module and name: a module is imported when a file of its format is opened.
_BY_ENTRIES: list[tuple[Callable[[list[str]], bool], tuple[str, str]]] = [
    (lambda names: "model.weights.h5" in names, ("nplstm.io.keras.keras_file", "KerasZipFile")),
    (lambda names: any(name.endswith(_TORCH) for name in names), ("nplstm.io.pt.zip_file", "TorchZipFile")),
    (lambda names: all(name.endswith(".npy") for name in names), ("nplstm.io.npz_file", "NpzFile")),
]
_BY_START: list[tuple[Callable[[bytes], bool], tuple[str, str]]] = [
    (lambda start: start.startswith(b"\x89HDF\r\n\x1a\n"), ("nplstm.io.keras.keras_file", "KerasH5File")),
    (lambda start: start[6:9] == b"\0\0{", ("nplstm.io.safetensors_file", "SafetensorsFile")),
    (lambda start: start.startswith(b"\x80"), ("nplstm.io.pt.legacy_file", "LegacyFile")),
    (lambda start: start.startswith(b"\x08"), ("nplstm.io.onnx.onnx_file", "OnnxFile")),
]


def open_file(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> ModelFile:
    """Open a file of any supported format, to list its tensors and layers and to read single tensors.

    The format is detected from the content: PyTorch (zip, TorchScript, or the format before 1.6), safetensors,
    npz, ONNX, Keras (``.keras``, ``.weights.h5``, ``.h5``). No file can run code, whatever it holds.

    Parameters
    ----------
    path : str or PathLike
    max_bytes : int
        How much memory everything that is read may take together.

    Returns
    -------
    ModelFile
        A context manager, with ``format``, ``metadata``, ``tensors`` (name to shape and element type),
        ``read(name)`` and ``layers()``, which lists the LSTMs.

    Raises
    ------
    FileFormatError
        If the file is damaged or hostile, or its format is not supported.
    MissingDependencyError
        If its format needs a package that is not installed; the message names it.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import nplstm, tempfile, pathlib
    >>> from nplstm.io import open_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nplstm.save(nplstm.LSTM(2, 3, rng=0), pathlib.Path(folder) / "lstm.npz")
    ...     with open_file(pathlib.Path(folder) / "lstm.npz") as file:
    ...         file.format, file.tensors["weight_ih_l0"]
    ('npz', TensorInfo(shape=(12, 2), dtype='float32'))
    """
    budget = Budget(path, check_size("max_bytes", max_bytes))
    module, name = _reader(path, budget)
    reader: Callable[[str | os.PathLike[str], Budget], ModelFile] = getattr(import_module(module), name)
    return reader(path, budget)


def read_tensors(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """Read all tensors of a file of any format that ``open_file`` supports.

    Parameters
    ----------
    path : str or PathLike
    max_bytes : int
        How much memory the tensors may take together.

    Returns
    -------
    dict of str to ndarray
        NumPy arrays by their names in the file; entries of nested containers joined by dots. bfloat16 becomes
        float32, which holds all its values exactly.

    Raises
    ------
    FileFormatError, MissingDependencyError, OSError
        As ``open_file``; also if a tensor is of a type that NumPy does not have.

    Examples
    --------
    >>> import nplstm, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nplstm.save(nplstm.LSTM(2, 3, rng=0), pathlib.Path(folder) / "lstm.npz")
    ...     list(nplstm.read_tensors(pathlib.Path(folder) / "lstm.npz"))
    ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    """
    with open_file(path, max_bytes=max_bytes) as file:
        return {name: file.read(name) for name in file.tensors}


def _reader(path: str | os.PathLike[str], budget: Budget) -> tuple[str, str]:
    """Return module and name of the reader of a file."""
    from pathlib import Path  # imported here, because `import nplstm` does not need it

    check_ordinary(path)
    with Path(path).open("rb") as file:
        start = file.read(512)
        if start.startswith(_ZIP):
            from nplstm.io.zip_archive import ZipArchive

            names = ZipArchive(file, path, budget, crc_optional=True).names
            for fits, reader in _BY_ENTRIES:
                if fits(names):
                    return reader
            entries = printable(", ".join(names[:5])) + (", ..." if len(names) > 5 else "")
            raise FileFormatError(f"{path}: a zip archive of no known kind, with {entries}; {_KNOWN}")
    for fits, reader in _BY_START:
        if fits(start):
            return reader
    raise FileFormatError(f"{path}: {_unread(start)}; {_KNOWN}")


_KNOWN = "PyTorch, safetensors, npz, ONNX and Keras files are read"


def _unread(start: bytes) -> str:
    if not start:
        return "the file is empty"
    known = {
        "a tar archive (torch.save wrote these before 0.1.10)": start[257:262] == b"ustar",
        "packed by gzip": start.startswith(b"\x1f\x8b"),
        "a single array (.npy)": start.startswith(b"\x93NUMPY"),
        "a GGUF file": start.startswith(b"GGUF"),
        "onnxruntime's own format (ORT)": start[4:8] == b"ORTM",
    }
    return next(
        (what for what, found in known.items() if found), f"of no known kind (it begins with {start[:8]!r})"
    )
