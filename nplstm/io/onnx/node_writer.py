"""Writer of one LSTM node: its weights and attributes, from a layer's parameters and cell."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nplstm._typing import Array, Arrays
from nplstm.backends import backend_of, namespace
from nplstm.core.cell_spec import CellSpec
from nplstm.errors import ArgumentError
from nplstm.io.onnx.graph_builder import GraphBuilder
from nplstm.io.onnx.lstm_attributes import DIRECTIONS
from nplstm.io.weight_formats import to_weight_format

__all__ = ["add_lstm_node"]

_DIRECTIONS = {reverse: direction for direction, reverse in DIRECTIONS.items()}


def add_lstm_node(
    graph: GraphBuilder,
    ending: str,
    parameters: Arrays,
    suffixes: Sequence[str],
    spec: CellSpec,
    *,
    reverse: Sequence[bool],
    inputs: tuple[str, str, str, str],
) -> tuple[str, str, str]:
    """Add a node of one or two directions.

    Parameters
    ----------
    graph : GraphBuilder
    ending : str
        What ends the names of the node and of its weights: "_l0", "_l0_reverse".
    parameters : mapping of name to Array
        By torch's names.
    suffixes : one or two str
        What ends the parameters' names in each direction.
    spec : CellSpec
    reverse : one or two bool
        Which of the directions run in reverse.
    inputs : four str
        X (T, B, I); ``sequence_lens``, ``initial_h`` and ``initial_c``, empty where there are none.

    Returns
    -------
    Y, Y_h, Y_c : str
        (T, D, B, H), (D, B, H) and (D, B, H).
    """
    weights = _weights(parameters, suffixes, spec)
    W, R, B, P = (graph.weight(name + ending, weights[name]) if name in weights else "" for name in "WRBP")
    name, (x, *lengths_and_states) = "lstm" + ending, inputs
    Y, Y_h, Y_c = (f"{name}_{output}" for output in ("Y", "Y_h", "Y_c"))
    attributes = {"hidden_size": weights["R"].shape[2], "direction": _DIRECTIONS[tuple(reverse)]}
    attributes |= _cell_attributes(spec, len(reverse))
    graph.add_named("LSTM", name, [x, W, R, B, *lengths_and_states, P], [Y, Y_h, Y_c], **attributes)
    return Y, Y_h, Y_c


def _weights(parameters: Arrays, suffixes: Sequence[str], spec: CellSpec) -> dict[str, Array]:
    """Return W, R and, where there are some, B and P, on the host; the directions along the first axis."""
    full = _with_forget_gates(parameters) if spec.coupled_input_forget else parameters
    directions = [to_weight_format("onnx", full, suffix=suffix) for suffix in suffixes]
    return {
        name: np.stack([backend_of(arrays[name]).to_numpy(arrays[name]) for arrays in directions])
        for name in directions[0]
    }


def _with_forget_gates(parameters: Arrays) -> dict[str, Array]:
    """Return parameters of coupled gates with zeros for the forget gate, which ONNX wants and does not read."""
    full: dict[str, Array] = {}
    for name, array in parameters.items():
        H = len(array) // (2 if name.startswith("weight_ch") else 3)
        xp = namespace(array)
        full[name] = xp.concatenate([array[:H], xp.zeros_like(array[:H]), array[H:]])
    return full


def _cell_attributes(spec: CellSpec, directions: int) -> dict[str, Any]:
    """Return the attributes that say what the cell is, where it is not the standard one."""
    attributes: dict[str, Any] = {}
    if spec.activations != CellSpec().activations:
        attributes["activations"] = [activation.name for activation in spec.activations] * directions
        for constant in ("alpha", "beta"):
            # ONNX hands them out in the order of the functions, to those that have such a constant
            values = [getattr(activation, constant) for activation in spec.activations]
            numbers = [_float32(f"activations: {constant}", value) for value in values if value is not None]
            if numbers:
                attributes[f"activation_{constant}"] = numbers * directions
    if spec.clip is not None:
        attributes["clip"] = _float32("clip", spec.clip)
        if attributes["clip"] == 0:
            raise ArgumentError(f"clip={spec.clip!r}: ONNX holds it in float32, where it is 0 and has no meaning")
    if spec.coupled_input_forget:
        attributes["input_forget"] = 1
    return attributes


def _float32(option: str, value: float) -> float:
    """Return a number as ONNX's attributes hold it."""
    with np.errstate(over="ignore"):
        number = float(np.float32(value))
    if not np.isfinite(number):
        raise ArgumentError(f"{option}={value!r}: ONNX holds it in float32, where it is infinite")
    return number
