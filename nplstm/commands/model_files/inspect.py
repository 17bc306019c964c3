"""``nplstm inspect``: lists a file's LSTMs, tensors and metadata without reading the numbers."""

import json
import sys
from pathlib import Path
from typing import Any

from nplstm.io import FoundLayer, ModelFile, open_file
from nplstm.io.listing import summary
from nplstm.io.model_file import MAX_BYTES, printable

__all__ = ["inspect"]

_SHOWN = 100
"""Characters of a metadata entry that are printed."""


def inspect(path: Path, *, as_json: bool = False, max_bytes: int = MAX_BYTES) -> int:
    """Print a file's format, its LSTMs, tensors and metadata; as text, or as one JSON object.

    Returns
    -------
    int
        0.

    Raises
    ------
    FileFormatError
        If the file is damaged, or of no known format.

    Examples
    --------
    >>> import nplstm, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nplstm.save(nplstm.LSTM(3, 5, rng=0), Path(folder, "a.npz"))
    ...     status = inspect(Path(folder, "a.npz"))  # doctest: +ELLIPSIS
    /...a.npz: npz, ... bytes
    <BLANKLINE>
    LSTMs
    ...
    """
    with open_file(path, max_bytes=max_bytes) as file:
        layers = file.layers()
        text = json.dumps(_record(file, layers), indent=2) if as_json else "\n".join(_lines(file, layers))
    sys.stdout.write(text + "\n")
    return 0


def _totals(file: ModelFile, layers: list[FoundLayer]) -> dict[str, int]:
    infos = file.tensors.values()
    return {
        "tensors": len(infos),
        "elements": sum(info.size for info in infos),
        "bytes": sum(info.nbytes for info in infos),
        "parameters_of_lstms": sum(layer.num_parameters for layer in layers),
    }


def _record(file: ModelFile, layers: list[FoundLayer]) -> dict[str, Any]:
    """Return the object that is printed with ``--json``."""
    return {
        "path": str(file.path),
        "format": file.format,
        "size": Path(file.path).stat().st_size,
        "layers": [_layer_record(layer) for layer in layers],
        "tensors": {name: {"shape": list(info.shape), "dtype": info.dtype} for name, info in file.tensors.items()},
        "total": _totals(file, layers),
        "metadata": file.metadata,
    }


def _layer_record(layer: FoundLayer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "options": dict(layer.options),
        "dtype": layer.dtype,
        "parameters": layer.num_parameters,
        "problem": layer.problem,
        "notes": list(layer.notes),
        "cautions": list(layer.cautions),
        "parts": [_layer_record(part) for part in layer.parts],
    }


def _lines(file: ModelFile, layers: list[FoundLayer]) -> list[str]:
    """Return the lines that are printed without ``--json``."""
    lines = [f"{file.path}: {file.format}, {Path(file.path).stat().st_size:,} bytes"]
    lines += ["", "LSTMs" if layers else "no LSTM"]
    for layer in layers:
        lines += _layer_lines(layer, "  ")
    lines += ["", "tensors", *_tensor_lines(file), _total_line(_totals(file, layers))]
    if file.metadata:
        lines += ["", "metadata"]
    for key, value in file.metadata.items():
        shown = printable(value)
        lines.append(f"  {printable(key)}: {shown[:_SHOWN]}{'...' if len(shown) > _SHOWN else ''}")
    return lines


def _layer_lines(layer: FoundLayer, indent: str) -> list[str]:
    name = printable(layer.name) or "(no prefix)"
    lines = [f"{indent}{name}: {summary(layer)}, {layer.num_parameters:,} parameters"]
    lines += [f"{indent}  caution: {printable(caution)}" for caution in layer.cautions]
    lines += [f"{indent}  note: {printable(note)}" for note in layer.notes]
    for part in layer.parts:
        lines += _layer_lines(part, indent + "  of ")
    return lines


def _tensor_lines(file: ModelFile) -> list[str]:
    rows = [(printable(name), printable(info.dtype), str(info.shape)) for name, info in file.tensors.items()]
    wide = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return [f"  {name:<{wide[0]}}  {dtype:<{wide[1]}}  {shape}" for name, dtype, shape in rows]


def _total_line(total: dict[str, int]) -> str:
    return (
        f"  total: {total['tensors']:,} tensors, {total['elements']:,} elements, {total['bytes']:,} bytes, "
        f"of them {total['parameters_of_lstms']:,} parameters of LSTMs"
    )
