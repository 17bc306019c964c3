"""Packing of parameters in the order in which the kernels read them.

Cells are in panels of as many as a vector has elements; the last panel is padded with zeros, which stay zero in
the forward and backward pass.
"""

from typing import NamedTuple

import numpy as np

from nplstm._typing import Array, DType
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.params import LSTMParams
from nplstm.engines._numpy.memory import aligned_empty, zeroed_work_space
from nplstm.engines.compiled.library import library

__all__ = [
    "Packed",
    "PackedBack",
    "gate_gradient",
    "pack",
    "pack_backward",
    "padded_cells",
    "padded_width",
    "padded_zeros",
]


class Packed(NamedTuple):
    """The parameters of one layer and direction, for the forward pass."""

    weight_ih: Array  # by panel of cells: (I, 4 gates, panel)
    weight_hh: Array  # by panel of cells: (P, 4 gates, panel)
    bias: Array  # by panel of cells: (4 gates, panel)
    peephole: Array | None  # (3, Hp)  of i, f and o
    weight_hr: Array | None  # (H, P) by groups of columns: transposed


class PackedBack(NamedTuple):
    """The weights for the backward pass, by groups of columns; the rows of gates by panel of cells."""

    weight_ih: Array
    weight_hh: Array
    weight_hr: Array | None


def pack(weights: LayerWeights) -> Packed:
    """Pack for the forward pass; once for as long as the parameters live."""
    return weights.prepared(_pack)


def pack_backward(weights: LayerWeights) -> PackedBack:
    """Pack for the backward pass; once for as long as the parameters live."""
    return weights.prepared(_pack_back)


def uncoupled(gates: Array) -> Array:
    """Return rows of four gates, i, f, g, o, from those of three, i, g, o, whose forget gate is 1 - i.

    Since 1 - sigmoid(a) = sigmoid(-a), f has the weights of i with the other sign.
    """
    i, g, o = gates.reshape(3, -1, *gates.shape[1:])
    return np.concatenate([i, -i, g, o])


def gate_gradient(values: Array, H: int, width: int, *, coupled: bool) -> Array:
    """Return the gradient (4Hp, >= width) of rows by panel of cells in torch's order and sizes: (4H, width).

    With ``coupled`` (3H, width), of the three gates from which ``uncoupled`` made four.
    """
    gates, kernels = np.empty((4 * H, width), values.dtype), library()
    kernels.module.unpack(kernels.choice, values, gates, H)
    if not coupled:
        return gates
    i, f, g, o = gates.reshape(4, H, width)
    return np.concatenate([i - f, g, o])


def _pack(weights: LayerWeights) -> Packed:
    params = _four_gates(weights)
    bias = np.zeros(len(params.weight_hh), params.weight_hh.dtype) if params.bias is None else params.bias
    peephole, weight_hr = params.weight_ch, params.weight_hr
    return Packed(
        _packed(params.weight_ih, _FORWARD),
        _packed(params.weight_hh, _FORWARD),
        _packed(bias[:, None], _FORWARD),
        None if peephole is None else padded_cells(peephole.reshape(3, -1)),
        None if weight_hr is None else _packed(weight_hr.T, _COLUMNS),
    )


def _pack_back(weights: LayerWeights) -> PackedBack:
    params = _four_gates(weights)
    weight_hr = params.weight_hr
    return PackedBack(
        _packed(params.weight_ih, _BACK),
        _packed(params.weight_hh, _BACK),
        None if weight_hr is None else _packed(weight_hr, _COLUMNS),
    )


def _four_gates(weights: LayerWeights) -> LSTMParams:
    """Return the parameters with a forget gate, which coupled gates do not have."""
    params = weights.params
    if not weights.spec.coupled_input_forget:
        return params
    peephole = params.weight_ch
    if peephole is not None:  # of i and o
        i, o = peephole.reshape(2, -1)
        peephole = np.concatenate([i, -i, o])
    bias = None if params.bias is None else uncoupled(params.bias)
    return params._replace(
        weight_ih=uncoupled(params.weight_ih),
        weight_hh=uncoupled(params.weight_hh),
        bias_ih=bias,
        bias_hh=None if bias is None else np.zeros_like(bias),
        weight_ch=peephole,
    )


_FORWARD, _BACK, _COLUMNS = range(3)


def _packed(weight: Array, how: int) -> Array:
    rows, columns = weight.shape
    height = rows if how == _COLUMNS else 4 * padded_width(rows // 4, weight.itemsize)
    width = columns if how == _FORWARD else padded_width(columns, weight.itemsize)
    packed = aligned_empty((height * width,), weight.dtype)
    found = library()
    found.module.pack(found.choice, np.ascontiguousarray(weight), packed, how)
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
    return zeroed_work_space((rows, padded_width(columns, dtype.itemsize)), dtype)
