"""All that is in a model: every tensor and every LSTM node, wherever it stands, each under a name of its own."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from nplstm.io.onnx.scopes import (
    Program,
    Scope,
    attribute_value,
    called_name,
    graphs_of,
    is_standard,
    node_name,
    path_within,
    tensor_name,
)
from nplstm.io.onnx.tensors import StoredTensor, of_attribute, of_proto, of_sparse

__all__ = ["Names", "all_tensors", "lstm_nodes", "stored_tensor"]

QUANTIZED = "DynamicQuantizeLSTM"
"""onnxruntime's own operator, which is listed, and refused by name."""


_MOST_NAME = 500
"""How many characters of a node's name are kept: a function's node has its name once for each call."""


class Names:
    """Names of which no two are the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def unique(self, name: str, path: str = "") -> str:
        """Return the name; if it is taken, the one with its path before it, or else with a number behind it."""
        own = name if name not in self._taken else path + name
        while own in self._taken:
            self._counts[name] = self._counts.get(name, 1) + 1
            own = f"{path}{name} ({self._counts[name]})"
        self._taken.add(own)
        return own


def stored_tensor(
    name: str, proto: Any, path: str | os.PathLike[str], type_name: Callable[[int], str]
) -> StoredTensor:
    """Return a ``TensorProto`` or ``SparseTensorProto``."""
    if hasattr(proto, "values"):
        return of_sparse(proto, path, name)
    return of_proto(proto, path, name, type_name)


def all_tensors(
    model: Any, path: str | os.PathLike[str], type_name: Callable[[int], str]
) -> dict[str, StoredTensor]:
    """Return initializers and Constant nodes by name; where two have the same, the path stands before the second.

    Raises
    ------
    FileFormatError
        If one declares a shape that is none.
    """
    names = Names()
    found: dict[str, StoredTensor] = {}
    for prefix, graph in _graphs(model):
        for proto in (*getattr(graph, "initializer", ()), *getattr(graph, "sparse_initializer", ())):
            own = names.unique(tensor_name(proto), prefix)
            found[own] = stored_tensor(own, proto, path, type_name)
        for node in graph.node:
            if node.op_type == "Constant" and is_standard(node) and node.output:
                tensor = _constant(node, path, type_name)
                if tensor is not None:
                    found[names.unique(node.output[0], prefix)] = tensor
    return found


def _constant(node: Any, path: str | os.PathLike[str], type_name: Callable[[int], str]) -> StoredTensor | None:
    """Return what a Constant node holds; None for text, and for what a function's caller gives."""
    for attribute in node.attribute:
        value = attribute_value(attribute)
        if attribute.ref_attr_name:
            return None
        if hasattr(value, "data_type") or hasattr(value, "values"):
            return stored_tensor(node.output[0], value, path, type_name)
        return of_attribute(attribute.name, value)
    return None


def _graphs(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield every graph and function once, each with its path."""
    yield from _within("", model.graph)
    for function in model.functions:
        yield from _within(f"{function.name[:100]}/", function)


def _within(path: str, graph: Any) -> Iterator[tuple[str, Any]]:
    yield path, graph
    for node in graph.node:
        for attribute in node.attribute:
            for name, inner in graphs_of(attribute):
                yield from _within(path_within(path, node, name), inner)


def lstm_nodes(model: Any, program: Program) -> Iterator[tuple[str, Scope, Any]]:
    """Yield each LSTM node with its name and scope; one in a function, for each call of the function.

    Raises
    ------
    FileFormatError
        If functions call themselves, or come to too much, or a name is there twice.
    """
    names, holders = Names(), _holders(program)
    waiting = [Scope.of_graph(program, model.graph)]
    while waiting:
        scope = waiting.pop()
        inner: list[Scope] = []
        for node in scope.nodes:
            called = called_name(node)
            if called not in program.functions and _is_lstm(node):
                yield names.unique(scope.path + node_name(node)[:_MOST_NAME]), scope, node
            elif called not in program.functions or called in holders:
                inner += scope.inner(node)
        waiting += reversed(inner)


def _is_lstm(node: Any) -> bool:
    return (node.op_type == "LSTM" and is_standard(node)) or node.op_type == QUANTIZED


def _holders(program: Program) -> set[tuple[str, str, str]]:
    """Return the names of the functions that hold an LSTM, or call one that does."""
    callers: dict[tuple[str, str, str], list[tuple[str, str, str]]] = {}
    found: list[tuple[str, str, str]] = []
    for name, function in program.functions.items():
        for _, graph in _within("", function):
            for node in graph.node:
                if called_name(node) in program.functions:
                    callers.setdefault(called_name(node), []).append(name)
                elif _is_lstm(node):
                    found.append(name)
    holders: set[tuple[str, str, str]] = set()
    while found:
        name = found.pop()
        if name not in holders:
            holders.add(name)
            found += callers.get(name, ())
    return holders
