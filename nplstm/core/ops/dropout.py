"""Inverted dropout: an element is zeroed with probability p, the others are scaled by 1 / (1 - p)."""

from typing import Any

from nplstm._typing import Array, DType
from nplstm.backends import Backend


def dropout_mask(backend: Backend, rng: Any, shape: tuple[int, ...], dtype: DType, p: float) -> Array:
    """Draw a mask of zeros and ``1 / (1 - p)``; with p = 1 all is zero, as in torch."""
    kept = backend.random(rng, shape, dtype) >= p
    return kept.astype(dtype) * (1 / (1 - p) if p < 1 else 0.0)


def dropout_forward(x: Array, mask: Array) -> Array:
    """``y = x * mask``."""
    return x * mask


def dropout_backward(grad_y: Array, mask: Array) -> Array:
    """``d loss / d x``, with the mask that the forward pass drew."""
    return grad_y * mask
