"""Scopes: the names in an ONNX model's graph, in the subgraphs of If, Loop and Scan, and in calls of functions.

A subgraph sees the names around it. A function sees only the inputs and attributes of its call, so each call is a
scope of its own. What a name stands for is found here; its value, in ``constant_folding``.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple, Self, TypeAlias

from nplstm.errors import FileFormatError
from nplstm.io.model_file import printable
from nplstm.io.onnx.proto_fields import (
    called_name,
    defined_name,
    function_name,
    graphs_of,
    opset_of,
    path_within,
    size_of,
    tensor_name,
)

__all__ = [
    "Definition",
    "GraphInput",
    "Initializer",
    "ModelContext",
    "NodeOutput",
    "Scope",
    "ScopedName",
]

MOST_EXPANDED = 2**22
"""Limit on the bytes of nodes after functions are expanded at their calls, without tensors."""

_MOST_CALLS = 50
"""Limit on the depth of calls of functions by functions."""


class ScopedName(NamedTuple):
    """A name in a scope. An empty name is an optional input that is left out."""

    scope: "Scope"
    name: str


class NodeOutput(NamedTuple):
    """One of the outputs of a node."""

    scope: "Scope"
    node: Any
    output: int


class GraphInput(NamedTuple):
    """An input of the model's graph or of a subgraph."""

    name: str
    of_model: bool
    """Whether it is the model's; else it is an input of the body of a Loop or Scan."""


class Initializer(NamedTuple):
    """A tensor that the file holds: a ``TensorProto`` or a ``SparseTensorProto``."""

    name: str
    proto: Any


Definition: TypeAlias = ScopedName | NodeOutput | GraphInput | Initializer
"""What a name stands for; a ``ScopedName`` where it is another name for a value."""


class ModelContext:
    """What all scopes of a model share.

    Parameters
    ----------
    path : str or PathLike
        For messages.
    model : ModelProto
    """

    def __init__(self, path: str | os.PathLike[str], model: Any) -> None:
        self.path = os.fspath(path)
        self.opset = opset_of(model)
        self.functions: dict[tuple[str, str, str], Any] = {}
        self._sizes: dict[tuple[str, str, str], int] = {}
        for function in model.functions:
            key = defined_name(function)
            if key in self.functions:
                raise self.error(f"there are two functions {function_name(key)!r}")
            self.functions[key] = function
        self._expanded = 0

    def error(self, problem: str) -> FileFormatError:
        """Return the error that names the file."""
        return FileFormatError(f"{self.path}: {printable(problem)}")

    def expand(self, node: Any) -> None:
        """Count the function that a node calls, with its subgraphs, before it is expanded once more."""
        key = called_name(node)
        if key not in self._sizes:
            self._sizes[key] = size_of(self.functions[key])
        self._expanded += self._sizes[key] + size_of(node)
        if self._expanded > MOST_EXPANDED:
            raise self.error(f"its functions come to more than {MOST_EXPANDED:,} bytes")

    def function_of(self, node: Any) -> Any:
        """Return the function that a node calls, if it does."""
        return self.functions.get(called_name(node))


