"""Losses with their gradients: each returns ``(loss, grad)`` in one call.

``loss`` is a Python float, ``grad`` is d loss / d (the first argument). Reductions are torch's "mean" and
"sum"; without a reduction there is no single gradient, so "none" raises.
"""

from nplstm._shapes import check_number, check_shape, check_size
from nplstm._typing import Array
from nplstm.backends import Backend, backend_of, check_arrays
from nplstm.errors import ArgumentError, BackendError, DTypeError, ShapeError

__all__ = ["cross_entropy", "huber_loss", "mse_loss"]


def _scale(reduction: str, count: int) -> float:
    """Return what each element's loss is multiplied with; the mean of no elements is NaN, as in torch."""
    if reduction == "sum":
        return 1.0
    if reduction == "mean":
        return 1.0 / count if count else float("nan")
    raise ArgumentError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")


def cross_entropy(
    logits: Array, target: Array, *, reduction: str = "mean", ignore_index: int = -100
) -> tuple[float, Array]:
    """Softmax cross entropy between logits and classes.

    ::

        loss_n = log(sum_c exp(logits_nc)) - logits_n,target_n          (nats)
        d loss_n / d logits_nc = softmax(logits_n)_c - [c = target_n]

    Parameters
    ----------
    logits : Array, shape (..., C)
        Unnormalised log probabilities of C classes. The classes are the last axis, at any rank.
    target : Array of integers, shape (...)
        Classes in [0, C), or ``ignore_index``.
    reduction : {"mean", "sum"}
        Over all targets that are not ignored.
    ignore_index : int
        Targets of this value add nothing to loss and gradient: for padding.

    Returns
    -------
    loss : float
        In nats; NaN for the mean of no target at all.
    grad_logits : Array, shape (..., C)

    Raises
    ------
    ShapeError, DTypeError, BackendError
        If the target does not match the logits, or is not integers.
    ArgumentError
        If a target is outside [0, C), or for an unknown reduction.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> loss, grad = nplstm.cross_entropy(np.zeros((2, 4)), np.array([0, 3]))
    >>> round(loss, 6)  # log(4)
    1.386294
    >>> grad[0]
    array([-0.375,  0.125,  0.125,  0.125])
    """
    backend = backend_of(logits, "logits")
    xp = backend.xp
    check_arrays("logits", backend, logits.dtype, logits=logits)
    if logits.ndim == 0 or logits.shape[-1] == 0 or logits.dtype.kind != "f":
        raise ShapeError(f"logits: expected floats of shape (..., C >= 1), got {logits.dtype} {logits.shape}")
    ignore_index = check_size("ignore_index", ignore_index, minimum=-(2**63))
    if backend_of(target, "target") is not backend:
        raise BackendError(f"target: expected an array of {backend.name!r} like the logits")
    if target.dtype.kind not in "iu":
        raise DTypeError(f"target: expected integers, got {target.dtype}")
    check_shape("target", target.shape, [(str(n), n) for n in logits.shape[:-1]])
    C = logits.shape[-1]
    rows = logits.reshape(target.size, C)
    classes = target.reshape(target.size).astype(xp.int64)
    counted = classes != ignore_index
    if bool((counted & ((classes < 0) | (classes >= C))).any()):
        raise ArgumentError(
            f"target: expected classes in [0, C={C}), got {int(classes.min())} to {int(classes.max())}"
        )
    scale = _scale(reduction, int(counted.sum()))
    classes = xp.where(counted, classes, 0)
    at = (xp.arange(len(classes)), classes)
    shifted = rows - rows.max(axis=1, keepdims=True)
    exponentials = xp.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    losses = xp.where(counted, xp.log(sums[:, 0]) - shifted[at], 0)
    grad = exponentials / sums
    grad[at] -= 1
    grad = xp.where(counted[:, None], grad * scale, 0)
    return float(losses.sum(dtype=xp.float64)) * scale, grad.astype(logits.dtype).reshape(logits.shape)


def _difference(input: Array, target: Array) -> tuple[Backend, Array]:
    backend = backend_of(input, "input")
    check_arrays("input", backend, input.dtype, input=input, target=target)
    if input.dtype.kind != "f":
        raise DTypeError(f"input: expected floats, got {input.dtype}")
    if input.shape != target.shape:
        raise ShapeError(f"target: expected shape {input.shape} like the input, got {target.shape}")
    # asarray: NumPy's arithmetic makes scalars of arrays without axes
    return backend, backend.asarray(input - target)


def mse_loss(input: Array, target: Array, *, reduction: str = "mean") -> tuple[float, Array]:
    """Mean squared error: ``(input - target)**2``, averaged or added up over all elements.

    Parameters
    ----------
    input, target : Array, of one shape
        The prediction, and what it should be.
    reduction : {"mean", "sum"}

    Returns
    -------
    loss : float
        In the square of the input's units.
    grad_input : Array, shaped like ``input``
        ``2 * (input - target)``, divided by the number of elements for "mean".

    Raises
    ------
    ShapeError, DTypeError, BackendError, ArgumentError
        If target and input do not match, or for an unknown reduction.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> nplstm.mse_loss(np.array([1.0, 5.0]), np.array([1.0, 3.0]))
    (2.0, array([0., 2.]))
    """
    backend, difference = _difference(input, target)
    scale = _scale(reduction, difference.size)
    loss = float((difference * difference).sum(dtype=backend.xp.float64)) * scale
    return loss, backend.asarray(difference * (2 * scale))


def huber_loss(input: Array, target: Array, *, reduction: str = "mean", delta: float = 1.0) -> tuple[float, Array]:
    """Huber's loss: quadratic near the target, linear beyond ``delta`` (Huber, 1964).

    ::

        loss = d**2 / 2                      where |d| <= delta,  d = input - target
               delta * (|d| - delta / 2)     elsewhere

    Parameters
    ----------
    input, target : Array, of one shape
        The prediction, and what it should be.
    reduction : {"mean", "sum"}
    delta : float > 0
        Where quadratic turns to linear, in the input's units.

    Returns
    -------
    loss : float
    grad_input : Array, shaped like ``input``
        ``d`` limited to [-delta, delta], divided by the number of elements for "mean".

    Raises
    ------
    ShapeError, DTypeError, BackendError, ArgumentError
        If target and input do not match, for delta <= 0 or an unknown reduction.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> nplstm.huber_loss(np.array([0.5, 4.0]), np.array([0.0, 0.0]), reduction="sum")
    (3.625, array([0.5, 1. ]))
    """
    delta = check_number("delta", delta, above=0.0)
    backend, difference = _difference(input, target)
    xp = backend.xp
    scale = _scale(reduction, difference.size)
    limited = xp.clip(difference, -delta, delta)
    losses = limited * (difference - 0.5 * limited)  # both branches: limited is d, or +-delta
    return float(losses.sum(dtype=xp.float64)) * scale, backend.asarray(limited * scale)
