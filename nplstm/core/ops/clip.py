"""Clipping to [-bound, bound]. Where a value is clipped, its gradient is zero."""

from nplstm._typing import Array
from nplstm.backends import namespace


def clip_forward(x: Array, bound: float) -> Array:
    """Clip ``x`` in place; return a boolean array, True where ``x`` was inside (-bound, bound)."""
    xp = namespace(x)
    inside = xp.abs(x) < bound
    xp.clip(x, -bound, bound, out=x)
    return inside


def clip_backward(grad_y: Array, inside: Array) -> Array:
    """``d loss / d x``."""
    return grad_y * inside
