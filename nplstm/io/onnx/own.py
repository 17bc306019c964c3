"""Models that ``nplstm.save`` wrote: the metadata has the options of the layer, and nodes have its weights."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nplstm.cells.spec import CellSpec
from nplstm.errors import NplstmError
from nplstm.io.model_file import FoundLayer
from nplstm.io.onnx.nodes import LSTMNode, read_all
from nplstm.io.saved_layer import options_of

__all__ = ["own_layer"]

_NAME = re.compile(r"lstm(_l\d+)(_reverse)?")


def own_layer(nodes: Sequence[LSTMNode], text: str) -> FoundLayer | None:
    """Return the layer of which the metadata has the options and the nodes have the weights.

    None if they are not about each other: the graph can be changed, and the metadata left behind.
    """
    options, problem = options_of(text)
    if problem is not None or not nodes:
        return None
    placed = [(node, _suffixes(node, options)) for node in nodes]
    if not all(suffixes and _agree(options, node) for node, suffixes in placed):
        return None

    return FoundLayer(
        name="",
        options=options,
        read=lambda: read_all(placed),
        dtype=", ".join(sorted({node.dtype for node in nodes})),
        num_parameters=sum(node.num_parameters for node in nodes),
        notes=tuple(f"{node.name}: {note}" for node in nodes for note in node.notes),
        parts=tuple(node.found() for node in nodes),
    )


def _suffixes(node: LSTMNode, options: dict[str, Any]) -> list[str]:
    """Return what ends the names of a node's parameters in each direction; nothing if it is no node of ours."""
    match = _NAME.fullmatch(node.name)
    if match is None or node.problem is not None:
        return []
    if options.get("kind") == "LSTMCell":
        return [""]
    layer, reverse = match[1], match[2] or ""
    return [layer, layer + "_reverse"] if len(node.reverse) == 2 else [layer + reverse]


def _agree(options: dict[str, Any], node: LSTMNode) -> bool:
    """Tell whether the options say of the cell and its directions what the node says."""
    try:
        said, found = (CellSpec.from_dict(o.get("cell", {})) for o in (options, node.options))
    except (NplstmError, TypeError, AttributeError):
        return False
    directions = (False, True) if options.get("bidirectional") else (bool(options.get("reverse")),)
    if options.get("stacking") == "independent":
        directions = (node.name.endswith("_reverse"),)
    return node.reverse == directions and _as_stored(said) == _as_stored(found)


def _as_stored(spec: CellSpec) -> tuple[Any, ...]:
    """Return what a node holds of a cell, its numbers as ONNX holds them: in float32."""
    numbers = [spec.clip, *(n for a in spec.activations for n in (a.alpha, a.beta))]
    names = [a.name for a in spec.activations]
    return (
        spec.peephole,
        spec.coupled_input_forget,
        names,
        [None if number is None else np.float32(number) for number in numbers],
    )
