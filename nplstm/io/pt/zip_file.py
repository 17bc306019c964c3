"""Reader of PyTorch's zip archives: those of ``torch.save`` since 1.6, and TorchScript's, whose code is never run.

All entries are in one folder: ``data.pkl``, the storages by number in ``data/``, and the byte order in
``byteorder``. A TorchScript archive has ``constants.pkl`` and ``code/`` too; its ``data.pkl`` is the module, an
object whose attributes are its parameters, buffers and submodules.
"""

from functools import partial

from nplstm.io.layer_metadata import text_of_json
from nplstm.io.pt.allowed_globals import find_global, find_script_global
from nplstm.io.pt.pickled_file import DeclaredStorage, PickledFile
from nplstm.io.pt.state_dict_writer import METADATA
from nplstm.io.pt.storages import Storage
from nplstm.io.pt.unpickler import PickleStream, RefusedError, Value
from nplstm.io.zip_archive import ZipArchive

__all__ = ["TorchZipFile"]

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


class TorchZipFile(PickledFile):
    """A file that ``torch.save`` or ``torch.jit.save`` wrote."""

    format = "PyTorch"

    def _open(self) -> None:
        self._archive = ZipArchive(self._file, self.path, self.budget, crc_optional=True)
        self._folder = self._find_folder()
        self._order = self._byte_order()
        script = f"{self._folder}/constants.pkl" in self._archive
        pickle = self._folder + _PICKLE
        stream = PickleStream(self._archive.open(pickle), self._archive.size(pickle), self.budget)
        self._list(*self._run(stream, find_script_global if script else find_global))
        self._read_metadata()
        if script:
            self.format = "TorchScript"
            if not self.tensors and any(n.startswith(f"{self._folder}/constants/") for n in self._archive.names):
                self.format = "frozen TorchScript"  # the weights are constants of its code, without names

    def _find_folder(self) -> str:
        """Return the folder of all entries."""
        names = self._archive.names
        for entry, what in _OTHERS.items():
            if any(name.endswith(f"/{entry}") for name in names):
                raise RefusedError(what)
        folders = [name.removesuffix(_PICKLE) for name in names if name.endswith(_PICKLE)]
        if len(folders) != 1:
            raise RefusedError(f"expected one data.pkl in a folder, found {len(folders)}")
        if len(folders[0]) > _LONGEST_FOLDER:
            raise RefusedError(f"its folder has a name of {len(folders[0]):,} characters")
        return folders[0]

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