class Scope:
    """The names of a graph or of one call of a function.

    Parameters
    ----------
    context : ModelContext
    nodes : sequence of NodeProto
    path : str
        Prefix for the names of its nodes; empty, or ends in a slash.
    outer : Scope, optional
        The scope around a subgraph, whose names it sees.

    Attributes
    ----------
    body : Scope
        The graph that it runs in, and as often as: itself, or for a function the graph of the outermost call.
    opset : int
        Version of ONNX's operators.
    """

    def __init__(self, context: ModelContext, nodes: Any, path: str = "", outer: Self | None = None) -> None:
        self.context, self.path, self.outer = context, path, outer
        self.nodes = list(nodes)
        self.attributes: dict[str, Any] = {} if outer is None else outer.attributes
        self.calls = 0 if outer is None else outer.calls
        self.opset: int = context.opset if outer is None else outer.opset
        self.body = self
        self._names: dict[str, Definition] = {}
        self.shapes: dict[str, Any] = {}  # declared types and shapes: TypeProto.Tensor
        self._inner: dict[tuple[int, str], Scope] = {}
        for node in self.nodes:
            for output, name in enumerate(node.output):
                if name:
                    self._define(name, NodeOutput(self, node, output))

    @classmethod
    def of_graph(cls, context: ModelContext, graph: Any, path: str = "", outer: Self | None = None) -> Self:
        """Return the scope of a ``GraphProto``."""
        scope = cls(context, graph.node, path, outer)
        for tensor in (*graph.initializer, *graph.sparse_initializer):
            scope._define(tensor_name(tensor), Initializer(tensor_name(tensor), tensor))
        for value in graph.input:
            # the initializer of the same name, if any, is its default
            scope._names.setdefault(value.name, GraphInput(value.name, of_model=outer is None))
        for value in (*graph.value_info, *graph.output, *graph.input):
            scope.shapes[value.name] = value.type.tensor_type
        return scope

    def _define(self, name: str, definition: Definition) -> None:
        if name in self._names or not name:
            where = self.path.rstrip("/") or "the graph"
            raise self.context.error(
                f"{where} has two values {name!r}" if name else f"{where} has an initializer without a name"
            )
        self._names[name] = definition

    def find(self, name: str) -> Definition:
        """Return what a name stands for.

        Raises
        ------
        FileFormatError
            If there is no such name.
        """
        scope = self.holder(name)
        return scope._step_into(scope._names[name])

    def holder(self, name: str) -> "Scope":
        """Return the scope that defines a name: this one, or one around it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._names:
                return scope
            scope = scope.outer
        raise self.context.error(f"there is no value {name!r} in {self.path or 'the graph'}")

    def _step_into(self, definition: Definition) -> Definition:
        """Return, for an output of a call, the name inside the function."""
        if not isinstance(definition, NodeOutput) or self.context.function_of(definition.node) is None:
            return definition
        called = self.called(definition.node)
        outputs = self.context.function_of(definition.node).output
        if definition.output >= len(outputs):
            raise self.context.error(f"{definition.node.name!r} has more outputs than its function")
        return ScopedName(called, outputs[definition.output])

    def shape_of(self, name: str) -> Any:
        """Return the type and shape that the file declares for a value, a ``TypeProto.Tensor``, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.shapes or name in scope._names:
                return scope.shapes.get(name)
            scope = scope.outer
        return None

    def attributes_of(self, node: Any) -> dict[str, Any]:
        """Return a node's attributes by name; references to the function's attributes are resolved."""
        found: dict[str, Any] = {}
        for attribute in node.attribute:
            if not attribute.ref_attr_name:
                found[attribute.name] = attribute
            elif attribute.ref_attr_name in self.attributes:
                found[attribute.name] = self.attributes[attribute.ref_attr_name]
        return found

    def called(self, node: Any) -> "Scope":
        """Return the scope of a call of a function."""
        key = (id(node), "")  # ids are unique, because the nodes live as long as the scope
        if key not in self._inner:
            self._inner[key] = self._call(node, self.context.function_of(node))
        return self._inner[key]

    def _call(self, node: Any, function: Any) -> "Scope":
        if self.calls >= _MOST_CALLS:
            raise self.context.error(f"functions call each other more than {_MOST_CALLS} deep: {node.op_type!r}")
        self.context.expand(node)
        scope = Scope(self.context, function.node, path_within(self.path, node))
        scope.calls, scope.body, scope.opset = self.calls + 1, self.body, opset_of(function)
        scope.attributes = {default.name: default for default in getattr(function, "attribute_proto", ())}
        scope.attributes |= self.attributes_of(node)
        arguments = [*node.input, *[""] * len(function.input)]
        for name, argument in zip(function.input, arguments, strict=False):
            scope._define(name, ScopedName(self, argument))
        for value in getattr(function, "value_info", ()):
            scope.shapes[value.name] = value.type.tensor_type
        return scope

    def inside(self, node: Any, name: str, graph: Any) -> "Scope":
        """Return the scope of a subgraph, which is an attribute of a node."""
        key = (id(node), name)
        if key not in self._inner:
            self._inner[key] = Scope.of_graph(self.context, graph, path_within(self.path, node, name), self)
        return self._inner[key]

    def inner(self, node: Any) -> Iterator["Scope"]:
        """Yield the scopes inside a node: that of the function that it calls, or those of its subgraphs."""
        if self.context.function_of(node) is not None:
            yield self.called(node)
        else:
            for attribute in node.attribute:
                for name, graph in graphs_of(attribute):
                    yield self.inside(node, name, graph)
