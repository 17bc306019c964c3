"""The options of a layer as a dict that JSON can hold, and the layer made from it."""

from collections.abc import Mapping
from typing import Any, cast

from nplstm._typing import Arrays
from nplstm.core.cell_spec import CellSpec
from nplstm.errors import ArgumentError
from nplstm.layers.cell import LSTMCell
from nplstm.layers.lstm import LSTM
from nplstm.layers.options import DEFAULTS
from nplstm.transforms import transform_from_dict, transform_to_dict

__all__ = ["config_of", "layer_of"]

_OPTIONS = {
    "LSTM": ["input_size", "hidden_size", "recurrent_size", *DEFAULTS],
    "LSTMCell": ["input_size", "hidden_size", "recurrent_size", "bias", "cell"],
}


def config_of(layer: LSTM | LSTMCell) -> dict[str, Any]:
    """Return a layer's options; ``layer_of`` makes one like it.

    Raises
    ------
    ArgumentError
        If the layer has a hidden transform that cannot be written.
    """
    kind = type(layer).__name__
    if kind not in _OPTIONS:
        raise ArgumentError(f"layer: expected an LSTM or an LSTMCell, got {kind}")
    config: dict[str, Any] = {name: getattr(layer, name) for name in _OPTIONS[kind]}
    config |= {"kind": kind, "cell": layer.cell.to_dict()}
    if isinstance(layer, LSTM):
        config["recurrent_size"] = layer.recurrent_given
        if layer.hidden_transform is not None:
            config["hidden_transform"] = transform_to_dict(layer.hidden_transform)
    return config


def layer_of(config: Any, parameters: Arrays, *, backend: str, dtype: Any) -> LSTM | LSTMCell:
    """Make a layer from what ``config_of`` returned and its parameters, which are taken as they are.

    Raises
    ------
    ArgumentError
        If the options are not a layer's.
    StateDictError
        If the parameters are others than the options ask for.
    """
    if not isinstance(config, Mapping) or str(cast("Mapping[str, Any]", config).get("kind")) not in _OPTIONS:
        raise ArgumentError(f"config: expected the options of an LSTM or an LSTMCell, got {config!r}")
    options = dict(cast("Mapping[str, Any]", config))
    kind = options.pop("kind")
    unknown = [name for name in options if name not in _OPTIONS[kind]]
    if unknown:
        raise ArgumentError(f"config: {kind} has no option {', '.join(map(repr, unknown))}")
    options["cell"] = CellSpec.from_dict(options.get("cell", {}))
    if options.get("hidden_transform") is not None:
        options["hidden_transform"] = transform_from_dict(options["hidden_transform"])
    layers = options.get("num_layers", 1)
    if isinstance(layers, int) and layers > len(parameters):
        raise ArgumentError(f"num_layers: {layers} layers have more than {len(parameters)} parameters")
    for name in ("hidden_size", "residual"):  # JSON has lists for tuples
        if isinstance(options.get(name), list):
            options[name] = tuple(options[name])
    try:
        return (LSTM if kind == "LSTM" else LSTMCell)(**options, backend=backend, dtype=dtype, rng=parameters)
    except TypeError as error:
        raise ArgumentError(f"config: not the options of an {kind}: {error}") from error
