"""What the model's file and the checkpoint share: telling their kind, and distrusting what they state."""

import os
from collections.abc import Mapping
from typing import Any

from nplstm.errors import ArgumentError, FileFormatError, NplstmError
from nplstm.io import open_file

DAMAGE = (NplstmError, LookupError, TypeError, ValueError, OverflowError, AttributeError, RecursionError)
"""What reading a file's metadata can end in where the file is not what ``save`` wrote."""


def read_header_of(
    path: str | os.PathLike[str], kind: str, name: str
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Read a file's header, and raise FileFormatError unless the file says that it is of this kind."""
    with open_file(path) as file:
        shapes, metadata = {name: info.shape for name, info in file.tensors.items()}, file.metadata
    found = metadata.get("format", "not stated")
    if found != kind:
        raise FileFormatError(
            f"{path}: a {file.format} file, but not {name} of `nplstm train` (format {found!r}, expected {kind!r})"
        )
    return shapes, metadata


def check_sizes(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], prefix: str = "") -> None:
    """Raise unless the sizes stated in a file are those of the arrays in it, before a model of them is made."""
    table, head = shapes[prefix + "embedding.weight"], shapes[prefix + "head.weight"]
    layers = sum(name.startswith(prefix + "lstm.weight_ih_l") for name in shapes)
    found = {"embedding_size": table[-1], "hidden_size": head[-1], "num_layers": layers}
    for name, size in found.items():
        if config[name] != size:
            raise ArgumentError(f"{name}: the settings say {config[name]!r}, the arrays {size}")


def check_text(name: str, value: Any) -> str:
    """Return ``value`` if it is a text."""
    if not isinstance(value, str):
        raise ArgumentError(f"{name}: expected a text, got {value!r}")
    return value


def describe(error: BaseException) -> str:
    """Return an error's text; for a bare KeyError, more than the name of the key."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
