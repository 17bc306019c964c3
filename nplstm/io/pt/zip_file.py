"""Reader of PyTorch's zip archives: those of ``torch.save`` since 1.6, and TorchScript's, whose code is never run.

All entries are in one folder: ``data.pkl``, the storages by number in ``data/``, and the byte order in
``byteorder``. A TorchScript archive has ``constants.pkl`` and ``code/`` too; its ``data.pkl`` is the module, an
object whose attributes are its parameters, buffers and submodules.
"""

import os
from functools import partial
from pathlib import Path
from typing import BinaryIO

from nplstm.errors import FileFormatError
from nplstm.io.layer_metadata import text_of_json
from nplstm.io.model_file import Budget
from nplstm.io.pt.allowed_globals import find_global, find_script_global
from nplstm.io.pt.pickled_file import DeclaredStorage, PickledFile, refusals
from nplstm.io.pt.state_dict_writer import METADATA
from nplstm.io.pt.storages import Storage
from nplstm.io.pt.unpickler import PickleStream, RefusedError, Value
from nplstm.io.zip_archive import ZipArchive

__all__ = ["TorchScriptFile", "TorchZipFile", "open_zip"]

_PICKLE = "/data.pkl"
_LONGEST_FOLDER = 255
"""torch names it after the file, and no file system has longer names. Every storage keeps its entry's name."""
_ORDERS = {b"little": "<", b"big": ">"}

_OTHERS = {
    "archive_format": "torch.export's program (.pt2); save model.state_dict()",
    ".data/extern_modules": "a torch.package archive, which holds code; save model.state_dict()",
    "model.json": "TorchScript in its first format; torch.jit.load it and torch.jit.save it again",
}
"""torch's archives that are not read, by an entry in their folder."""


def open_zip(path: str | os.PathLike[str], budget: Budget) -> PickledFile:
    """Open one of torch's zip archives.

    Raises
    ------
    FileFormatError
        If it is damaged or hostile, or holds a program.
    """
    file = Path(path).open("rb")  # noqa: SIM115  the reader's close() closes it
    try:
        archive = ZipArchive(file, path, budget, crc_optional=True)
        folder = _folder(path, archive)
        kind = TorchScriptFile if f"{folder}/constants.pkl" in archive else TorchZipFile
        return kind(path, budget, file, archive, folder)
    except BaseException:
        file.close()
        raise


def _folder(path: str | os.PathLike[str], archive: ZipArchive) -> str:
    """Return the folder of all entries."""
    for entry, what in _OTHERS.items():
        if any(name.endswith(f"/{entry}") for name in archive.names):
            raise FileFormatError(f"{os.fspath(path)}: {what}")
    folders = [name.removesuffix(_PICKLE) for name in archive.names if name.endswith(_PICKLE)]
    if len(folders) != 1:
        raise FileFormatError(f"{os.fspath(path)}: expected one data.pkl in a folder, found {len(folders)}")
    if len(folders[0]) > _LONGEST_FOLDER:
        raise FileFormatError(f"{os.fspath(path)}: its folder has a name of {len(folders[0]):,} characters")
    return folders[0]


class TorchZipFile(PickledFile):
    """A file that ``torch.save`` wrote."""

    format = "PyTorch"
    _names = staticmethod(find_global)

    def __init__(
        self, path: str | os.PathLike[str], budget: Budget, file: BinaryIO, archive: ZipArchive, folder: str
    ) -> None:
        super().__init__(path, budget, file)
        self._archive, self._folder = archive, folder
        with refusals(path):
            self._order = self._byte_order()
            pickle = archive.open(folder + _PICKLE)
            source = PickleStream(pickle, archive.size(folder + _PICKLE), budget)
            self._list(*self._run(source, self._names))
            self._read_metadata()

    def _byte_order(self) -> str:
        entry = f"{self._folder}/byteorder"
        if entry not in self._archive:  # torch writes it since 2.1; before, files were little-endian
            return "<"
        text = bytes(self._archive.read(entry)) if self._archive.size(entry) <= len(b"little") else b""
        if text not in _ORDERS:
            raise RefusedError("its byteorder is neither little nor big")
        return _ORDERS[text]

    def _read_metadata(self) -> None:
        """Read the metadata that nplstm.save writes beside the tensors."""
        entry = f"{self._folder}/{METADATA}"
        if entry in self._archive:
            self.metadata = text_of_json(self.path, METADATA, self._archive.read_whole(entry))

    def _storage(self, declared: DeclaredStorage, view: Value) -> Storage:
        entry = f"{self._folder}/data/{declared.key}"
        if view is not None:
            raise RefusedError(f"refers to a part of the storage {declared.name}, as only files before 1.6 do")
        if entry not in self._archive:
            raise RefusedError(f"has no entry for the storage {declared.name}")
        size = self._archive.size(entry)
        if size != declared.nbytes:
            raise RefusedError(
                f"declares {declared.nbytes:,} bytes of the storage {declared.name}, and has {size:,}"
            )
        read = partial(self._archive.read, entry)
        return Storage(declared.name, declared.dtype, declared.nbytes, self._order, read)


class TorchScriptFile(TorchZipFile):
    """A file that ``torch.jit.save`` wrote."""

    format = "TorchScript"
    _names = staticmethod(find_script_global)

    def __init__(
        self, path: str | os.PathLike[str], budget: Budget, file: BinaryIO, archive: ZipArchive, folder: str
    ) -> None:
        super().__init__(path, budget, file, archive, folder)
        if not self.tensors and any(name.startswith(f"{folder}/constants/") for name in archive.names):
            self.format = "frozen TorchScript"  # the weights are constants of its code, without names
