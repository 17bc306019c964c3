"""A layer's options as text beside its weights, as ``save`` writes them, and the layers of a file that has it."""

import os
from typing import Any, cast

from nplstm.io.model_file import FoundLayer, ModelFile, damaged
from nplstm.io.torch_names import layers_by_name
from nplstm.layers import LSTM, LSTMCell
from nplstm.layers.config import config_of

__all__ = ["OPTIONS", "layers_by_metadata", "metadata_of", "options_of", "text_of_json"]

OPTIONS = "nplstm"
"""The entry of a file's metadata that has a layer's options."""


def metadata_of(layer: LSTM | LSTMCell) -> dict[str, str]:
    """Return the text that makes a file of a layer's weights tell what the layer is."""
    import json  # here and below, because `import nplstm` has no need of it

    return {OPTIONS: json.dumps(config_of(layer))}


def layers_by_metadata(file: ModelFile) -> list[FoundLayer]:
    """Return the layer that the file says it is; where it says nothing, those that its names and shapes show."""
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
    """Return the options that are written in a file's text, and what is wrong with them."""
    import json

    try:
        options: Any = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return {}, f"its options are not those that nplstm.save writes: {error}"
    if not isinstance(options, dict):
        return {}, f"its options are not those that nplstm.save writes: {repr(options)[:60]}"
    return cast("dict[str, Any]", options), None


def text_of_json(path: str | os.PathLike[str], what: str, text: bytes | bytearray) -> dict[str, str]:
    """Return the metadata that a file has as a JSON object, in formats that have no place of their own for it."""
    import json

    with damaged(path, f"{what} is not text", ValueError, TypeError, AttributeError, RecursionError):
        return {str(key): str(value) for key, value in json.loads(text).items()}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")
