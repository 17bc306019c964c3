"""Layer normalisation over the last axis (Ba et al., arXiv:1607.06450): ``y = (x - mean) / std * gain``.

A bias, where there is one, is added by the caller.
"""

from typing import NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace


class LayerNormTape(NamedTuple):
    """Values that the backward pass needs."""

    normed: Array  # (B, K)  (x - mean) / std
    scale: Array  # (B, 1)  1 / std


def layer_norm_forward(x: Array, gain: Array, eps: float) -> tuple[Array, LayerNormTape]:
    """Normalise each row of ``x`` (B, K); ``gain`` (K,). std = sqrt(variance + eps), as in torch.

    Means are products with a vector of 1 / K: faster than sums along an axis.
    """
    xp, width = namespace(x), x.shape[1]
    share = xp.full((width, 1), 1 / width, dtype=x.dtype)
    normed = x - x @ share
    scale = 1 / xp.sqrt((normed * normed) @ share + eps)
    normed *= scale
    return normed * gain, LayerNormTape(normed, scale)


def layer_norm_backward(grad_y: Array, gain: Array, tape: LayerNormTape) -> tuple[Array, Array]:
    """Return d loss / d x, and d loss / d gain summed over the rows.

    ::

        grad_x = (grad_n - mean(grad_n) - n * mean(grad_n * n)) / std      with n normed, grad_n = grad_y * gain
    """
    normed = tape.normed
    share = gain[:, None] * (1 / len(gain))
    along = grad_y * normed
    grad_gain = along.sum(axis=0)
    grad_x = grad_y * gain
    grad_x -= normed * (along @ share)
    grad_x -= grad_y @ share
    grad_x *= tape.scale
    return grad_x, grad_gain
