"""ONNX operators in NumPy: those that exporters put before an LSTM's weights and between two LSTMs.

Operators that compute are for weights and sizes. Numbers of a run, such as an LSTM's output, are known only as
long as operators move them: an operator that computes with them, or moves them by indices of the run, makes them
unknown.

``onnx.reference`` is not used, because the operands come from untrusted files: here results are views where NumPy
has views, also of an ``Expand`` to any size, memory is counted before it is taken, and no attribute opens a file.
Each operator supports all versions of its inputs and attributes, such as axes as an attribute or as an input.
"""

import sys
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.io.onnx.tensor_protos import DTYPES

__all__ = ["OPERATORS", "Operator", "OperatorCall", "UnsupportedOperatorError"]


_MOST_SIZES = 1024

_FAR = 2**31 - 1
"""From this index on, exporters mean the end of the axis."""


class UnsupportedOperatorError(Exception):
    """An operator, or a form of it, that is not evaluated; the message names it."""


def listed(array: Array) -> list[Any]:
    """Return the numbers of an array of axes or sizes, whose count is limited: a view may have any."""
    if array.size > _MOST_SIZES:
        raise ValueError(f"{array.size:,} sizes or axes")
    return array.reshape(-1).tolist()


class OperatorCall(NamedTuple):
    """Attributes and context of one call of an operator."""

    attributes: dict[str, Any]
    outputs: int
    take: Callable[[int], None]
    """Counts bytes before they are taken."""
    opset: int
    """The version of ONNX's operators."""
    probing: bool = False
    """Whether the input stands for numbers of a run, with sample sizes."""

    def ints(self, name: str, array: Array | None) -> list[int] | None:
        """Return integers that are an input in some versions of the operator and an attribute in others."""
        value = self.attributes.get(name) if array is None else listed(array)
        return None if value is None else [int(number) for number in value]


class Operator(NamedTuple):
    """The function that evaluates an operator, and what is known of its results for unknown inputs."""

    compute: Callable[..., "Array | Sequence[Array]"]
    numbers: int = 1
    """How many of its inputs, from the first on, do not decide the results' shape or order."""
    moves: bool = False
    """Whether the results consist of the numbers of these inputs, unchanged."""


def _identity(call: OperatorCall, data: Array) -> Array:
    return data


def _dropout(call: OperatorCall, data: Array, ratio: Array | None = None, training: Array | None = None) -> Array:
    tests = call.attributes.get("is_test", int(call.opset >= 7))  # the attribute ends with version 6
    if (training is not None and training.item()) or not tests:
        raise UnsupportedOperatorError("Dropout in training mode")
    return data


def _cast(call: OperatorCall, data: Array) -> Array:
    number = call.attributes["to"]
    if DTYPES.get(number, "bfloat16") == "bfloat16":
        raise UnsupportedOperatorError(f"Cast to ONNX's type {number}")
    return _as_type(call, data, DTYPES[number])


def _as_type(call: OperatorCall, data: Array, dtype: str) -> Array:
    if data.dtype == dtype:
        return data
    if data.dtype.kind == "c":
        raise UnsupportedOperatorError("Cast of complex numbers")
    call.take(data.size * np.dtype(dtype).itemsize)
    return data.astype(dtype)


def _shape(call: OperatorCall, data: Array) -> Array:
    part = slice(call.attributes.get("start", 0), call.attributes.get("end"))
    return np.array(data.shape[part], dtype=np.int64)


def _constant_of_shape(call: OperatorCall, shape: Array) -> Array:
    value: Array = call.attributes.get("value", np.zeros(1, dtype=np.float32))
    return np.broadcast_to(value.reshape(()), listed(shape))


def _expand(call: OperatorCall, data: Array, shape: Array) -> Array:
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(listed(shape))))


def _reshape(call: OperatorCall, data: Array, shape: Array | None = None) -> Array:
    sizes = call.ints("shape", shape) or []
    if not call.attributes.get("allowzero", 0):
        sizes = [size or data.shape[axis] for axis, size in enumerate(sizes)]
    return _reshaped(call, data, sizes)


def _reshaped(call: OperatorCall, data: Array, sizes: Sequence[int]) -> Array:
    if not data.flags.c_contiguous and any(data.strides):  # else it is a view
        call.take(data.nbytes)
    return data.reshape(sizes)


def _squeeze(call: OperatorCall, data: Array, axes: Array | None = None) -> Array:
    chosen = call.ints("axes", axes)
    return np.squeeze(data, None if chosen is None else tuple(chosen))


