"""Reader of ``.onnx`` files: the package onnx parses the model, and nothing in it is run."""

import os
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.model_file import Budget, FoundLayer, ModelFile, damaged
from nplstm.io.onnx import onnx_library
from nplstm.io.onnx.constant_folding import Evaluators, evaluators
from nplstm.io.onnx.exported_layer import exported_layer
from nplstm.io.onnx.graph_contents import all_graphs, all_tensors, lstm_nodes, other_recurrences
from nplstm.io.onnx.node_reader import LSTMNode, NodeSources
from nplstm.io.onnx.protobuf_memory import parsed_sizes
from nplstm.io.onnx.scopes import ModelContext
from nplstm.io.onnx.stacked_nodes import layers_of_nodes
from nplstm.io.onnx.tensor_protos import LazyTensor, tensor_from_proto

__all__ = ["OnnxFile"]

_MOST_BYTES = 2**31 - 1
"""protobuf's limit."""


class OnnxFile(ModelFile):
    """An ONNX model: its initializers and constants in all graphs, and its LSTM nodes."""

    format = "ONNX"

    def __init__(self, path: str | os.PathLike[str], budget: Budget) -> None:
        super().__init__(path, budget)
        self._onnx = onnx_library()
        self._model = self._parsed()
        self.metadata = {entry.key: entry.value for entry in self._model.metadata_props}
        self._graphs = all_graphs(self._model)
        self._tensors = all_tensors(self._graphs, self._stored)
        self.tensors = {name: tensor.info for name, tensor in self._tensors.items()}
        self._layers: list[FoundLayer] | None = None

    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs that are in the file: nodes by their names, and stacks of them."""
        if self._layers is None:
            self._layers = self._found_layers()
        return self._layers

    def _read(self, name: str) -> Array:
        return self._tensors[name].read()

    def _parsed(self) -> Any:
        size = Path(self.path).stat().st_size
        if size > _MOST_BYTES:
            raise FileFormatError(
                f"{self.path}: {size:,} bytes, and a model has less than 2 GiB: larger ones keep their tensors in "
                f"files of their own"
            )
        self.budget.take(size, "the file")
        data = Path(self.path).read_bytes()
        decode_error = import_module("google.protobuf.message").DecodeError
        with damaged(self.path, "not a whole ONNX model", decode_error, RecursionError, ValueError):
            for share in parsed_sizes(data):
                self.budget.take(share, "the model")
            model = self._onnx.load_model_from_string(data)
        self.budget.give_back(size)
        if not model.HasField("graph"):
            raise FileFormatError(f"{self.path}: not an ONNX model: it has no graph")
        return model

    def _stored(self, name: str, proto: Any) -> LazyTensor:
        return tensor_from_proto(name, proto, self.path)

    def _reading(self) -> AbstractContextManager[Evaluators]:
        return evaluators(self._stored, self.budget, outline=False)

    def _found_layers(self) -> list[FoundLayer]:
        context = ModelContext(self.path, self._model)
        # all are listed before the first is inspected: there may be too many
        every = list(lstm_nodes(self._model, self._graphs, context))
        self.without_lstm = "" if every else other_recurrences(self._graphs)
        with evaluators(self._stored, self.budget, outline=True) as outlines, self._reading() as readers:
            sources = NodeSources(outlines, readers.odd, self._reading, self.budget)
            nodes = [LSTMNode(*found, sources) for found in every]
            layer = exported_layer(nodes, self._model, self.metadata)
            return [layer] if layer is not None else layers_of_nodes(nodes, outlines)
