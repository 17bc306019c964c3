"""A layer's options as text beside its weights, as ``save`` writes them, and the layers of a file that has it."""

from typing import Any, cast

from nplstm.io.model_file import FoundLayer, ModelFile
from nplstm.io.torch_names import layers_by_name
from nplstm.layers import LSTM, LSTMCell
from nplstm.layers.config import config_of

__all__ = ["layers_by_metadata", "metadata_of", "options_of"]

_KEY = "nplstm"


def metadata_of(layer: LSTM | LSTMCell) -> dict[str, str]:
    """Return the text that makes a file of a layer's weights tell what the layer is."""
    import json  # here and below, because `import nplstm` has no need of it

    return {_KEY: json.dumps(config_of(layer))}


def layers_by_metadata(file: ModelFile) -> list[FoundLayer]:
    """Return the layer that the file says it is; where it says nothing, those that its names and shapes show."""
    if _KEY not in file.metadata:
        return layers_by_name(file.tensors, file.read)
    options, problem = options_of(file.metadata[_KEY])
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


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")
