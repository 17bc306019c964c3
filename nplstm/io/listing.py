"""Listing of the LSTMs found in a file, and the choice of one of them by name."""

from collections.abc import Sequence
from typing import Any

from nplstm.core.cell_spec import CellSpec
from nplstm.errors import ArgumentError, FileFormatError, NplstmError
from nplstm.io.model_file import FoundLayer, ModelFile, printable
from nplstm.layers.options import DEFAULTS

__all__ = ["choose_layer", "list_layers", "summary"]

_MOST = 20
"""How many layers are listed; the others are only counted."""


def list_layers(found: Sequence[FoundLayer]) -> str:
    """Return the layers' names and sizes, a line each."""
    lines: list[str] = []
    for layer in found[:_MOST]:
        lines.append(f"  {printable(layer.name) or '(no prefix)'}: {summary(layer)}")
        lines += [f"    of {printable(part.name)}: {summary(part)}" for part in layer.parts[:_MOST]]
    more = [f"  ... and {len(found) - _MOST:,} more"] if len(found) > _MOST else []
    return "\n".join(lines + more)


def summary(layer: FoundLayer) -> str:
    """Return a layer's constructor call, as in Python, its element type, and the problem if there is one."""
    options = {name: value for name, value in layer.options.items() if value is not None}
    kind = printable(str(options.pop("kind", "LSTM")))
    if options.get("recurrent_size") == options.get("hidden_size"):
        options.pop("recurrent_size", None)  # of a cell, which always has it
    sizes = [printable(str(options.pop(name))) for name in ("input_size", "hidden_size") if name in options]
    options["cell"] = _cell(options.get("cell", {}))
    rest = [f"{printable(name)}={value!r}" for name, value in options.items() if DEFAULTS.get(name, ...) != value]
    problem = f"; {printable(layer.problem)}" if layer.problem else ""
    return f"{kind}({', '.join(sizes + rest)}), {layer.dtype}{problem}"


def _cell(options: Any) -> Any:
    """Return the ``CellSpec`` that a file's options describe; the options themselves where they are not valid."""
    try:
        return CellSpec.from_dict(options)
    except (NplstmError, TypeError, ValueError, OverflowError, RecursionError):
        return options


def choose_layer(file: ModelFile, name: str | None) -> FoundLayer:
    """Return the LSTM of that name, or without a name the only one in the file.

    The end of a name is enough, from a dot or slash on; a trailing dot does not matter.

    Raises
    ------
    ArgumentError
        If no LSTM or several have that name, or there are several and no name is given; the message lists them.
    FileFormatError
        If there is no LSTM in the file.
    """
    found = file.layers()
    if not found:
        raise FileFormatError(
            f"{file.path}: no LSTM is in this {file.format} file; it has {_tensors_of(file)}{file.without_lstm}"
        )
    if name is None:
        if len(found) == 1:
            return found[0]
        raise ArgumentError(
            f"{file.path}: {len(found)} LSTMs are in this file; name one of them:\n{list_layers(found)}"
        )
    every = [*found, *(part for layer in found for part in layer.parts)]
    wanted = name.rstrip("./")
    exact = [layer for layer in every if layer.name.rstrip("./") == wanted]
    single = [layer for layer in every if not layer.parts]  # a stack's name ends in that of its last part
    ending = [layer for layer in single if layer.name.rstrip("./").endswith(("." + wanted, "/" + wanted))]
    chosen = exact or ending
    if len(chosen) == 1:
        return chosen[0]
    problem = "several LSTMs" if chosen else "no LSTM"
    raise ArgumentError(f"{file.path}: {problem} by the name {name!r}; there are\n{list_layers(chosen or found)}")


def _tensors_of(file: ModelFile) -> str:
    """Return the number and the first names of the tensors in a file, for a message."""
    names = list(file.tensors)
    if not names:
        return "no tensors"
    return f"{len(names)} tensors: {printable(', '.join(names[:8]))}{', ...' if len(names) > 8 else ''}"
