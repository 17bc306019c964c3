"""Contents of an ONNX model: every tensor and LSTM node, in all graphs and functions, under unique names."""

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
from nplstm.io.onnx.tensor_protos import LazyTensor, tensor_from_constant

__all__ = ["UniqueNames", "all_graphs", "all_tensors", "lstm_nodes", "other_recurrences"]

QUANTIZED = "DynamicQuantizeLSTM"
"""onnxruntime's own operator, which is listed and refused."""


_MOST_NAME = 500
"""How many characters of a node's name are kept, because a function's node is listed for each call."""


class UniqueNames:
    """Makes names unique."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def unique(self, name: str, path: str = "") -> str:
        """Return the name; if it is taken, with its path before it, or else with a number after it."""
        free = name if name not in self._taken else path + name
        while free in self._taken:
            self._counts[name] = self._counts.get(name, 1) + 1
            free = f"{path}{name} ({self._counts[name]})"
        self._taken.add(free)
        return free


class Graph(NamedTuple):
    """The nodes and tensors of a ``GraphProto`` or ``FunctionProto``."""

    path: str
    nodes: Any
    tensors: list[Any]
    function: tuple[str, str, str] | None
    """The key of the function that it is, or is in."""


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
    """Return initializers and Constant nodes by name; of two with one name, the second has its path before it.

    Raises
    ------
    FileFormatError
        If one declares an invalid shape.
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
        return tensor_from_constant(node.output[0], attribute.name, attribute_value(attribute), stored)
    return None


def lstm_nodes(model: Any, graphs: Sequence[Graph], context: ModelContext) -> Iterator[tuple[str, Scope, Any]]:
    """Yield each LSTM node with its name and scope; a node in a function once for each call of the function.

    Raises
    ------
    FileFormatError
        If functions are recursive or too large once they are expanded, or a name is defined twice.
    """
    names, with_lstm = UniqueNames(), _functions_with_lstm(graphs, context)
    waiting = [Scope.of_graph(context, model.graph)]
    while waiting:
        scope = waiting.pop()
        inner: list[Scope] = []
        for node in scope.nodes:
            called = called_name(node)
            if called not in context.functions and _is_lstm(node):
                yield names.unique(scope.path + node_name(node)[:_MOST_NAME]), scope, node
            elif called not in context.functions or called in with_lstm:
                inner += scope.inner(node)
        waiting += reversed(inner)


def _is_lstm(node: Any) -> bool:
    return (node.op_type == "LSTM" and is_standard(node)) or node.op_type == QUANTIZED


def other_recurrences(graphs: Sequence[Graph]) -> str:
    """Return what a model without an LSTM node may have instead of one, for the error message."""
    operators = {node.op_type for graph in graphs for node in graph.nodes}
    cells, loops = (sorted(operators & names) for names in ({"GRU", "RNN"}, {"Loop", "Scan"}))
    if cells:
        return f", and nodes of the operator {' and '.join(cells)}, which are not LSTMs"
    if loops:
        return f", and a {' and a '.join(loops)}: an LSTM that is computed step by step in one has no node LSTM"
    return "; an LSTM whose steps were unrolled into other operators has no node LSTM"


def _functions_with_lstm(graphs: Sequence[Graph], context: ModelContext) -> set[tuple[str, str, str]]:
    """Return the keys of the functions that contain an LSTM, or call one that does."""
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
    with_lstm: set[tuple[str, str, str]] = set()
    while found:
        name = found.pop()
        if name not in with_lstm:
            with_lstm.add(name)
            found += callers.get(name, ())
    return with_lstm
