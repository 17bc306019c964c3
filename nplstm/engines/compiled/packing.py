"""Parameters in the order in which the kernels read them.

Cells stand in panels of V, as many as a vector has lanes; the last panel is filled up with zeros, which stay zero
on the way forward and back.
"""

from typing import NamedTuple

import numpy as np

from nplstm._typing import Array, DType
from nplstm.engines._numpy.memory import aligned_copy, aligned_empty, aligned_zeros
from nplstm.engines.compiled.kernels import kernels
from nplstm.engines.compiled.simd import vector_length
from nplstm.params import LSTMParams

__all__ = [
    "Packed",
    "PackedBack",
    "pack",
    "pack_backward",
    "padded_cells",
    "padded_zeros",
    "unpadded_gates",
]


class Packed(NamedTuple):
    """The parameters of one layer and direction, for the way forward; the rows of i, f and o are halved."""

    weight_ih: Array  # by panel of cells: (I, 4 gates, V)
    weight_hh: Array  # by panel of cells: (P, 4 gates, V)
    bias: Array  # by panel of cells: (4 gates, V)


def pack(params: LSTMParams) -> Packed:
    """Pack for the way forward."""
    bias = np.zeros(len(params.weight_hh), params.weight_hh.dtype) if params.bias is None else params.bias
    return Packed(
        _by_panel(params.weight_ih), _by_panel(params.weight_hh), _halved(_padded_gates(bias[:, None])).ravel()
    )


class PackedBack(NamedTuple):
    """The weights for the way back, as ``multiply_panels`` reads them."""

    weight_ih: Array
    weight_hh: Array


def pack_backward(params: LSTMParams) -> PackedBack:
    """Pack for the way back."""
    return PackedBack(_by_column(params.weight_ih), _by_column(params.weight_hh))


def _by_column(weight: Array) -> Array:
    rows = _padded_gates(weight).reshape(-1, weight.shape[1])
    packed = aligned_empty((len(rows) * _whole(rows.shape[1], rows.itemsize),), rows.dtype)
    kernels(rows.dtype).pack_rows(rows, 0, len(rows), packed)
    return packed


def padded_cells(values: Array) -> Array:
    """Return a copy of (rows, H) with whole panels, (rows, Hp)."""
    H = values.shape[1]
    padded = aligned_zeros((len(values), _whole(H, values.itemsize)), values.dtype)
    padded[:, :H] = values
    return padded


def unpadded_gates(values: Array, H: int, width: int) -> Array:
    """Return (4Hp, >= width) as (4H, width), an array of its own."""
    V, columns = vector_length(values.itemsize), values.shape[1]
    by_gate = values.reshape(-1, 4, V, columns).swapaxes(0, 1).reshape(4, -1, columns)
    return np.array(by_gate[:, :H, :width], order="C").reshape(4 * H, width)


def padded_zeros(rows: int, columns: int, dtype: DType) -> Array:
    """Return zeros with whole panels of columns."""
    return aligned_zeros((rows, _whole(columns, dtype.itemsize)), dtype)


def _whole(H: int, itemsize: int) -> int:
    """Round up to whole panels."""
    V = vector_length(itemsize)
    return -(-H // V) * V


def _padded_gates(rows: Array) -> Array:
    """Return a copy of (4H, K) by panel of cells: (panels, 4, V, K)."""
    (rows_in_all, K), V = rows.shape, vector_length(rows.itemsize)
    H = rows_in_all // 4
    padded = np.zeros((4, _whole(H, rows.itemsize), K), rows.dtype)
    padded[:, :H] = rows.reshape(4, H, K)
    return np.array(padded.reshape(4, -1, V, K).swapaxes(0, 1), order="C")


def _halved(gates: Array) -> Array:
    gates[:, [0, 1, 3]] *= 0.5  # exact
    return gates


def _by_panel(weight: Array) -> Array:
    gates = _halved(_padded_gates(weight))
    return aligned_copy(gates.transpose(0, 3, 1, 2)).ravel()
