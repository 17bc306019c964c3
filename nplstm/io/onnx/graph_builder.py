"""Builder of an ONNX graph: nodes, weights, constants, inputs and outputs, by the names of values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array, DTypeLike
from nplstm.errors import ArgumentError
from nplstm.io.onnx import onnx_library

__all__ = ["GraphBuilder"]

_MAX_BYTES = 2**31 - 2**20
"""Limit on all weights together: protobuf's is 2 GiB, and a megabyte is more than the rest takes."""


class _Node(NamedTuple):
    operator: str
    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: dict[str, Any]


class GraphBuilder:
    """Builds a graph. Its methods return the names of values, which other methods take.

    Parameters
    ----------
    dtype : dtype
        Element type of inputs, weights and outputs.
    """

    def __init__(self, dtype: DTypeLike) -> None:
        self._onnx = onnx_library()
        self.dtype = np.dtype(dtype)
        self._nodes: list[_Node] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._weights: dict[str, Any] = {}
        self._constants: dict[str, Any] = {}
        self._renamed: dict[str, str] = {}
        self._nbytes = 0

    def input(self, name: str, axes: Sequence[int | str], dtype: DTypeLike | None = None) -> str:
        """Add an input of the graph; an axis is a size, or a name where any size is allowed."""
        self._inputs.append(self._value(name, axes, dtype))
        return name

    def output(self, name: str, value: str, axes: Sequence[int | str]) -> None:
        """Make a value an output of the graph, under another name."""
        self._renamed[value] = name
        self._outputs.append(self._value(name, axes, None))

    def _value(self, name: str, axes: Sequence[int | str], dtype: DTypeLike | None) -> Any:
        helper = self._onnx.helper
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        return helper.make_tensor_value_info(name, element, axes)

    def weight(self, name: str, array: Array) -> str:
        """Add a weight, and count its size.

        Raises
        ------
        ArgumentError
            If the weights exceed what a file can hold.
        """
        self._nbytes += array.nbytes
        if self._nbytes > _MAX_BYTES:
            raise ArgumentError(
                "layer: its weights take 2 GiB or more, and an ONNX file holds less; a .safetensors file has no "
                "such limit"
            )
        self._weights[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def integers(self, values: Sequence[int] | int) -> str:
        """Add a constant of integers, such as sizes or axes; equal ones are shared."""
        name = f"integers_{'_'.join(map(str, values))}" if isinstance(values, Sequence) else f"integer_{values}"
        return self._constant(name, np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        """Add a constant of the graph's element type."""
        return self._constant(f"number_{value}", np.array(value, dtype=self.dtype))

    def _constant(self, name: str, array: Array) -> str:
        self._constants[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def cast_to_int64(self, value: str) -> str:
        """Add a Cast to 64-bit integers."""
        return self.add("Cast", value, to=self._onnx.TensorProto.INT64)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the output."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        self.add_named(operator, name, inputs, [name], **attributes)
        return name

    def add_named(
        self, operator: str, name: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add a node; an empty name stands for an input or output that is left out."""
        while not inputs[-1]:  # trailing inputs that are left out are not listed
            inputs = inputs[:-1]
        self._nodes.append(_Node(operator, name, inputs, outputs, attributes))

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Cut a value into parts of these sizes."""
        if len(sizes) == 1:
            return [value]
        parts = [f"{value}_part_{k}" for k in range(len(sizes))]
        self.add_named("Split", f"split_{len(self._nodes)}", [value, self.integers(sizes)], parts, axis=axis)
        return parts

    def join(self, parts: Sequence[str], axis: int) -> str:
        """Put values side by side."""
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=axis)

    def model(self, name: str, opset: int, **about: Any) -> Any:
        """Return the model; ``about`` are fields of ``ModelProto``, such as ``producer_name``."""
        helper = self._onnx.helper
        nodes = [
            helper.make_node(
                node.operator,
                [self._renamed.get(value, value) for value in node.inputs],
                [self._renamed.get(value, value) for value in node.outputs],
                name=node.name,
                **node.attributes,
            )
            for node in self._nodes
        ]
        tensors = [*self._weights.values(), *self._constants.values()]
        graph = helper.make_graph(nodes, name, self._inputs, self._outputs, tensors)
        imports = [helper.make_opsetid("", opset)]
        # the oldest version of the format that has these operators: a runtime refuses one newer than itself
        version = helper.find_min_ir_version_for(imports)
        return helper.make_model(graph, opset_imports=imports, ir_version=version, **about)