def _unsqueeze(call: OperatorCall, data: Array, axes: Array | None = None) -> Array:
    return np.expand_dims(data, tuple(call.ints("axes", axes) or ()))


def _transpose(call: OperatorCall, data: Array) -> Array:
    return np.transpose(data, call.attributes.get("perm") or None)


def _slice(
    call: OperatorCall,
    data: Array,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    first, last = call.ints("starts", starts) or [], call.ints("ends", ends) or []
    chosen = call.ints("axes", axes) or list(range(len(first)))
    strides = call.ints("steps", steps) or [1] * len(first)
    parts = [slice(None)] * data.ndim
    for axis, *part in zip(chosen, first, last, strides, strict=True):
        size = data.shape[axis]
        if call.probing and any(size < abs(place) < _FAR for place in part[:2]):
            raise UnsupportedOperatorError("a Slice that may or may not reach beyond what there is")
        parts[axis] = slice(*part)
    return data[tuple(parts)]


def _split(call: OperatorCall, data: Array, split: Array | None = None) -> list[Array]:
    axis, sizes = call.attributes.get("axis", 0), call.ints("split", split)
    if sizes is None:
        each = -(-data.shape[axis] // call.outputs)  # the last one gets what is left
        sizes = [each] * (call.outputs - 1)
        sizes.append(data.shape[axis] - sum(sizes))
    if len(sizes) != call.outputs or sum(sizes) != data.shape[axis] or min(sizes) < 0:
        raise ValueError(f"{data.shape[axis]} cannot be split into {call.outputs} of the sizes {sizes}"[:200])
    return np.split(data, np.cumsum(sizes[:-1]).tolist(), axis)


def _concat(call: OperatorCall, *arrays: Array) -> Array:
    call.take(sum(array.nbytes for array in arrays))
    return np.concatenate(arrays, axis=call.attributes["axis"])


def _gather(call: OperatorCall, data: Array, indices: Array) -> Array:
    axis = call.attributes.get("axis", 0)
    rest = prod(size for place, size in enumerate(data.shape) if place != axis % data.ndim)
    call.take(indices.size * (rest * data.itemsize + 8))
    # np.take would copy all of a view first
    return np.asarray(data[(slice(None),) * (axis % data.ndim) + (indices,)])


def _tile(call: OperatorCall, data: Array, repeats: Array) -> Array:
    times = [int(number) for number in listed(repeats)]
    if min(times, default=0) < 0 or len(times) != data.ndim:
        raise ValueError(f"repeats of {times}, for {data.ndim} axes"[:200])
    call.take(data.nbytes * (1 + 2 * prod(times)))  # with what comes in between
    return np.tile(data, times)


def _elementwise(function: Callable[..., Any], count: int) -> Operator:
    def compute(call: OperatorCall, *arrays: Array) -> Array:
        if len(arrays) != count:  # NumPy would take an additional one as ``out``
            raise ValueError(f"expected {count} inputs, got {len(arrays)}")
        if "broadcast" in call.attributes:  # before version 7 an attribute aligned the second array
            raise UnsupportedOperatorError("its broadcast attribute")
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        call.take(prod(shape) * max(8, *(array.itemsize for array in arrays)))
        return np.asarray(function(*arrays))

    return Operator(compute, count)


OPERATORS: dict[str, Operator] = {
    "Add": _elementwise(np.add, 2),
    "Cast": Operator(_cast),
    "Concat": Operator(_concat, sys.maxsize, moves=True),
    "ConstantOfShape": Operator(_constant_of_shape, 0),
    "Dropout": Operator(_dropout, moves=True),
    "Equal": _elementwise(np.equal, 2),
    "Expand": Operator(_expand),
    "Gather": Operator(_gather, moves=True),
    "Identity": Operator(_identity, moves=True),
    "Mul": _elementwise(np.multiply, 2),
    "Neg": _elementwise(np.negative, 1),
    "Reshape": Operator(_reshape, moves=True),
    "Shape": Operator(_shape),
    "Slice": Operator(_slice, moves=True),
    "Split": Operator(_split, moves=True),
    "Squeeze": Operator(_squeeze, moves=True),
    "Sub": _elementwise(np.subtract, 2),
    "Tile": Operator(_tile),
    "Transpose": Operator(_transpose, moves=True),
    "Unsqueeze": Operator(_unsqueeze, moves=True),
    "Where": _elementwise(np.where, 3),
}
"""Operators of ONNX's own domain, by name."""
