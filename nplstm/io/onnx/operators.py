"""The operators that exporters put between stored weights and an LSTM, and between two LSTMs, in NumPy.

They are ours and not those of ``onnx.reference`` because they run on what a file says: results are views where
NumPy has views, an ``Expand`` to any size among them; what takes memory is counted before it is taken; and no
attribute makes them open a file. Each takes all forms that its operator has had, axes as attribute or input, say.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.io.onnx.tensors import DTYPES

__all__ = ["OPERATORS", "Call", "UnsupportedError"]


_MOST_SIZES = 1024


class UnsupportedError(Exception):
    """An operator, or a form of it, that is not evaluated."""


def listed(array: Array) -> list[Any]:
    """Return the numbers of an array that says axes or sizes: there are few, and a view may have any number."""
    if array.size > _MOST_SIZES:
        raise ValueError(f"{array.size:,} sizes or axes")
    return array.reshape(-1).tolist()


class Call(NamedTuple):
    """What an operator is told beside its inputs."""

    attributes: dict[str, Any]
    outputs: int
    take: Callable[[int], None]
    """Counts bytes before they are taken."""

    def ints(self, name: str, given: Array | None) -> list[int] | None:
        """Return integers that are an input in some versions and an attribute in others."""
        value = self.attributes.get(name) if given is None else listed(given)
        return None if value is None else [int(number) for number in value]


Operator = Callable[..., "Array | Sequence[Array]"]


def _identity(call: Call, data: Array) -> Array:
    return data


def _dropout(call: Call, data: Array, ratio: Array | None = None, training: Array | None = None) -> Array:
    if (training is not None and training.item()) or call.attributes.get("is_test", 1) == 0:
        raise UnsupportedError("Dropout in training mode")
    return data


def _cast(call: Call, data: Array, saturate: Array | None = None) -> Array:
    number = call.attributes["to"]
    if DTYPES.get(number, "bfloat16") == "bfloat16":
        raise UnsupportedError(f"Cast to ONNX's type {number}")
    return _as_type(call, data, DTYPES[number])


def _cast_like(call: Call, data: Array, like: Array) -> Array:
    return _as_type(call, data, like.dtype.name)


def _as_type(call: Call, data: Array, dtype: str) -> Array:
    if data.dtype == dtype:
        return data
    if data.dtype.kind == "c":
        raise UnsupportedError("Cast of complex numbers")
    call.take(data.size * np.dtype(dtype).itemsize)
    return data.astype(dtype)


def _shape(call: Call, data: Array) -> Array:
    part = slice(call.attributes.get("start", 0), call.attributes.get("end"))
    return np.array(data.shape[part], dtype=np.int64)


def _size(call: Call, data: Array) -> Array:
    return np.array(data.size, dtype=np.int64)


def _constant_of_shape(call: Call, shape: Array) -> Array:
    value: Array = call.attributes.get("value", np.zeros(1, dtype=np.float32))
    return np.broadcast_to(value.reshape(()), listed(shape))


def _expand(call: Call, data: Array, shape: Array) -> Array:
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(listed(shape))))


def _reshape(call: Call, data: Array, shape: Array | None = None) -> Array:
    sizes = call.ints("shape", shape) or []
    if not call.attributes.get("allowzero", 0):
        sizes = [size or data.shape[axis] for axis, size in enumerate(sizes)]
    return _reshaped(call, data, sizes)


def _flatten(call: Call, data: Array) -> Array:
    axis = call.attributes.get("axis", 1)
    return _reshaped(call, data, [prod(data.shape[:axis]), prod(data.shape[axis:])])


def _reshaped(call: Call, data: Array, sizes: Sequence[int]) -> Array:
    if not data.flags.c_contiguous and any(data.strides):  # else it is a view
        call.take(data.nbytes)
    return data.reshape(sizes)


def _squeeze(call: Call, data: Array, axes: Array | None = None) -> Array:
    chosen = call.ints("axes", axes)
    return np.squeeze(data, None if chosen is None else tuple(chosen))


def _unsqueeze(call: Call, data: Array, axes: Array | None = None) -> Array:
    return np.expand_dims(data, tuple(call.ints("axes", axes) or ()))


def _transpose(call: Call, data: Array) -> Array:
    return np.transpose(data, call.attributes.get("perm") or None)


def _slice(
    call: Call,
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
        parts[axis] = slice(*part)
    return data[tuple(parts)]


def _split(call: Call, data: Array, split: Array | None = None) -> list[Array]:
    axis, sizes = call.attributes.get("axis", 0), call.ints("split", split)
    if sizes is None:
        each = -(-data.shape[axis] // call.outputs)  # the last one gets what is left
        sizes = [each] * (call.outputs - 1)
        sizes.append(data.shape[axis] - sum(sizes))
    if len(sizes) != call.outputs or sum(sizes) != data.shape[axis] or min(sizes) < 0:
        raise ValueError(f"{data.shape[axis]} cannot be split into {call.outputs} of the sizes {sizes}"[:200])
    return np.split(data, np.cumsum(sizes[:-1]).tolist(), axis)


def _concat(call: Call, *arrays: Array) -> Array:
    call.take(sum(array.nbytes for array in arrays))
    return np.concatenate(arrays, axis=call.attributes["axis"])


def _gather(call: Call, data: Array, indices: Array) -> Array:
    axis = call.attributes.get("axis", 0)
    rest = prod(size for place, size in enumerate(data.shape) if place != axis % data.ndim)
    call.take(indices.size * (rest * data.itemsize + 8))
    # np.take would copy all of a view first
    return np.asarray(data[(slice(None),) * (axis % data.ndim) + (indices,)])


def _tile(call: Call, data: Array, repeats: Array) -> Array:
    times = [int(number) for number in listed(repeats)]
    if min(times, default=0) < 0 or len(times) != data.ndim:
        raise ValueError(f"repeats of {times}, for {data.ndim} axes"[:200])
    call.take(data.nbytes * (1 + 2 * prod(times)))  # with what comes in between
    return np.tile(data, times)


def _range(call: Call, start: Array, limit: Array, delta: Array) -> Array:
    first, last, step = start.item(), limit.item(), delta.item()
    call.take(max(int((last - first) / step) + 1, 0) * start.itemsize)
    return np.arange(first, last, step, dtype=start.dtype)


def _elementwise(function: Callable[..., Any]) -> Operator:
    def operator(call: Call, *arrays: Array) -> Array:
        if "broadcast" in call.attributes:  # before version 7 the second array was aligned by an attribute
            raise UnsupportedError("its broadcast attribute")
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        call.take(prod(shape) * max(8, *(array.itemsize for array in arrays)))
        return np.asarray(function(*arrays))

    return operator


def _divide(numerator: Array, denominator: Array) -> Array:
    if numerator.dtype.kind == "f":
        return numerator / denominator
    sign = np.sign(numerator) * np.sign(denominator)  # integers are rounded towards zero
    return sign * (np.abs(numerator) // np.abs(denominator))


def _dequantize(call: Call, data: Array, scale: Array, zero: Array | None = None) -> Array:
    if call.attributes.get("block_size", 0):
        raise UnsupportedError("DequantizeLinear by blocks")
    call.take(data.size * 12 + scale.size * 8)  # with what comes in between
    dtype = DTYPES.get(call.attributes.get("output_dtype", 0), scale.dtype.name)
    widened = data.astype(np.float32)
    if zero is not None:
        widened -= _along_axis(call, data, zero).astype(np.float32)
    return (widened * _along_axis(call, data, scale)).astype(dtype)


def _along_axis(call: Call, data: Array, factors: Array) -> Array:
    """Return one factor for all numbers, or one for each place along an axis, shaped to go with the data."""
    if factors.size == 1:
        return factors.reshape(())
    axis = call.attributes.get("axis", 1)
    if factors.shape != (data.shape[axis],):
        raise ValueError(f"factors of shape {factors.shape} for data of shape {data.shape}")
    return factors.reshape([-1 if place == axis % data.ndim else 1 for place in range(data.ndim)])


OPERATORS: dict[str, Operator] = {
    "Add": _elementwise(np.add),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantize,
    "Div": _elementwise(_divide),
    "Dropout": _dropout,
    "Equal": _elementwise(np.equal),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "Max": _elementwise(lambda *arrays: reduce(np.maximum, arrays)),
    "Min": _elementwise(lambda *arrays: reduce(np.minimum, arrays)),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(np.where),
}
"""Operators of ONNX's own domain, by name."""
