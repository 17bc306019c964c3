"""Whether a library's file is whole: the system may end the process when it loads one that was cut short."""

import struct
from pathlib import Path

__all__ = ["is_complete"]

_HEADER = 64


def is_complete(file: Path) -> bool:
    """Tell whether a file has all that its ELF header announces; True for files of other systems.

    Section headers stand at the end of an ELF file, so a file that was cut short lacks them.
    """
    with file.open("rb") as stream:
        header = stream.read(_HEADER)
    if not header.startswith(b"\x7fELF"):
        return len(header) == _HEADER and any(header)
    if len(header) < _HEADER or header[4] != 2 or header[5] != 1:  # 64 bits, least significant byte first
        return False
    (start,) = struct.unpack_from("<Q", header, 40)
    size, count = struct.unpack_from("<HH", header, 58)
    return file.stat().st_size >= start + size * count
