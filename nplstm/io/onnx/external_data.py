"""Numbers that a model keeps in a file beside it. The model names the file, so nothing about it is trusted."""

import os
from pathlib import Path
from typing import Any

from nplstm.errors import FileFormatError

__all__ = ["read_external"]


def read_external(proto: Any, path: str | os.PathLike[str], name: str, nbytes: int) -> bytes:
    """Return the bytes of a ``TensorProto`` that are not in the model; only this part of the file is read.

    Parameters
    ----------
    proto : TensorProto
    path : str or PathLike
        Of the model: its folder is the only place that is looked into.
    name : str
        For messages.
    nbytes : int
        How many bytes the tensor's shape asks for; they have been counted.

    Raises
    ------
    FileFormatError
        If the file is not an ordinary one in the model's folder or below it, or does not have these bytes.
    """
    tensor = f"{os.fspath(path)}: the tensor {name!r}"
    location, start, length = _place(proto, tensor, nbytes)
    if length != nbytes:
        raise FileFormatError(f"{tensor} takes {nbytes:,} bytes, and its external data declares {length:,}")
    try:
        target = _target(path, location, tensor)
        size = target.stat().st_size
        if start + nbytes > size:
            raise FileFormatError(
                f"{tensor} has {nbytes:,} bytes from {start:,} on in {location!r}, which has {size:,} in all"
            )
        with target.open("rb") as file:
            file.seek(start)
            data = file.read(nbytes)
    except (OSError, RuntimeError) as error:  # before Python 3.13, links in a circle are a RuntimeError
        raise FileFormatError(f"{tensor} has its data in {location!r}, which cannot be read: {error}") from error
    if len(data) != nbytes:
        raise FileFormatError(f"{tensor} has its data in {location!r}, which ends early")
    return data


def _place(proto: Any, tensor: str, nbytes: int) -> tuple[str, int, int]:
    """Return the file's name, where the numbers start in it, and how many bytes they are said to be."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    try:
        start, length = _number(entries.get("offset", "0")), _number(entries.get("length", f"{nbytes}"))
        return entries["location"], start, length
    except (KeyError, ValueError):
        raise FileFormatError(f"{tensor} has external data of no known place: {entries!s:.200}") from None


def _number(text: str) -> int:
    """Return a number that is written as ONNX writes it: ``int`` takes other signs and digits too."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _target(path: str | os.PathLike[str], location: str, tensor: str) -> Path:
    """Return an ordinary file in the model's folder or below it, wherever links lead."""
    parts = location.split("/")
    named = not ("\\" in location or "\0" in location or location[1:2] == ":" or "" in parts or ".." in parts)
    if named:
        folder = Path(path).absolute().parent.resolve()
        target = (folder / location).resolve()
        if target.is_relative_to(folder) and target.is_file():
            return target
        if target.is_relative_to(folder):
            raise FileFormatError(f"{tensor} has its data in {location!r}, which is not an ordinary file")
    raise FileFormatError(f"{tensor} has its data in {location!r}, which does not lie in the model's folder")
