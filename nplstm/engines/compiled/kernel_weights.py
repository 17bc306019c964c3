"""Packing of parameters in the order in which the kernels read them.

Cells are in panels of as many as a vector has elements; the last panel is padded with zeros, which stay zero in
the forward and backward pass.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.params import LSTMParams
from nplstm.engines._numpy.memory import aligned_empty
from nplstm.engines.compiled.library import library

__all__ = [
    "CheckedLayers",
    "Packed",
    "checked_layers",
    "pack",
    "padded_width",
]


class Packed(NamedTuple):
    """The parameters of one layer and direction, for the forward or the backward pass."""

    weight_ih: Array  # by panel of cells: (I, 4 gates, panel)
    weight_hh: Array  # by panel of cells: (P, 4 gates, panel)
    bias: Array | None  # by panel of cells: (4 gates, panel); None for the backward pass
    peephole: Array | None  # (3, Hp)  of i, f and o
    weight_hr: Array | None  # by groups of columns; for the forward pass transposed, (H, P)


def pack(weights: LayerWeights) -> Packed:
    """Pack for the forward pass; once for as long as the parameters live."""
    return weights.prepared(_pack)


class CheckedLayers:
    """Layers of one size that run together, with their packed weights as the kernels take them.

    Attributes
    ----------
    module
        The module of kernels.
    handle
        The first argument of its ``forward``, or of ``backward``.
    Ip : int
        I rounded up to whole panels.
    """

    def __init__(self, *weights: LayerWeights, directions: int, back: bool) -> None:
        (P, H), first, found = weights[0].widths, weights[0], library()
        packed = tuple([tuple(one.prepared(_pack_back if back else _pack)) for one in weights])
        I, clip = first.params.weight_ih.shape[1], first.spec.clip or 0.0
        self.module = found.module
        self.handle = found.module.layers(found.choice, packed, directions, I, H, P, clip, back)
        itemsize = first.params.weight_hh.itemsize
        L, self.Ip = len(weights) // directions, padded_width(I, itemsize)
        self._kept_by_row = directions * (L * 5 * padded_width(H, itemsize) + (L - 1) * P)

    def kept(self, rows: int) -> int:
        """Return how many numbers a recording of so many rows keeps, beside input and output."""
        return rows * self._kept_by_row


def checked_layers(weights: list[LayerWeights], directions: int, *, back: bool = False) -> CheckedLayers:
    """Return the layers with their packed weights; made once for each way, as long as the parameters live."""
    return weights[0].prepared(_CHECKED[back, directions], *weights[1:])


_CHECKED = {(back, D): partial(CheckedLayers, directions=D, back=back) for back in (False, True) for D in (1, 2)}


def uncoupled(gates: Array) -> Array:
    """Return rows of four gates, i, f, g, o, from those of three, i, g, o, whose forget gate is 1 - i.

    Since 1 - sigmoid(a) = sigmoid(-a), f has the weights of i with the other sign.
    """
    i, g, o = gates.reshape(3, -1, *gates.shape[1:])
    return np.concatenate([i, -i, g, o])


def _pack(weights: LayerWeights) -> Packed:
    params = _four_gates(weights)
    bias = np.zeros(len(params.weight_hh), params.weight_hh.dtype) if params.bias is None else params.bias
    peephole, weight_hr = params.weight_ch, params.weight_hr
    return Packed(
        _packed(params.weight_ih, _FORWARD),
        _packed(params.weight_hh, _FORWARD),
        _packed(bias[:, None], _FORWARD),
        None if peephole is None else _padded_cells(peephole.reshape(3, -1)),
        None if weight_hr is None else _packed(weight_hr.T, _COLUMNS),
    )


def _pack_back(weights: LayerWeights) -> Packed:
    """Pack for the backward pass, by groups of columns; the rows of gates by panel of cells."""
    params = _four_gates(weights)
    weight_hr = params.weight_hr
    return Packed(
        _packed(params.weight_ih, _BACK),
        _packed(params.weight_hh, _BACK),
        None,
        pack(weights).peephole,
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


def _padded_cells(values: Array) -> Array:
    """Return a copy of (rows, H) with whole panels, (rows, Hp)."""
    rows, H = values.shape
    padded = np.zeros((rows, padded_width(H, values.itemsize)), values.dtype)
    padded[:, :H] = values
    return padded
