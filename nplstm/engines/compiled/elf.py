"""Check of a library's ELF header: to load a truncated file may end the process."""

import os
import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:  # its import would take half of a first call
    from pathlib import Path

__all__ = ["damage"]

_HEADER = 64
_MACHINES = {"x86_64": 62, "aarch64": 183}
"""By the system's name of a processor, its number in an ELF header."""


def damage(file: "str | Path") -> str:
    """Return what is wrong with a file by its ELF header; empty if nothing is, or if it has another format.

    Section headers are at the end of an ELF file: a truncated file lacks them, and in one that was never written
    to its end they are zeros.
    """
    try:
        with open(file, "rb") as stream:  # noqa: PTH123
            return _damage(stream)
    except OSError as error:
        return f"cannot be read ({error})"


def _damage(stream: BinaryIO) -> str:
    header = stream.read(_HEADER)
    if len(header) < _HEADER or not any(header):
        return "is damaged"
    if not header.startswith(b"\x7fELF"):
        return ""
    if header[4:6] != b"\2\1":  # 64 bits, least significant byte first
        return "is of another platform"
    (machine,) = struct.unpack_from("<H", header, 18)
    if machine != _MACHINES.get(os.uname().machine, machine):  # the system would say that there is no such file
        return "is for processors of another kind"
    (start,) = struct.unpack_from("<Q", header, 40)
    size, count = struct.unpack_from("<HH", header, 58)
    stream.seek(min(start, 2**62))
    sections = stream.read(size * count)
    return "" if len(sections) == size * count and any(sections) else "is damaged"
