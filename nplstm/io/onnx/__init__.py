"""ONNX files: LSTM nodes of a model read as layers, and layers written as models for any ONNX runtime.

The operator itself, as a function of arrays, is ``nplstm.onnx.lstm``; ``lstm_attributes`` is shared with it.
Reading begins in ``onnx_file``: ``graph_contents`` lists tensors and LSTM nodes, ``scopes`` finds what a name
stands for, ``constant_folding`` its value, ``node_reader`` makes a layer of a node, ``stacked_nodes`` a stack of
several. Writing begins in ``export``: ``layer_graph`` wires the nodes of a layer, ``node_writer`` writes one of
them.
"""

from typing import Any

from nplstm.io._optional import optional

__all__ = ["onnx_library"]


def onnx_library() -> Any:
    """Return the package onnx, which is imported when a model is read or written."""
    return optional("onnx", extra="onnx", files=".onnx")
