"""Zip archives from untrusted sources: every declared size, offset and name is checked before it is used.

Python's zipfile reads the central directory; the entries' bytes are read here, in chunks, so that a part of a
large entry takes no more memory than the part, and still the whole entry's checksum is compared.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from nplstm.errors import FileFormatError
from nplstm.io.model_file import Budget, damaged

__all__ = ["ZipArchive", "leads_out"]

_CHUNK = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_MOST_EXPANSION = 1032
"""Deflate expands one byte to at most this many."""
_ENCRYPTED = 0x1


class _Entry(NamedTuple):
    name: str
    start: int  # of its bytes, in the file
    stored: int  # bytes in the file
    size: int  # bytes once unpacked
    crc: int
    deflated: bool


class ZipArchive:
    """The entries of a zip file.

    Parameters
    ----------
    file : binary file
        Seekable. The archive does not close it.
    path : str or PathLike
        For messages.
    budget : Budget
        Counts entries that are decompressed whole.
    crc_optional : bool
        Whether a checksum of 0 means that there is none: torch leaves them out on request.

    Raises
    ------
    FileFormatError
        If the directory is damaged, or an entry lies outside the file, overlaps another one, has a name that leads
        out of the archive, exists twice, is encrypted, is compressed by an uncommon method, or declares more bytes
        than it can decompress to.
    """

    def __init__(
        self, file: BinaryIO, path: str | os.PathLike[str], budget: Budget, *, crc_optional: bool = False
    ) -> None:
        self._file, self._path, self._budget, self._crc_optional = file, os.fspath(path), budget, crc_optional
        self._checked: set[str] = set()
        self._cached: dict[str, bytearray] = {}
        self._end = file.seek(0, os.SEEK_END)
        errors = (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError, EOFError)
        with damaged(path, "not a whole zip archive", *errors), zipfile.ZipFile(file) as directory:
            infos = directory.infolist()
        self._entries: dict[str, _Entry] = {}
        for info in infos:
            if not info.filename.endswith("/"):  # is_dir() fails on an empty name
                self._add(info)
        self._check_overlaps()

    @property
    def names(self) -> list[str]:
        """The entries' names, in the directory's order."""
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def size(self, name: str) -> int:
        """Return the size of an entry in bytes, decompressed."""
        return self._entry(name).size

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytearray:
        """Return an entry's bytes from ``start`` to ``stop``, after the checksum of all of them was compared.

        The caller counts the memory where it is large; the declared size is bounded by the stored bytes.

        Raises
        ------
        FileFormatError
            If the entry or the part does not exist, or the entry is damaged.
        """
        entry = self._entry(name)
        stop = entry.size if stop is None else stop
        if not 0 <= start <= stop <= entry.size:
            raise FileFormatError(
                f"{self._path}: {name!r} has {entry.size:,} bytes, not those from {start} to {stop}"
            )
        if entry.deflated and (start, stop) != (0, entry.size):
            return self._decompressed(entry)[start:stop]
        if name in self._checked and not entry.deflated:
            self._file.seek(entry.start + start)
            return bytearray(self._take(entry, stop - start))
        part = bytearray(stop - start)
        place = 0
        for piece in self._pieces(entry):
            low, high = max(start - place, 0), min(stop - place, len(piece))
            if low < high:
                part[place + low - start : place + high - start] = piece[low:high]
            place += len(piece)
        return part

    def read_whole(self, name: str) -> bytearray:
        """Return all of an entry, counted against the budget."""
        self._budget.take(self.size(name), f"the entry {name!r}")
        return self.read(name)

    def head(self, name: str, count: int) -> bytes:
        """Return an entry's first ``count`` bytes, or all if it has fewer; no checksum is compared."""
        entry = self._entry(name)
        head = bytearray()
        for piece in self._unpack(entry, max(count, 1)):
            head += piece
            if len(head) >= count:
                break
        return bytes(head[: min(count, entry.size)])

    def open(self, name: str) -> BinaryIO:
        """Return an entry as a seekable file, decompressed in memory if it is compressed.

        Its checksum has been compared.
        """
        entry = self._entry(name)
        if entry.deflated:
            return io.BytesIO(self.read_whole(name))
        for _ in self._pieces(entry):
            pass
        return io.BufferedReader(_FileSlice(self._file, entry.start, entry.size))

    def _decompressed(self, entry: _Entry) -> bytearray:
        """Return a compressed entry of which parts are read: decompressed once, and kept."""
        if entry.name not in self._cached:
            self._cached[entry.name] = self.read_whole(entry.name)
        return self._cached[entry.name]

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise FileFormatError(f"{self._path}: the archive has no entry {name!r}")
        return self._entries[name]

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        if leads_out(info.orig_filename):
            raise FileFormatError(
                f"{self._path}: the entry {info.orig_filename!r} has a name that leads out of the archive"
            )
        if name in self._entries:
            raise FileFormatError(f"{self._path}: the archive has two entries {name!r}")
        if info.flag_bits & _ENCRYPTED:
            raise FileFormatError(f"{self._path}: the entry {name!r} is encrypted")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise FileFormatError(
                f"{self._path}: the entry {name!r} is packed by method {info.compress_type}; only stored (0) and "
                f"deflated (8) are read"
            )
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        most = info.compress_size * _MOST_EXPANSION if deflated else info.compress_size
        if info.file_size > most or (not deflated and info.file_size != info.compress_size):
            raise FileFormatError(
                f"{self._path}: the entry {name!r} declares {info.file_size:,} bytes and stores "
                f"{info.compress_size:,}, which cannot hold them"
            )
        start = self._start_of(info)
        self._entries[name] = _Entry(name, start, info.compress_size, info.file_size, info.CRC, deflated)

    def _start_of(self, info: zipfile.ZipInfo) -> int:
        """Return where an entry's bytes begin: after its local header, which declares its own length."""
        problem = f"{self._path}: the entry {info.filename!r} lies outside the file"
        if not 0 <= info.header_offset <= self._end - _LOCAL_HEADER.size:
            raise FileFormatError(problem)
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:  # the file was cut meanwhile
            raise FileFormatError(problem)
        signature, *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\x03\x04":
            raise FileFormatError(f"{self._path}: the entry {info.filename!r} has no header where it should start")
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if start + info.compress_size > self._end:
            raise FileFormatError(problem)
        return start

    def _check_overlaps(self) -> None:
        """Raise if two entries share bytes, as in zip bombs."""
        entries = sorted(self._entries.values(), key=lambda entry: entry.start)
        for one, other in pairwise(entries):
            if one.start + one.stored > other.start - _LOCAL_HEADER.size:
                raise FileFormatError(f"{self._path}: the entries {one.name!r} and {other.name!r} overlap")

    def _take(self, entry: _Entry, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise FileFormatError(f"{self._path}: the file ends inside the entry {entry.name!r}")
        return data

    def _pieces(self, entry: _Entry) -> Iterator[bytes]:
        """Yield an entry's bytes; at the end compare their number and checksum."""
        crc = size = 0
        for piece in self._unpack(entry, _CHUNK):
            crc = zlib.crc32(piece, crc)
            size += len(piece)
            yield piece
        if size != entry.size:
            raise FileFormatError(
                f"{self._path}: the entry {entry.name!r} declares {entry.size:,} bytes and holds {size:,}"
            )
        if crc != entry.crc and not (self._crc_optional and entry.crc == 0):
            raise FileFormatError(
                f"{self._path}: the entry {entry.name!r} is damaged: checksum {crc:08x}, expected {entry.crc:08x}"
            )
        self._checked.add(entry.name)

    def _stored(self, entry: _Entry, most: int) -> Iterator[bytes]:
        place, end = entry.start, entry.start + entry.stored
        while place < end:
            self._file.seek(place)  # each time, because the file is read elsewhere between two pieces
            piece = self._take(entry, min(most, end - place))
            yield piece
            place += len(piece)

    def _unpack(self, entry: _Entry, most: int) -> Iterator[bytes]:
        """Yield an entry's bytes in pieces of at most so many."""
        if not entry.deflated:
            yield from self._stored(entry, most)
            return
        unpacker, left = zlib.decompressobj(-zlib.MAX_WBITS), entry.size
        with damaged(self._path, f"the entry {entry.name!r} is damaged", zlib.error):
            for packed in self._stored(entry, most):
                rest = packed
                while rest and left >= 0:
                    piece = unpacker.decompress(rest, most)
                    left -= len(piece)
                    rest = unpacker.unconsumed_tail
                    if left < 0:
                        raise FileFormatError(
                            f"{self._path}: the entry {entry.name!r} holds more than the {entry.size:,} bytes it "
                            f"declares"
                        )
                    yield piece
            yield unpacker.flush()  # the rest that was held back when a piece was full


def leads_out(name: str) -> bool:
    """Tell whether an entry's name leads, or on some system may lead, out of the folder it is unpacked to."""
    parts = name.split("/")
    return ".." in parts or parts[0] == "" or parts[0].endswith(":") or "\\" in name or "\0" in name


class _FileSlice(io.RawIOBase):
    """A part of a file as a read-only file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._place = max(offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence], 0)
        return self._place

    def readinto(self, buffer: "memoryview[int]", /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._file.seek(self._start + self._place)
        data = self._file.read(max(min(len(buffer), self._size - self._place), 0))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
