"""Reader of PyTorch's files from before 1.6: five pickles, then the storages, one after the other.

The pickles are a magic number, the version of the format, facts about the writer's machine, the object, and the
storages' keys in the order in which the storages follow. Each storage is the number of its elements, in eight
bytes, and the elements. Everything is little-endian on every machine, except untyped storages, which have the byte
order of the writer's machine.
"""

import os
from functools import partial
from typing import cast

from nplstm.io.pt.pickled_file import DeclaredStorage, PickledFile
from nplstm.io.pt.storages import Storage
from nplstm.io.pt.unpickler import PickledDict, PickleStream, RefusedError, Value, type_name

__all__ = ["LegacyFile"]

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_FIRST = 64
"""More bytes than the pickle of the magic number takes, in any protocol."""
_COUNT = 8


class LegacyFile(PickledFile):
    """A file that ``torch.save`` wrote before PyTorch 1.6, or later on request."""

    format = "PyTorch (before 1.6)"

    def _open(self) -> None:
        self._native = "<"
        self._declared: dict[str, DeclaredStorage] = {}
        self._starts: dict[str, int] = {}
        self._size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        self._check_magic()
        stream = PickleStream(self._file, self._size, self.budget)
        if self._plain(stream) != _VERSION:
            raise RefusedError(f"its format is of another version than {_VERSION}, the one that there is")
        self._native = _native_order(self._plain(stream))
        root, steps = self._run(stream)
        self._find_storages(self._plain(stream), stream.tell())
        self._list(root, steps)

    def _plain(self, stream: PickleStream) -> Value:
        """Return the result of a pickle that needs no globals."""
        return self._run(stream, _no_name)[0]

    def _check_magic(self) -> None:
        try:
            magic = self._plain(PickleStream(self._file, min(_FIRST, self._size), self.budget))
        except RefusedError:
            magic = None
        if magic != _MAGIC:
            raise RefusedError(
                "a pickle, but none of PyTorch's; reading it would run what is in it, so it is not read"
            )

    def _storage(self, declared: DeclaredStorage, view: Value) -> Storage:
        known = self._declared.setdefault(declared.key, declared)
        if known.nbytes != declared.nbytes:
            raise RefusedError(
                f"declares {known.nbytes:,} bytes of the storage {declared.name}, and then {declared.nbytes:,}"
            )
        start, nbytes = _part(declared, view)
        order = "<" if declared.dtype else self._native
        return Storage(declared.name, declared.dtype, nbytes, order, partial(self._bytes, declared.key, start))

    def _find_storages(self, keys: Value, place: int) -> None:
        """Walk from one storage to the next, and note the offset of each."""
        if not isinstance(keys, list):
            raise RefusedError(f"has no list of its storages, but {type_name(keys)}")
        for key in cast("list[Value]", keys):
            if not isinstance(key, str):
                raise RefusedError(f"has a storage by no name, but {type_name(key)}")
            if key not in self._declared or key in self._starts:
                raise RefusedError(f"has the storage {key!a:.100} twice, or no tensor that uses it")
            place = self._pass_storage(self._declared[key], place)
        missing = self._declared.keys() - self._starts.keys()
        if missing:
            raise RefusedError(f"has no storage {min(missing)!a:.100}, which its tensors use")

    def _pass_storage(self, declared: DeclaredStorage, place: int) -> int:
        """Check one storage, and return where the next one begins."""
        self._file.seek(place)
        count = int.from_bytes(self._file.read(_COUNT), "little", signed=True)
        start = place + _COUNT
        if start + declared.nbytes > self._size:
            raise RefusedError(f"ends inside of the storage {declared.name}")
        if count != declared.count:
            raise RefusedError(
                f"declares {declared.count:,} elements of the storage {declared.name}, and has {count:,}"
            )
        self._starts[declared.key] = start
        return start + declared.nbytes

    def _bytes(self, key: str, base: int, start: int, stop: int) -> bytearray:
        return self._read_at(self._starts[key] + base + start, stop - start, f"the storage {key!a:.100}")


def _no_name(module: str, name: str) -> None:
    """Allow no global at all."""


def _native_order(machine: Value) -> str:
    """Return the byte order of the machine that wrote the file."""
    little = machine.get("little_endian") if isinstance(machine, PickledDict) else None
    if not isinstance(little, bool):
        raise RefusedError("does not say what machine wrote it")
    return "<" if little else ">"


def _part(declared: DeclaredStorage, view: Value) -> tuple[int, int]:
    """Return offset and size, in bytes, of the part of a storage that a view selects; without a view, of all."""
    match view:
        case None:
            return 0, declared.nbytes
        case (str(), int() as offset, int() as count) if offset >= 0 and 0 <= count <= declared.count - offset:
            return offset * declared.itemsize, count * declared.itemsize
        case _:
            raise RefusedError(f"refers to a part of the storage {declared.name} that is not there")
