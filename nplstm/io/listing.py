"""What was found in a file, in words."""

from collections.abc import Sequence
from typing import Any

from nplstm.core.cell_spec import CellSpec
from nplstm.errors import NplstmError
from nplstm.io.model_file import FoundLayer, printable
from nplstm.layers.options import DEFAULTS

__all__ = ["list_layers", "summary"]


_MOST = 20
"""As many layers as anyone reads."""


def list_layers(found: Sequence[FoundLayer]) -> str:
    """Return the layers' names and sizes, a line each."""
    lines: list[str] = []
    for layer in found[:_MOST]:
        lines.append(f"  {printable(layer.name) or '(no prefix)'}: {summary(layer)}")
        lines += [f"    of {printable(part.name)}: {summary(part)}" for part in layer.parts[:_MOST]]
    more = [f"  ... and {len(found) - _MOST:,} more"] if len(found) > _MOST else []
    return "\n".join(lines + more)


def summary(layer: FoundLayer) -> str:
    """Return what a layer is, as it would be written in Python, its element type, and what is wrong with it."""
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
    """Return the cell that a file's options describe; where they describe none, the options."""
    try:
        return CellSpec.from_dict(options)
    except (NplstmError, TypeError, ValueError, OverflowError, RecursionError):
        return options
