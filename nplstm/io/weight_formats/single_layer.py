"""Formats of one layer in one direction: a table of them, and the conversion between any two."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from nplstm._shapes import Axis, check_shape, describe_axes
from nplstm._typing import Array, Arrays
from nplstm.backends import namespace
from nplstm.errors import ShapeError

__all__ = [
    "LAYER_FORMATS",
    "TORCH_ORDER",
    "LayerFormat",
    "check_matrix",
    "convert",
    "expand",
    "reorder",
    "torch_format",
]

TORCH_ORDER = "ifgo"


class LayerFormat(NamedTuple):
    """How a format names, orders and transposes the parameters of one layer in one direction.

    A name with ``{}`` stands for four arrays, one for each gate, whose letters take the braces' place.
    """

    order: str  # of the gates, along the axis of size 4H
    weights: tuple[str, str]  # W_ih and W_hh; the same name twice: one matrix, W_ih's part first
    biases: tuple[str, ...]  # b_ih and b_hh; one name: their sum or, of size 8H, one after the other
    axes: Mapping[str, tuple[str, ...]]  # of each array, in the format's own order
    peepholes: str | None = None
    always_biased: bool = False


LAYER_FORMATS = {
    "fused": LayerFormat("figo", ("W", "W"), ("b",), {"W": ("I+H", "4H"), "b": ("4H",)}),
    "split": LayerFormat(
        "figo",
        ("W_x", "W_h"),
        ("b_x", "b_h"),
        {"W_x": ("I", "4H"), "W_h": ("H", "4H"), "b_x": ("4H",), "b_h": ("4H",)},
    ),
    "separate": LayerFormat(
        TORCH_ORDER,
        ("W_i{}", "W_h{}"),
        ("b_i{}", "b_h{}"),
        {"W_i{}": ("H", "I"), "W_h{}": ("H", "H"), "b_i{}": ("H",), "b_h{}": ("H",)},
    ),
    "keras": LayerFormat(
        "ifgo",
        ("kernel", "recurrent_kernel"),
        ("bias",),
        {"kernel": ("I", "4H"), "recurrent_kernel": ("H", "4H"), "bias": ("4H",)},
    ),
    "onnx": LayerFormat(
        "iofg",
        ("W", "R"),
        ("B",),
        {"W": ("4H", "I"), "R": ("4H", "H"), "B": ("8H",), "P": ("3H",)},
        peepholes="P",
    ),
    "haste": LayerFormat(
        "igfo",
        ("kernel", "recurrent_kernel"),
        ("bias",),
        {"kernel": ("I", "4H"), "recurrent_kernel": ("H", "4H"), "bias": ("4H",)},
        always_biased=True,
    ),
}


def torch_format(suffix: str, *, peepholes: bool = True) -> LayerFormat:
    """Return torch's own format with names that end in ``suffix``, with or without peepholes."""
    ih, hh, ch = (f"weight_{part}{suffix}" for part in ("ih", "hh", "ch"))
    biases = (f"bias_ih{suffix}", f"bias_hh{suffix}")
    axes = {ih: ("4H", "I"), hh: ("4H", "H"), biases[0]: ("4H",), biases[1]: ("4H",)}
    if not peepholes:
        return LayerFormat(TORCH_ORDER, (ih, hh), biases, axes)
    return LayerFormat(TORCH_ORDER, (ih, hh), biases, axes | {ch: ("3H",)}, peepholes=ch)


def expand(name: str, order: str) -> list[str]:
    """Return the names of the arrays that a format's name stands for: one, or one for each gate."""
    return [name.format(gate) for gate in order] if "{}" in name else [name]


def reorder(rows: Array, source: str, target: str) -> Array:
    """Return a contiguous copy with the gates' blocks of rows in another order."""
    size = len(rows) // len(source)
    result: Array = namespace(rows).empty(rows.shape, dtype=rows.dtype)
    for place, gate in enumerate(target):
        found = source.index(gate)
        result[place * size : (place + 1) * size] = rows[found * size : (found + 1) * size]
    return result


def convert(source: LayerFormat, arrays: Arrays, target: LayerFormat) -> dict[str, Array]:
    """Convert one layer's parameters from a format to another; every array is checked and copied.

    The names have been checked. A bias that the source leaves out is zeros where the other one is there.
    """
    _check_shapes(source, arrays)
    rows = {
        field: reorder(array, _gates(field, source.order), _gates(field, target.order))
        for field, array in _read(source, arrays).items()
    }
    return _write(target, rows)


def _gates(field: str, order: str) -> str:
    return order.replace("g", "") if field == "weight_ch" else order


