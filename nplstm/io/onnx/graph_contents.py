"""All that is in a model: every tensor and every LSTM node, wherever it stands, each under a name of its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from nplstm.io.onnx.proto_fields import (
    attribute_value,
    called_name,
    defined_name,
    graphs_of,
    is_standard,
    node_name,
    path_within,
    tensor_name,
)
from nplstm.io.onnx.scopes import ModelContext, Scope
from nplstm.io.onnx.tensor_protos import LazyTensor, of_constant

__all__ = ["UniqueNames", "all_graphs", "all_tensors", "lstm_nodes", "other_recurrences"]

QUANTIZED = "DynamicQuantizeLSTM"
"""onnxruntime's own operator, which is listed, and refused by name."""


_MOST_NAME = 500
"""How many characters of a node's name are kept: a function's node has its name once for each call."""


class UniqueNames:
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


class Graph(NamedTuple):
    """A ``GraphProto``, or a ``FunctionProto``."""

    path: str
    nodes: Any
    tensors: list[Any]
    function: tuple[str, str, str] | None
    """The name of the function that it is, or is in."""


def all_graphs(model: Any) -> list[Graph]:
    """Return every graph and function of a model once."""
    found = list(_within("", model.graph, None))
    for function in model.functions:
        found += _within(f"{function.name[:100]}/", function, defined_name(function))
    return found


def _within(path: str, graph: Any, function: tuple[str, str, str] | None) -> Iterator[Graph]:
    tensors = [*getattr(graph, "initializer", ()), *getattr(graph, "sparse_initializer", ())]
    yield Graph(path, graph.node, tensors, function)
    for node in graph.node:
        for attribute in node.attribute:
            for name, inner in graphs_of(attribute):
                yield from _within(path_within(path, node, name), inner, function)


def all_tensors(graphs: Sequence[Graph], stored: Callable[[str, Any], LazyTensor]) -> dict[str, LazyTensor]:
    """Return initializers and Constant nodes by name; where two have the same, the path stands before the second.

    Raises
    ------
    FileFormatError
        If one declares a shape that is none.
    """
    names = UniqueNames()
    found: dict[str, LazyTensor] = {}
    for graph in graphs:
        for proto in graph.tensors:
            name = names.unique(tensor_name(proto), graph.path)
            found[name] = stored(name, proto)
        for node in graph.nodes:
            if node.op_type == "Constant" and is_standard(node) and node.output:
                tensor = _constant(node, stored)
                if tensor is not None:
                    found[names.unique(node.output[0], graph.path)] = tensor
    return found


def _constant(node: Any, stored: Callable[[str, Any], LazyTensor]) -> LazyTensor | None:
    """Return the tensor of a Constant node; None for text, and for an attribute of the call of a function."""
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            return None
        return of_constant(node.output[0], attribute.name, attribute_value(attribute), stored)
    return None


def lstm_nodes(model: Any, graphs: Sequence[Graph], context: ModelContext) -> Iterator[tuple[str, Scope, Any]]:
    """Yield each LSTM node with its name and scope; one in a function, for each call of the function.

    Raises
    ------
    FileFormatError
        If functions call themselves, or come to too much, or a name is there twice.
    """
    names, holders = UniqueNames(), _holders(graphs, context)
    waiting = [Scope.of_graph(context, model.graph)]
    while waiting:
        scope = waiting.pop()
        inner: list[Scope] = []
        for node in scope.nodes:
            called = called_name(node)
            if called not in context.functions and _is_lstm(node):
                yield names.unique(scope.path + node_name(node)[:_MOST_NAME]), scope, node
            elif called not in context.functions or called in holders:
                inner += scope.inner(node)
        waiting += reversed(inner)


def _is_lstm(node: Any) -> bool:
    return (node.op_type == "LSTM" and is_standard(node)) or node.op_type == QUANTIZED


def other_recurrences(graphs: Sequence[Graph]) -> str:
    """Say what a model without an LSTM node may have in the place of one."""
    operators = {node.op_type for graph in graphs for node in graph.nodes}
    cells, loops = (sorted(operators & names) for names in ({"GRU", "RNN"}, {"Loop", "Scan"}))
    if cells:
        return f", and nodes of the kind {' and '.join(cells)}, which are none"
    if loops:
        return f", and a {' and a '.join(loops)}: an LSTM that is computed step by step in one has no node LSTM"
    return "; an LSTM whose steps were unrolled into other operators has no node LSTM"


def _holders(graphs: Sequence[Graph], context: ModelContext) -> set[tuple[str, str, str]]:
    """Return the names of the functions that hold an LSTM, or call one that does."""
    callers: dict[tuple[str, str, str], list[tuple[str, str, str]]] = {}
    found: list[tuple[str, str, str]] = []
    for graph in graphs:
        if graph.function is None:
            continue
        for node in graph.nodes:
            if called_name(node) in context.functions:
                callers.setdefault(called_name(node), []).append(graph.function)
            elif _is_lstm(node):
                found.append(graph.function)
    holders: set[tuple[str, str, str]] = set()
    while found:
        name = found.pop()
        if name not in holders:
            holders.add(name)
            found += callers.get(name, ())
    return holders
