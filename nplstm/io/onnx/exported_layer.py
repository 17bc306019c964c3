"""Metadata of models that ``nplstm.save`` wrote: the layer's options, and a digest that ties them to the graph.

A graph can be changed while the metadata stays. So the metadata has a digest of the options and of everything that
the graph computes; only the weights may change.
"""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from nplstm.io.layer_metadata import OPTIONS, options_of
from nplstm.io.model_file import FoundLayer
from nplstm.io.onnx.node_reader import LSTMNode, joined_layer
from nplstm.io.onnx.proto_fields import tensor_name

__all__ = ["export_metadata", "exported_layer"]

_NAME = re.compile(r"lstm(_l\d+)(_reverse)?")
_DIGEST = "nplstm_digest"


def export_metadata(model: Any, options: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a model that is written: the options, and the digest of options and graph."""
    return {**options, _DIGEST: _digest(model, options[OPTIONS])}


def _digest(model: Any, options: str) -> str:
    """Return a digest of options, nodes and constants: of everything but the LSTMs' weights."""
    lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
    weights = {name for node in lstms for name in (*node.input[1:4], *node.input[7:8])}
    tensors = (*model.graph.initializer, *model.graph.sparse_initializer)
    digest = sha256(options.encode())
    for part in (*model.graph.node, *model.functions, *(t for t in tensors if tensor_name(t) not in weights)):
        data = part.SerializeToString(deterministic=True)
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()


def exported_layer(nodes: Sequence[LSTMNode], model: Any, metadata: Mapping[str, str]) -> FoundLayer | None:
    """Return the layer with the metadata's options and the nodes' weights; None if the digest differs."""
    text = metadata.get(OPTIONS)
    if text is None or _DIGEST not in metadata or metadata[_DIGEST] != _digest(model, text):
        return None
    options, problem = options_of(text)
    placed = [(node, _suffixes(node, options)) for node in nodes]
    if problem is not None or not nodes or not all(suffixes for _, suffixes in placed):
        return None
    return joined_layer("", options, placed)


def _suffixes(node: LSTMNode, options: dict[str, Any]) -> list[str]:
    """Return the suffixes of a node's parameters in each direction; an empty list if nplstm did not write it."""
    match = _NAME.fullmatch(node.name)
    if match is None or node.problem is not None:
        return []
    if options.get("kind") == "LSTMCell":
        return [""] if len(node.reverse) == 1 else []
    layer, reverse = match[1], match[2] or ""
    return [layer, layer + "_reverse"] if len(node.reverse) == 2 else [layer + reverse]
