"""Parameters in the order in which the NumPy engine reads them.

Gates stand in the order o, i, f, g, with the cell state behind them: o, i, f are what takes a sigmoid; i, f lie
beside g, c, so that c_t is one product of two pairs and a sum; and on the way back i, f, g are what the gradient
of c_t reaches. Those of o, i and f are halved: sigmoid(a) = 1/2 + tanh(a/2) / 2, so one tanh serves all four.

Each gate is a plane of its own, (n, H) without gaps: NumPy's calls are fastest on long runs.
"""

from typing import NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.params import LSTMParams

__all__ = ["Ordered", "ordered", "ordered_weight_hh", "ordered_weight_ih", "torch_order"]

_ORDER = (3, 0, 1, 2)  # of o, i, f, g among i, f, g, o
_BACK = (1, 2, 3, 0)


class Ordered(NamedTuple):
    """The parameters of one layer and direction, for the way forward."""

    weight_ih: Array  # (4, I, H)
    weight_hh: Array  # (4, H, H)
    input_row: Array  # (I, 4H)  the same for a single sequence, whose planes are one row
    weight_row: Array  # (H, 4H)
    bias: Array  # (4, 1, H)


def ordered(params: LSTMParams) -> Ordered:
    """Transpose, reorder and halve."""
    H = params.weight_hh.shape[1]
    bias = np.zeros(4 * H, params.weight_hh.dtype)
    if params.bias_ih is not None and params.bias_hh is not None:
        bias = params.bias_ih + params.bias_hh
    weight_ih, weight_hh, bias = (_halved(_reordered(w)) for w in (params.weight_ih, params.weight_hh, bias))
    by_gate = (w.reshape(4, H, -1).swapaxes(1, 2).copy(order="C") for w in (weight_ih, weight_hh))
    rows = (w.T.copy(order="C") for w in (weight_ih, weight_hh))
    return Ordered(*by_gate, *rows, bias.reshape(4, 1, H))


def ordered_weight_hh(params: LSTMParams) -> Array:
    """Return W_hh for the way back, (4H, H)."""
    return _reordered(params.weight_hh)


def ordered_weight_ih(params: LSTMParams) -> Array:
    """Return W_ih for the way back, (4H, I)."""
    return _reordered(params.weight_ih)


def torch_order(gates: Array) -> Array:
    """Return gradients (4H, ...) in the order i, f, g, o."""
    blocks = gates.reshape(4, -1, *gates.shape[1:])
    return np.concatenate([blocks[k] for k in _BACK])


def _reordered(gates: Array) -> Array:
    """Return a copy of (4H, ...) in the order o, i, f, g."""
    blocks = gates.reshape(4, -1, *gates.shape[1:])
    return np.concatenate([blocks[k] for k in _ORDER])


def _halved(gates: Array) -> Array:
    gates[: len(gates) // 4 * 3] *= 0.5  # exact
    return gates
