"""Zoneout (Krueger et al., arXiv:1606.01305): an element keeps its old value with probability z.

::

    y = keep * old + (1 - keep) * new

In training ``keep`` has zeros and ones, drawn at each step; in inference it is their mean, the number z.
"""

from nplstm._typing import Array


def zoneout_forward(old: Array, new: Array, keep: Array | float) -> Array:
    """Blend the old and the new state."""
    return keep * old + (1 - keep) * new


def zoneout_backward(grad_y: Array, keep: Array | float) -> tuple[Array, Array]:
    """``d loss / d old`` and ``d loss / d new``."""
    return keep * grad_y, (1 - keep) * grad_y
