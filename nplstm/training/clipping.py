"""Gradient clipping by norm and by value, as ``torch.nn.utils``; on any mapping of name to array."""

import math
from typing import Any

from nplstm._shapes import check_mapping, check_number
from nplstm._typing import Array, Arrays
from nplstm.backends import backend_of

__all__ = ["clip_grad_norm", "clip_grad_value"]


def clip_grad_norm(grads: Arrays, max_norm: float, norm_type: float = 2.0) -> tuple[dict[str, Array], float]:
    """Scale all gradients by one factor, so that their common norm is at most ``max_norm``.

    Parameters
    ----------
    grads : mapping of name to Array
        Not modified.
    max_norm : float >= 0
        Bound on the norm of all gradients taken as one vector.
    norm_type : float > 0
        p of the p-norm; ``math.inf`` for the largest magnitude.

    Returns
    -------
    clipped : dict of name to Array
        The gradients times ``min(1, max_norm / (norm + 1e-6))``, torch's factor.
    norm : float
        Before clipping. If it is infinite or NaN, the clipped gradients are zeros and NaNs, as in torch: check
        it before using them.

    Raises
    ------
    ArgumentError
        For a negative ``max_norm`` or a ``norm_type`` that is not positive.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> clipped, norm = nplstm.clip_grad_norm({"w": np.array([3.0]), "b": np.array([4.0])}, max_norm=1.0)
    >>> norm, float(clipped["w"][0].round(5))
    (5.0, 0.6)
    """
    check_mapping("grads", grads)
    max_norm = check_number("max_norm", max_norm, minimum=0.0)
    norm_type = check_number("norm_type", norm_type, above=0.0)
    total = _norm(grads, norm_type)
    factor = max_norm / (total + 1e-6)
    if factor >= 1:
        return dict(grads), total
    return {name: backend_of(grad).asarray(grad * factor) for name, grad in grads.items()}, total


def _norm(grads: Arrays, norm_type: float) -> float:
    """Return the p-norm of all gradients together; in float64, so that squares of float32 do not overflow."""
    total: Any = 0.0  # stays on the device until the end: one wait for a GPU, not one for each gradient
    for name, grad in grads.items():
        xp = backend_of(grad, name).xp
        magnitudes = xp.abs(grad).astype(xp.float64)
        if grad.size == 0:
            continue
        if math.isinf(norm_type):
            total = xp.maximum(magnitudes.max(), total)
        else:
            total = total + (magnitudes**norm_type).sum()
    return float(total) if math.isinf(norm_type) else float(total) ** (1 / norm_type)


def clip_grad_value(grads: Arrays, clip_value: float) -> dict[str, Array]:
    """Limit each element of each gradient to [-clip_value, clip_value].

    Parameters
    ----------
    grads : mapping of name to Array
        Not modified.
    clip_value : float >= 0

    Raises
    ------
    ArgumentError
        For a negative ``clip_value``.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> nplstm.clip_grad_value({"w": np.array([-3.0, 0.5])}, 1.0)
    {'w': array([-1. ,  0.5])}
    """
    check_mapping("grads", grads)
    clip_value = check_number("clip_value", clip_value, minimum=0.0)
    clipped: dict[str, Array] = {}
    for name, grad in grads.items():
        backend = backend_of(grad, name)
        clipped[name] = backend.asarray(backend.xp.clip(grad, -clip_value, clip_value))
    return clipped
