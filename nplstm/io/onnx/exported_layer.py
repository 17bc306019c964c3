"""Models that ``nplstm.save`` wrote: the metadata has the options of the layer, and nodes have its weights.

A graph can be changed, and the metadata left behind. So there is a digest beside the options, of them and of all
that the graph computes; its weights may be others.
"""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from nplstm.io.layer_metadata import OPTIONS, options_of
from nplstm.io.model_file import FoundLayer
from nplstm.io.onnx.node_reader import LSTMNode, joined
from nplstm.io.onnx.proto_fields import tensor_name

__all__ = ["export_metadata", "exported_layer"]

_NAME = re.compile(r"lstm(_l\d+)(_reverse)?")
_DIGEST = "nplstm_digest"


def export_metadata(model: Any, options: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a model that is written: the options, and what tells later that they are about it."""
    return {**options, _DIGEST: _digest(model, options[OPTIONS])}


def _digest(model: Any, options: str) -> str:
    """Return a digest of options, nodes and constants: of all of a model but its LSTMs' weights."""
    lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
    weights = {name for node in lstms for name in (*node.input[1:4], *node.input[7:8])}
    tensors = (*model.graph.initializer, *model.graph.sparse_initializer)
    digest = sha256(options.encode())
    for part in (*model.graph.node, *model.functions, *(t for t in tensors if tensor_name(t) not in weights)):
        data = part.SerializeToString(deterministic=True)
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()


def exported_layer(nodes: Sequence[LSTMNode], model: Any, metadata: Mapping[str, str]) -> FoundLayer | None:
    """Return the layer of which the metadata has the options and the nodes have the weights.

    None if they are not about each other.
    """
    text = metadata.get(OPTIONS)
    if text is None or _DIGEST not in metadata or metadata[_DIGEST] != _digest(model, text):
        return None
    options, problem = options_of(text)
    placed = [(node, _suffixes(node, options)) for node in nodes]
    if problem is not None or not nodes or not all(suffixes for _, suffixes in placed):
        return None
    return joined("", options, placed)


def _suffixes(node: LSTMNode, options: dict[str, Any]) -> list[str]:
    """Return what ends the names of a node's parameters in each direction; nothing if it is no node of ours."""
    match = _NAME.fullmatch(node.name)
    if match is None or node.problem is not None:
        return []
    if options.get("kind") == "LSTMCell":
        return [""] if len(node.reverse) == 1 else []
    layer, reverse = match[1], match[2] or ""
    return [layer, layer + "_reverse"] if len(node.reverse) == 2 else [layer + reverse]
