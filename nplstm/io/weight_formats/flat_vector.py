"""Formats that hold a stack of layers and directions in one flat vector: a table of them, and the conversion."""

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from nplstm._shapes import Axis, check_shape
from nplstm._typing import Array, Arrays
from nplstm.backends import namespace
from nplstm.errors import ShapeError
from nplstm.io.weight_formats.single_layer import TORCH_ORDER, check_matrix, reorder

__all__ = ["FLAT_FORMATS", "FlatFormat", "StackSizes", "pack", "stack_names", "unpack"]


class FlatFormat(NamedTuple):
    """The order of a stack's parameters in one vector.

    Of each group, the parameters of the first layer's first direction come first, then those of its second
    direction, then the next layer's; after them the next group's. Matrices lie row by row, torch's rows.
    """

    key: str  # name of the vector
    order: str  # of the gates
    groups: tuple[tuple[str, ...], ...]
    always_biased: bool


FLAT_FORMATS = {
    "thinc": FlatFormat("LSTM", "fiog", (("weight_ih", "bias_ih", "weight_hh", "bias_hh"),), always_biased=True),
    "cudnn": FlatFormat(
        "weight_space", "ifgo", (("weight_ih", "weight_hh"), ("bias_ih", "bias_hh")), always_biased=False
    ),
}


class StackSizes(NamedTuple):
    """Sizes and options that a flat vector does not show; arguments of ``LSTM``."""

    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool


def stack_names(format: FlatFormat, parameters: Arrays) -> list[str]:
    """Return the names of all parameters of a stack, in the vector's order, with the layers in ``parameters``."""
    return [name for name, _ in _axes(format, _sizes_by_names(format, parameters, 0, 0))]


def _sizes_by_names(format: FlatFormat, parameters: Arrays, input_size: int, hidden_size: int) -> StackSizes:
    layers = {found[1] for name in parameters if (found := re.search(r"_l(\d+)(_reverse)?$", name))}
    bidirectional = any(name.endswith("_reverse") for name in parameters)
    bias = format.always_biased or any(name.startswith("bias_") for name in parameters)
    return StackSizes(input_size, hidden_size, max(len(layers), 1), bidirectional, bias)


def _axes(format: FlatFormat, sizes: StackSizes) -> Iterator[tuple[str, list[Axis]]]:
    """Yield names and axes of the parameters in the vector's order."""
    H, D = sizes.hidden_size, 1 + sizes.bidirectional
    places = [(layer, d) for layer in range(sizes.num_layers) for d in ("", "_reverse")[:D]]
    for group in format.groups:
        for layer, direction in places:
            widths: dict[str, list[Axis]] = {
                "weight_ih": [("I", sizes.input_size) if layer == 0 else ("D*H", D * H)],
                "weight_hh": [("H", H)],
            }
            for field in group:
                if sizes.bias or not field.startswith("bias"):
                    yield f"{field}_l{layer}{direction}", [("4H", 4 * H), *widths.get(field, [])]


def unpack(format: FlatFormat, vector: Array, sizes: StackSizes) -> dict[str, Array]:
    """Cut the vector into the parameters of a stack, under torch's names and in torch's order of gates."""
    shapes = {name: tuple(size or 0 for _, size in axes) for name, axes in _axes(format, sizes)}
    total = sum(prod(shape) for shape in shapes.values())
    if vector.shape != (total,):
        options = ", ".join(f"{field}={value}" for field, value in sizes._asdict().items())
        raise ShapeError(f"{format.key}: expected shape ({total},) for {options}, got {vector.shape}")
    result: dict[str, Array] = {}
    start = 0
    for name, shape in shapes.items():
        piece = vector[start : start + prod(shape)].reshape(shape)
        result[name] = reorder(piece, format.order, TORCH_ORDER)
        start += prod(shape)
    return result


def pack(format: FlatFormat, parameters: Arrays) -> Array:
    """Join the parameters of a stack, whose names have been checked, into the vector."""
    ih, hh = (parameters[name] for name in ("weight_ih_l0", "weight_hh_l0"))
    check_matrix("weight_ih_l0", ih, ("4H", "I"))
    check_matrix("weight_hh_l0", hh, ("4H", "H"))
    check_shape("weight_hh_l0", hh.shape, [("4H", 4 * hh.shape[1]), ("H", hh.shape[1])])
    pieces: list[Array] = []
    for name, axes in _axes(format, _sizes_by_names(format, parameters, ih.shape[1], hh.shape[1])):
        check_shape(name, parameters[name].shape, axes)
        pieces.append(reorder(parameters[name], TORCH_ORDER, format.order).reshape(-1))
    return namespace(ih).concatenate(pieces)
