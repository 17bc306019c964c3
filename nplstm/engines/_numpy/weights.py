"""Weights in the order in which the NumPy engine reads them, of S directions or layers together.

Each function takes the ``LayerWeights`` of these; ``LayerWeights.prepared`` caches its result.

The order of the gates is o, i, f, g, followed by the cell state. So the gates with a sigmoid (o, i, f) are
contiguous; so are i, f and g, c, which makes c_t one product of two pairs and a sum; and so are i, f, g, which
the gradient of c_t reaches. In the forward pass the rows of o, i and f are negated, because
sigmoid(a) = 1 / (1 + exp(-a)).

Each gate is contiguous, because NumPy's calls are fastest on long contiguous runs. For a single sequence all gates
are in one row, whose product is one call.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.engines._numpy.memory import aligned_copy
from nplstm.engines.blas import limited_blas

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
    "limited",
    "torch_order",
]

_ORDER = (3, 0, 1, 2)  # places of o, i, f, g in i, f, g, o
_BACK = (1, 2, 3, 0)


def count_weights(weights: Iterable[LayerWeights]) -> int:
    """Return the number of multiplications that one step of one sequence takes in all of these."""
    return sum([w.size for w in weights])


def limited(weights: Iterable[LayerWeights], steps: PackedSteps) -> AbstractContextManager[None]:
    """Return a context manager that limits BLAS's threads for directions or layers that run together."""
    return limited_blas(steps.total, steps.batch, count_weights(weights))


def ih_planes(*weights: LayerWeights) -> Array:
    """Return W_ih, (4, S, I, H)."""
    return _stacked([_planes(w.params.weight_ih) for w in weights], axis=1)


def hh_planes(*weights: LayerWeights) -> Array:
    """Return W_hh, (4, S, H, H)."""
    return _stacked([_planes(w.params.weight_hh) for w in weights], axis=1)


def hh_rows(*weights: LayerWeights) -> Array:
    """Return W_hh for one sequence, (S, H, 4H)."""
    return _stacked([_negated(w.params.weight_hh).T for w in weights])


def ih_rows(*weights: LayerWeights) -> Array:
    """Return W_ih for one sequence, (S, I, 4H)."""
    return _stacked([_negated(w.params.weight_ih).T for w in weights])


def joint_planes(weights: LayerWeights) -> Array:
    """Return W_ih above W_hh above the biases, (4, I + H + 1, H)."""
    parts = ih_planes(weights), hh_planes(weights), bias_planes(weights)
    return aligned_copy(np.concatenate([part[:, 0] for part in parts], axis=1))


def joint_rows(weights: LayerWeights) -> Array:
    """Return W_ih above W_hh above the biases for one sequence, (I + H + 1, 4H)."""
    bias = bias_planes(weights).reshape(1, -1)
    return aligned_copy(np.concatenate([ih_rows(weights)[0], hh_rows(weights)[0], bias]))


def bias_planes(*weights: LayerWeights) -> Array:
    """Return the sums of the biases, (4, S, 1, H); zeros where there are none."""
    biases = [
        np.zeros(len(w.params.weight_hh), w.params.weight_hh.dtype) if w.bias is None else w.bias for w in weights
    ]
    return np.stack([_negated(bias).reshape(4, 1, -1) for bias in biases], axis=1)


def back_hh(*weights: LayerWeights) -> Array:
    """Return W_hh for the backward pass, (S, 4H, H)."""
    return np.stack([_reordered(w.params.weight_hh) for w in weights])


def back_ih(weights: LayerWeights) -> Array:
    """Return W_ih for the backward pass, (4H, I)."""
    return _reordered(weights.params.weight_ih)


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
    """Stack arrays into a C-contiguous one."""
    return aligned_copy(np.stack(arrays, axis))


def _planes(weight: Array) -> Array:
    """Return (4H, K) as (4, K, H)."""
    gates = _negated(weight)
    return gates.reshape(4, -1, gates.shape[1]).swapaxes(1, 2)
