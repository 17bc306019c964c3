"""The names in an ONNX model: its graph, the graphs inside of If, Loop and Scan, and calls of its functions.

A graph inside of another sees the names around it. A function sees nothing but what a call gives it, so each call
is a scope of its own. What a name stands for is found here; its value, in ``constant_folding``.
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
"""How many bytes of nodes there may be once functions stand in the place of their calls, stored tensors aside."""

_MOST_CALLS = 50
"""How deep functions may call functions."""


class ScopedName(NamedTuple):
    """A name, and where it stands. An empty name is an optional input that is left out."""

    scope: "Scope"
    name: str


class NodeOutput(NamedTuple):
    """What a node makes: which of its outputs."""

    scope: "Scope"
    node: Any
    output: int


class GraphInput(NamedTuple):
    """What comes from outside at run time."""

    name: str
    of_model: bool
    """Whether it is the model's; else it is that of the body of a Loop or Scan."""


class Initializer(NamedTuple):
    """A tensor that the file holds: a ``TensorProto`` or a ``SparseTensorProto``."""

    name: str
    proto: Any


Definition: TypeAlias = ScopedName | NodeOutput | GraphInput | Initializer
"""What a name stands for; a place, where it is another name for what stands there."""


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
        """Count the function that a node calls, with all graphs in it, before it is gone through once more."""
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
    """The names of a graph or of a function's call.

    Parameters
    ----------
    context : ModelContext
    nodes : sequence of NodeProto
    path : str
        What stands before the names of what is in it; empty, or ends in a slash.
    outer : Scope, optional
        The one around a graph, whose names it sees.

    Attributes
    ----------
    body : Scope
        The graph that it runs in, as often as that does: itself, or that of the calls that lead to it.
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
        self.shapes: dict[str, Any] = {}  # what the file declares of values: TypeProto.Tensor
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
            # an initializer is its default
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
        """Return the scope that a name belongs to: this one, or one around it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._names:
                return scope
            scope = scope.outer
        raise self.context.error(f"there is no value {name!r} in {self.path or 'the graph'}")

    def _step_into(self, definition: Definition) -> Definition:
        """Return, for what a call makes, its place in the function."""
        if not isinstance(definition, NodeOutput) or self.context.function_of(definition.node) is None:
            return definition
        called = self.called(definition.node)
        outputs = self.context.function_of(definition.node).output
        if definition.output >= len(outputs):
            raise self.context.error(f"{definition.node.name!r} has more outputs than its function")
        return ScopedName(called, outputs[definition.output])

    def shape_of(self, name: str) -> Any:
        """Return what the file declares of a value, if it does: a ``TypeProto.Tensor``."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.shapes or name in scope._names:
                return scope.shapes.get(name)
            scope = scope.outer
        return None

    def attributes_of(self, node: Any) -> dict[str, Any]:
        """Return a node's attributes by name; those that refer to the function's, as the call has them."""
        found: dict[str, Any] = {}
        for attribute in node.attribute:
            if not attribute.ref_attr_name:
                found[attribute.name] = attribute
            elif attribute.ref_attr_name in self.attributes:
                found[attribute.name] = self.attributes[attribute.ref_attr_name]
        return found

    def called(self, node: Any) -> "Scope":
        """Return the scope of a call of a function."""
        key = (id(node), "")  # of nodes that live as long as the scope does
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
        """Return the scope of a graph that is an attribute of a node."""
        key = (id(node), name)
        if key not in self._inner:
            self._inner[key] = Scope.of_graph(self.context, graph, path_within(self.path, node, name), self)
        return self._inner[key]

    def inner(self, node: Any) -> Iterator["Scope"]:
        """Yield the scopes inside of a node: of the function that it calls, or of its graphs."""
        if self.context.function_of(node) is not None:
            yield self.called(node)
        else:
            for attribute in node.attribute:
                for name, graph in graphs_of(attribute):
                    yield self.inside(node, name, graph)
