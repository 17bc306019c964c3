"""Fields of ONNX's protobuf messages: names, attributes, graphs and sizes of nodes, functions and tensors."""

from typing import Any

__all__ = [
    "attribute_value",
    "called_name",
    "defined_name",
    "function_name",
    "graphs_of",
    "is_standard",
    "node_name",
    "opset_of",
    "path_within",
    "size_of",
    "tensor_name",
]

_MOST_PATH = 500
"""How many characters of a path are kept, because it is a prefix of many names."""

_GRAPH, _GRAPHS = 5, 10
"""ONNX's numbers of the attribute types GRAPH and GRAPHS."""


def graphs_of(attribute: Any) -> list[tuple[str, Any]]:
    """Return the graphs of an attribute, each with a unique name."""
    if attribute.type == _GRAPH:
        return [(attribute.name, attribute.g)]
    if attribute.type == _GRAPHS:
        return [(f"{attribute.name}_{k}", graph) for k, graph in enumerate(attribute.graphs)]
    return []


def attribute_value(attribute: Any) -> Any:
    """Return an attribute's number, text, list of these, or tensor; for other types the attribute itself."""
    kinds = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings", 11: "sparse_tensor"}
    value = getattr(attribute, kinds[attribute.type]) if attribute.type in kinds else attribute
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if attribute.type == 8:
        return [text.decode(errors="replace") for text in value]
    return list(value) if attribute.type in {6, 7} else value


def is_standard(node: Any) -> bool:
    """Tell whether a node's operator is of ONNX's own domain."""
    return node.domain in {"", "ai.onnx"}


def node_name(node: Any) -> str:
    """Return a node's name; without one, a name made of its operator and first output."""
    return node.name or f"{node.op_type.lower()}:{next((name for name in node.output if name), '')}"


def path_within(path: str, node: Any, graph: str = "") -> str:
    """Return the path prefix for what is inside a node; of a long one, the end."""
    longer = f"{path}{node_name(node)}/{graph}{'/' * bool(graph)}"
    return longer if len(longer) <= _MOST_PATH else "..." + longer[-_MOST_PATH:]


def tensor_name(tensor: Any) -> str:
    """Return the name of a ``TensorProto``, or of a ``SparseTensorProto``, whose values have it."""
    return tensor.name if hasattr(tensor, "name") else tensor.values.name


def called_name(node: Any) -> tuple[str, str, str]:
    """Return the key of the function that a node would call: domain, name and overload."""
    return node.domain, node.op_type, _overload(node)


def opset_of(message: Any) -> int:
    """Return the version of ONNX's own operators in a model or function."""
    return max((entry.version for entry in message.opset_import if is_standard(entry)), default=1)


def size_of(message: Any) -> int:
    """Return the bytes of a node or function without tensors, which calls share."""
    nodes = getattr(message, "node", [message])
    return message.ByteSize() - sum(len(attribute.t.raw_data) for node in nodes for attribute in node.attribute)


def defined_name(function: Any) -> tuple[str, str, str]:
    """Return the key of a function: domain, name and overload."""
    return function.domain, function.name, _overload(function)


def _overload(message: Any) -> str:
    return getattr(message, "overload", "")  # a field since onnx 1.16


def function_name(key: tuple[str, str, str]) -> str:
    """Return the name of a function for messages."""
    return ".".join(part for part in key if part)
