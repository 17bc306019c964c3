"""``keras_weights``: a layer's weights as the list that ``set_weights`` of a Keras layer takes."""

from typing import Any

import numpy as np

from nplstm._shapes import check_size
from nplstm._typing import Array
from nplstm.backends import backend_of
from nplstm.errors import ArgumentError
from nplstm.io.weight_formats import to_weight_format
from nplstm.layers import LSTM, LSTMCell

__all__ = ["keras_weights"]


def keras_weights(lstm: LSTM | LSTMCell, *, layer: int | None = None) -> list[Array]:
    """Return the list of weights for ``set_weights`` of the same layer in Keras.

    It is kernel (I, 4H), recurrent kernel (H, 4H) and, with biases, bias (4H,), for ``keras.layers.LSTM``; for a
    ``Bidirectional`` of one the same again, of the other direction. Keras has one bias: ours are added. The Keras
    layer has to exist, with the same options (``docs/keras.md`` has the table), and to be built.

    Parameters
    ----------
    lstm : LSTM or LSTMCell
        On either backend; a cell's go to a ``keras.layers.LSTMCell``.
    layer : int, optional
        Which layer of a stack, from 0; in Keras each is a layer of its own. Required for a stack of several.

    Returns
    -------
    list of ndarray
        NumPy arrays, new, of the layer's element type.

    Raises
    ------
    ArgumentError
        If ``layer`` is missing or not in the stack; or if Keras's LSTM does not have an option of the layer, which
        the message names.

    Examples
    --------
    >>> import nplstm
    >>> from nplstm.io import keras_weights
    >>> lstm = nplstm.LSTM(2, 3, num_layers=2, batch_first=True, rng=0)
    >>> [array.shape for array in keras_weights(lstm, layer=1)]
    [(3, 12), (3, 12), (12,)]

    In Keras, ``layers.LSTM(3, return_sequences=True)``, once it is built, takes that list in ``set_weights``.
    """
    if not isinstance(lstm, LSTM | LSTMCell):
        raise ArgumentError(f"lstm: expected an LSTM or an LSTMCell, got {type(lstm).__qualname__}")
    for option, value in _options_beyond_keras(lstm).items():
        raise ArgumentError(f"{option}={value!r}: Keras's LSTM does not have this option")
    suffixes = [""] if isinstance(lstm, LSTMCell) else _suffixes(lstm, layer)
    arrays = [
        array for s in suffixes for array in to_weight_format("keras", _part(lstm, s), suffix=s, as_list=True)
    ]
    return [np.array(backend_of(array).to_numpy(array)) for array in arrays]


def _suffixes(lstm: LSTM, layer: int | None) -> list[str]:
    """Return the suffixes of one layer's parameters, one for each direction."""
    if layer is None and lstm.num_layers > 1:
        raise ArgumentError(
            f"layer: Keras has a layer for each of the {lstm.num_layers} here; say which one, from 0 to "
            f"{lstm.num_layers - 1}"
        )
    number = 0 if layer is None else check_size("layer", layer, minimum=0)
    if number >= lstm.num_layers:
        raise ArgumentError(f"layer: expected a number below {lstm.num_layers}, got {layer!r}")
    return [f"_l{number}"] + [f"_l{number}_reverse"] * lstm.bidirectional


def _part(lstm: LSTM | LSTMCell, suffix: str) -> dict[str, Array]:
    names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * lstm.bias
    return {name + suffix: lstm.parameters[name + suffix] for name in names}


def _options_beyond_keras(lstm: LSTM | LSTMCell) -> dict[str, Any]:
    """Return the options with an effect on the output that Keras's LSTM does not have, with their values."""
    cell = lstm.cell
    unlike: dict[str, Any] = {
        "proj_size": getattr(lstm, "proj_size", 0),
        "hidden_transform": getattr(lstm, "hidden_transform", None),
        "residual": getattr(lstm, "residual", False),
        "recurrent_size": getattr(lstm, "recurrent_given", None),
        "peephole": cell.peephole,
        "coupled_input_forget": cell.coupled_input_forget,
        "clip": cell.clip,
        "cell_clip": cell.cell_clip,
        "layer_norm": cell.layer_norm,
        "zoneout_h": cell.zoneout_h,
        "zoneout_c": cell.zoneout_c,
    }
    if getattr(lstm, "stacking", "concat") == "independent":
        unlike["stacking"] = "independent"
    if cell.activations[1] != cell.activations[2]:
        unlike["activations"] = cell.activations
    return {option: value for option, value in unlike.items() if value}
