"""Parameters in the order in which the kernels read them.

Cells stand in panels of as many as a vector has elements; the last panel is filled up with zeros, which stay zero
on the way forward and back.
"""

from typing import NamedTuple

import numpy as np

from nplstm._typing import Array, DType
from nplstm.engines._numpy.memory import aligned_empty, aligned_zeros
from nplstm.engines.compiled.library import library
from nplstm.params import LSTMParams

__all__ = [
    "Packed",
    "PackedBack",
    "pack",
    "pack_backward",
    "padded_cells",
    "padded_width",
    "padded_zeros",
    "unpadded_gates",
]


class Packed(NamedTuple):
    """The parameters of one layer and direction, for the way forward."""

    weight_ih: Array  # by panel of cells: (I, 4 gates, panel)
    weight_hh: Array  # by panel of cells: (P, 4 gates, panel)
    bias: Array  # by panel of cells: (4 gates, panel)


def pack(params: LSTMParams) -> Packed:
    """Pack for the way forward."""
    bias = np.zeros(len(params.weight_hh), params.weight_hh.dtype) if params.bias is None else params.bias
    weights = (_packed(weight, back=False) for weight in (params.weight_ih, params.weight_hh, bias[:, None]))
    return Packed(*weights)


class PackedBack(NamedTuple):
    """The weights for the way back: their rows by panel of cells, by groups of columns."""

    weight_ih: Array
    weight_hh: Array


def pack_backward(params: LSTMParams) -> PackedBack:
    """Pack for the way back."""
    return PackedBack(_packed(params.weight_ih, back=True), _packed(params.weight_hh, back=True))


def _packed(weight: Array, *, back: bool) -> Array:
    rows, columns = weight.shape
    width = padded_width(columns, weight.itemsize) if back else columns
    packed = aligned_empty((4 * padded_width(rows // 4, weight.itemsize) * width,), weight.dtype)
    found = library()
    found.module.pack(found.index, np.ascontiguousarray(weight), packed, back)
    return packed


def padded_width(width: int, itemsize: int) -> int:
    """Round up to whole panels."""
    lanes = library().lanes(itemsize)
    return -(-width // lanes) * lanes


def padded_cells(values: Array) -> Array:
    """Return a copy of (rows, H) with whole panels, (rows, Hp)."""
    rows, H = values.shape
    padded = padded_zeros(rows, H, values.dtype)
    padded[:, :H] = values
    return padded


def padded_zeros(rows: int, columns: int, dtype: DType) -> Array:
    """Return zeros with whole panels of columns."""
    return aligned_zeros((rows, padded_width(columns, dtype.itemsize)), dtype)


def unpadded_gates(values: Array, H: int, width: int) -> Array:
    """Return (4Hp, >= width), whose rows stand by panel of cells, as (4H, width) in torch's order."""
    lanes, columns = library().lanes(values.itemsize), values.shape[1]
    by_gate = values.reshape(-1, 4, lanes, columns).swapaxes(0, 1).reshape(4, -1, columns)
    return np.array(by_gate[:, :H, :width], order="C").reshape(4 * H, width)
