"""Checks of model files and checkpoints: their kind, the sizes they state, damage."""

import os
from collections.abc import Mapping
from typing import Any

from nplstm.errors import ArgumentError, FileFormatError, NplstmError
from nplstm.io import open_file

DAMAGE = (NplstmError, LookupError, TypeError, ValueError, OverflowError, AttributeError, RecursionError)
"""Errors that the metadata of a damaged file can cause."""


def read_header_of(
    path: str | os.PathLike[str], kind: str, name: str
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the arrays' shapes and the metadata of a file, if its metadata say that it is of this kind.

    Parameters
    ----------
    path : str or PathLike
    kind : str
        The expected format in the metadata.
    name : str
        Of the kind, for the error's text.

    Raises
    ------
    FileFormatError
        If the file states another format, or none.
    """
    with open_file(path) as file:
        shapes, metadata = {name: info.shape for name, info in file.tensors.items()}, file.metadata
    found = metadata.get("format", "not stated")
    if found != kind:
        raise FileFormatError(
            f"{path}: a {file.format} file, but not {name} of `nplstm train` (format {found!r}, expected {kind!r})"
        )
    return shapes, metadata


def check_sizes(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ArgumentError unless the sizes stated in a file are those of its arrays; no model is made yet."""
    table, head = shapes[prefix + "embedding.weight"], shapes[prefix + "head.weight"]
    layers = sum(name.startswith(prefix + "lstm.weight_ih_l") for name in shapes)
    found = {"embedding_size": table[-1], "hidden_size": head[-1], "num_layers": layers}
    for name, size in found.items():
        if config[name] != size:
            raise ArgumentError(f"{name}: the settings say {config[name]!r}, the arrays {size}")


def check_text(name: str, value: Any) -> str:
    """Return ``value``; ArgumentError unless it is a string."""
    if not isinstance(value, str):
        raise ArgumentError(f"{name}: expected a string, got {value!r}")
    return value


def describe(error: BaseException) -> str:
    """Return an error's text; of a KeyError, whose text is the key alone, that it is missing.

    >>> describe(KeyError("text")), describe(ValueError("no number"))
    ("'text' is missing", 'no number')
    """
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