def _check_shapes(format: LayerFormat, arrays: Arrays) -> None:
    sizes = _sizes(format, arrays)
    for name in (format.weights[1], *format.axes):  # W_hh first, which H comes from
        for key in expand(name, format.order):
            if key in arrays:
                check_shape(key, arrays[key].shape, [(axis, sizes[axis]) for axis in format.axes[name]])


def check_matrix(name: str, matrix: Array, axes: tuple[str, ...]) -> None:
    """Raise unless the matrix has as many axes as are named, none of them empty."""
    unsized: list[Axis] = [(axis, None) for axis in axes]
    check_shape(name, matrix.shape, unsized)
    if min(matrix.shape) < 1:
        raise ShapeError(
            f"{name}: expected shape {describe_axes(unsized)} without an empty axis, got {matrix.shape}"
        )


def _sizes(format: LayerFormat, arrays: Arrays) -> dict[str, int]:
    """Return the sizes of all axes, by name, from the shapes of the two matrices."""
    found: list[dict[str, int]] = []
    for name in format.weights:
        key = expand(name, format.order)[0]
        check_matrix(key, arrays[key], format.axes[name])
        found.append(dict(zip(format.axes[name], arrays[key].shape, strict=True)))
    ih, hh = found
    H = hh["H"] if "H" in hh else hh["4H"] // 4
    I = ih["I"] if "I" in ih else ih["I+H"] - H
    if H < 1 or I < 1:
        raise ShapeError(f"{format.weights[0]}: expected shape (I+H, 4H) with I, H >= 1, got {tuple(ih.values())}")
    return {"I": I, "H": H, "I+H": I + H, "3H": 3 * H, "4H": 4 * H, "8H": 8 * H}


def _read(format: LayerFormat, arrays: Arrays) -> dict[str, Array]:
    """Return the parameters by torch's names, with torch's axes but in the format's order of gates."""
    xp = namespace(next(iter(arrays.values())))
    whole: dict[str, Array] = {}
    for name in format.axes:
        keys = expand(name, format.order)
        if keys[0] in arrays:
            whole[name] = arrays[keys[0]] if len(keys) == 1 else xp.concatenate([arrays[key] for key in keys])
    ih, hh = (whole[name].T if _turned(format) else whole[name] for name in format.weights)
    if format.weights[0] == format.weights[1]:
        split = ih.shape[1] - len(ih) // 4
        ih, hh = ih[:, :split], ih[:, split:]
    rows = {"weight_ih": ih, "weight_hh": hh} | _read_biases(format, whole, xp)
    if format.peepholes in whole:
        rows["weight_ch"] = whole[format.peepholes]
    return rows


def _turned(format: LayerFormat) -> bool:
    """Tell whether matrices are (in, 4H), for ``x @ W``, rather than (4H, in)."""
    return format.axes[format.weights[0]][-1] == "4H"


def _read_biases(format: LayerFormat, whole: Arrays, xp: Any) -> dict[str, Array]:
    found = [whole[name] for name in format.biases if name in whole]
    if not found:
        return {}
    if format.axes[format.biases[0]] == ("8H",):
        half = len(found[0]) // 2
        return {"bias_ih": found[0][:half], "bias_hh": found[0][half:]}
    zeros = xp.zeros_like(found[0])
    pair = [whole.get(name, zeros) for name in format.biases] + [zeros]
    return {"bias_ih": pair[0], "bias_hh": pair[1]}


def _write(format: LayerFormat, rows: Arrays) -> dict[str, Array]:
    """Arrange parameters that have torch's names and axes and the format's order of gates; in new arrays."""
    xp = namespace(rows["weight_ih"])
    matrices = [rows["weight_ih"], rows["weight_hh"]]
    if format.weights[0] == format.weights[1]:
        matrices = [xp.concatenate(matrices, axis=1)]
    whole = {
        name: matrix.T if _turned(format) else matrix
        for name, matrix in zip(dict.fromkeys(format.weights), matrices, strict=True)
    }
    if "bias_ih" in rows:
        whole |= _write_biases(format, [rows["bias_ih"], rows["bias_hh"]], xp)
    if format.peepholes is not None and "weight_ch" in rows:
        whole[format.peepholes] = rows["weight_ch"]
    return {
        key: xp.array(array, order="C", copy=True)
        for name, array in whole.items()
        for key, array in _pieces(name, array, format.order)
    }


def _write_biases(format: LayerFormat, pair: list[Array], xp: Any) -> dict[str, Array]:
    if len(format.biases) == 1:
        joined = format.axes[format.biases[0]] == ("8H",)
        pair = [xp.concatenate(pair) if joined else pair[0] + pair[1]]
    return dict(zip(format.biases, pair, strict=True))


def _pieces(name: str, array: Array, order: str) -> list[tuple[str, Array]]:
    keys = expand(name, order)
    size = len(array) // len(keys)
    return [(key, array[place * size : (place + 1) * size]) for place, key in enumerate(keys)]
