"""Metadata of saved layers: the options that ``save`` writes as text beside the weights, and ``load`` reads."""

import os
from typing import Any, cast

from nplstm.io.model_file import FoundLayer, ModelFile, damaged
from nplstm.io.torch_names import layers_by_name
from nplstm.layers import LSTM, LSTMCell
from nplstm.layers.config import config_of

__all__ = ["OPTIONS", "layers_by_metadata", "metadata_of", "options_of", "text_of_json"]

OPTIONS = "nplstm"
"""The key of a layer's options in a file's metadata."""


def metadata_of(layer: LSTM | LSTMCell) -> dict[str, str]:
    """Return the metadata that describes a layer: its options as JSON."""
    import json  # imported here and below, because `import nplstm` does not need it

    return {OPTIONS: json.dumps(config_of(layer))}


def layers_by_metadata(file: ModelFile) -> list[FoundLayer]:
    """Return the layer that the file's metadata describes; without metadata, those found by names and shapes."""
    if OPTIONS not in file.metadata:
        return layers_by_name(file.tensors, file.read)
    options, problem = options_of(file.metadata[OPTIONS])
    layer = FoundLayer(
        name="",
        options=options,
        read=lambda: {name: file.read(name) for name in file.tensors},
        dtype=", ".join(sorted({info.dtype for info in file.tensors.values()})),
        num_parameters=sum(info.size for info in file.tensors.values()),
        problem=problem,
    )
    return [layer]


def options_of(text: str) -> tuple[dict[str, Any], str | None]:
    """Return the options in a file's metadata, and the problem if they are not valid JSON."""
    import json

    try:
        options: Any = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return {}, f"its options are not those that nplstm.save writes: {error}"
    if not isinstance(options, dict):
        return {}, f"its options are not those that nplstm.save writes: {repr(options)[:60]}"
    return cast("dict[str, Any]", options), None


def text_of_json(path: str | os.PathLike[str], what: str, text: bytes | bytearray) -> dict[str, str]:
    """Return metadata that is stored as a JSON object, in formats that have no metadata of their own."""
    import json

    with damaged(path, f"{what} is not text", ValueError, TypeError, AttributeError, RecursionError):
        return {str(key): str(value) for key, value in json.loads(text).items()}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")
