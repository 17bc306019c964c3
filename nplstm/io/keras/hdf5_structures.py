"""Structures of an HDF5 file, as h5py writes them for Keras: superblock, object headers, groups and heaps.

h5py writes the oldest form of each by default, and so does Keras: superblock 0, object headers of version 1,
groups as a B-tree over symbol table nodes, with a local heap for the names. The newer forms, in which links can
lead to other files, are refused. Names are those of the "HDF5 File Format Specification".

A valid file is a tree, and each byte of its structures has one place in it. So two rules bound the work on any
file by its size, and rule out endless loops: each object and node is visited once, and the structures that are
read are together no larger than the file.
"""

from collections.abc import Iterator
from typing import BinaryIO

from nplstm.io.keras.hdf5_messages import CONTINUATION, UNDEFINED, Cursor, MalformedError
from nplstm.io.model_file import Budget

__all__ = ["MAX_NAME", "Structures"]

MAX_NAME = 1024
_SYMBOL = 40
_SOFT_LINK = 2


class Structures:
    """The structures of a file, each read on request.

    Parameters
    ----------
    file : binary file
        Seekable. It is not closed here.
    budget : Budget
        Counts the memory of heaps of texts.
    """

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        self._file, self._budget = file, budget
        self.size = self._unread = self._texts_left = file.seek(0, 2)
        self._visited: set[int] = set()
        self._heaps: dict[int, dict[int, bytes]] = {}

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the file."""
        if address + size > self.size:
            raise MalformedError(
                f"{size:,} bytes from {address:,} on lie outside the file, which has {self.size:,}"
            )
        self._file.seek(address)
        data = self._file.read(size)
        if len(data) != size:
            raise MalformedError(f"the file ends before {address + size:,}")
        return data

    def root(self) -> int:
        """Read the superblock; return the address of the root's header."""
        fields = self._signed(0, 24, b"\x89HDF\r\n\x1a\n")
        version, _, _, _, _, offsets, lengths = fields.numbers(*[1] * 7)
        if version > 1:
            raise MalformedError(f"superblock {version}, the newer form of HDF5; Keras writes 0")
        if (offsets, lengths) != (8, 8):
            raise MalformedError(f"addresses of {offsets} and lengths of {lengths} bytes; Keras's have 8")
        fields = Cursor(self._take(24 if version == 0 else 28, 72))
        base, _, end, _, _, root, _, _, _ = fields.numbers(8, 8, 8, 8, 8, 8, 4, 4, 16)
        if base != 0 or end > self.size:
            raise MalformedError(f"it declares {end:,} bytes from {base:,} on, and there are {self.size:,}")
        return root

    def header(self, address: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield kind, flags and body of each message in the header of an object."""
        self._visit(address)
        version, _, left, _, size, _ = Cursor(self._take(address, 16)).numbers(1, 1, 2, 4, 4, 4)
        if version != 1:
            raise MalformedError(f"the object header at {address:,} has version {version}; Keras's have 1")
        blocks = [(address + 16, size)]
        for place, length in blocks:  # which grows in the loop
            fields = Cursor(self._take(place, length))
            while left and fields.left >= 8:
                left -= 1
                kind, size, flags, _ = fields.numbers(2, 2, 1, 3)
                body = fields.take(size)
                if kind == CONTINUATION:
                    more = Cursor(body)
                    blocks.append((more.number(8), more.number(8)))
                yield kind, flags, body

    def links(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        """Yield names and addresses of the objects in a group, in order."""
        fields = self._signed(heap, 32, b"HEAP")
        _, size, _, start = fields.numbers(4, 8, 8, 8)
        names = self._take(start, size)
        for symbols in self._symbol_tables(tree):
            for _ in range(symbols.left // _SYMBOL):
                offset, address, cached, _, _ = symbols.numbers(8, 8, 4, 4, 16)
                name, ended, _ = names[offset : offset + MAX_NAME].partition(b"\0")
                if not name or not ended or b"/" in name or name == b".":
                    raise MalformedError(f"{name[:80]!r} is no name for a link")
                if cached == _SOFT_LINK or address == UNDEFINED:
                    raise MalformedError(f"{name.decode()!r} is a soft link, which is not followed")
                yield name.decode(), address

    def text(self, reference: bytes) -> str:
        """Return a text of variable length from the global heap."""
        length, address, index = Cursor(reference).numbers(4, 8, 4)
        if length == 0:
            return ""
        if address not in self._heaps:
            self._heaps[address] = self._heap(address)
        text = self._heaps[address].get(index, b"")
        if len(text) < length:
            raise MalformedError(f"a text of {length:,} bytes is not in the heap at {address:,}")
        if length > self._texts_left:
            raise MalformedError("its texts overlap")
        self._texts_left -= length
        return text[:length].rstrip(b"\0").decode()

    def _take(self, address: int, size: int) -> bytes:
        """Read bytes of a structure, and count them."""
        if size > self._unread:
            raise MalformedError("its structures overlap")
        self._unread -= size
        return self.read(address, size)

    def _visit(self, address: int) -> None:
        if address in self._visited:
            raise MalformedError(f"two links lead to what is at {address:,}, or they go round in circles")
        self._visited.add(address)

    def _signed(self, address: int, size: int, signature: bytes) -> Cursor:
        """Read a structure that begins with its signature; return what follows."""
        data = self._take(address, size)
        if not data.startswith(signature):
            raise MalformedError(f"expected {signature!r} at {address:,}, got {data[: len(signature)]!r}")
        return Cursor(data[len(signature) :])

    def _symbol_tables(self, tree: int) -> Iterator[Cursor]:
        """Yield the entries of each leaf of a group's B-tree, in order."""
        waiting = [tree]
        while waiting:
            address = waiting.pop()
            self._visit(address)
            kind, level, used, _, _ = self._signed(address, 24, b"TREE").numbers(1, 1, 2, 8, 8)
            if kind != 0:
                raise MalformedError(f"the B-tree at {address:,} is not a group's")
            fields = Cursor(self._take(address + 24, 16 * used))
            children = [fields.numbers(8, 8)[1] for _ in range(used)]
            if level > 0:
                waiting += children[::-1]
                continue
            for child in children:
                _, count = self._signed(child, 8, b"SNOD").numbers(2, 2)
                yield Cursor(self._take(child + 8, count * _SYMBOL))

    def _heap(self, address: int) -> dict[int, bytes]:
        """Return the objects of a collection of the global heap by their numbers."""
        _, size = self._signed(address, 16, b"GCOL").numbers(4, 8)
        self._budget.take(size, "a heap of texts")
        fields = Cursor(self._take(address + 16, max(size - 16, 0)))
        found: dict[int, bytes] = {}
        while fields.left >= 16:
            index, _, _, length = fields.numbers(2, 2, 4, 8)
            if index == 0:  # the rest is free space
                break
            start = fields.left
            found[index] = fields.take(length)
            fields.align(start)
        return found
