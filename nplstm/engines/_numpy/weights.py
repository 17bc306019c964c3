"""Parameters in the order in which the NumPy engine reads them, of S lanes or layers together.

Each function takes their parameters; ``Recurrence.prepared`` keeps what it returns.

Gates stand in the order o, i, f, g, with the cell state behind them: o, i, f are what takes a sigmoid; i, f lie
beside g, c, so that c_t is one product of two pairs and a sum; and on the way back i, f, g are what the gradient
of c_t reaches. On the way forward those of o, i and f are negated, which is exact: sigmoid(a) = 1 / (1 + exp(-a)).

Each gate is a plane of its own, without gaps: NumPy's calls are fastest on long runs. A single sequence's planes
are one row, whose product is faster with all gates at once.
"""

from collections.abc import Iterable

import numpy as np

from nplstm._typing import Array
from nplstm.core.params import LSTMParams
from nplstm.core.step import Recurrence
from nplstm.engines._numpy.memory import aligned_copy

__all__ = [
    "back_hh",
    "back_ih",
    "bias_planes",
    "count_weights",
    "hh_planes",
    "hh_rows",
    "ih_planes",
    "ih_rows",
    "joint_planes",
    "joint_rows",
    "torch_order",
]

_ORDER = (3, 0, 1, 2)  # of o, i, f, g among i, f, g, o
_BACK = (1, 2, 3, 0)


def count_weights(recurrences: Iterable[Recurrence]) -> int:
    """Return how many multiplications a step of one sequence takes in all of them together."""
    return sum(r.params.weight_ih.size + r.params.weight_hh.size for r in recurrences)


def ih_planes(*params: LSTMParams) -> Array:
    """Return W_ih, (4, S, I, H)."""
    return _stacked([_planes(p.weight_ih) for p in params], axis=1)


def hh_planes(*params: LSTMParams) -> Array:
    """Return W_hh, (4, S, H, H)."""
    return _stacked([_planes(p.weight_hh) for p in params], axis=1)


def hh_rows(*params: LSTMParams) -> Array:
    """Return W_hh for one sequence, (S, H, 4H)."""
    return _stacked([_negated(p.weight_hh).T for p in params])


def ih_rows(*params: LSTMParams) -> Array:
    """Return W_ih for one sequence, (S, I, 4H)."""
    return _stacked([_negated(p.weight_ih).T for p in params])


def joint_planes(params: LSTMParams) -> Array:
    """Return W_ih above W_hh above the biases, (4, I + H + 1, H)."""
    parts = ih_planes(params), hh_planes(params), bias_planes(params)
    return aligned_copy(np.concatenate([part[:, 0] for part in parts], axis=1))


def joint_rows(params: LSTMParams) -> Array:
    """Return W_ih above W_hh above the biases for one sequence, (I + H + 1, 4H)."""
    bias = bias_planes(params).reshape(1, -1)
    return aligned_copy(np.concatenate([ih_rows(params)[0], hh_rows(params)[0], bias]))


def bias_planes(*params: LSTMParams) -> Array:
    """Return the sums of the biases, (4, S, 1, H); zeros where there are none."""
    biases = [np.zeros(len(p.weight_hh), p.weight_hh.dtype) if p.bias is None else p.bias for p in params]
    return np.stack([_negated(bias).reshape(4, 1, -1) for bias in biases], axis=1)


def back_hh(*params: LSTMParams) -> Array:
    """Return W_hh for the way back, (S, 4H, H)."""
    return np.stack([_reordered(p.weight_hh) for p in params])


def back_ih(params: LSTMParams) -> Array:
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


def _negated(gates: Array) -> Array:
    """Return a copy in the order o, i, f, g, the first three negated."""
    gates = _reordered(gates)
    sigmoids = gates[: len(gates) // 4 * 3]
    np.negative(sigmoids, out=sigmoids)
    return gates


def _stacked(arrays: list[Array], axis: int = 0) -> Array:
    """Put them together, the last axis without gaps."""
    return aligned_copy(np.stack(arrays, axis))


def _planes(weight: Array) -> Array:
    """Return (4H, K) as (4, K, H)."""
    gates = _negated(weight)
    return gates.reshape(4, -1, gates.shape[1]).swapaxes(1, 2)
