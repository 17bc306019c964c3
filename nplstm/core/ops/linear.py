"""The affine map ``y = x @ weight.T + bias`` of rows: W_ih x, projections, output layers."""

from typing import NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace


class LinearGradients(NamedTuple):
    """Gradients of ``linear_forward``."""

    x: Array
    weight: Array
    bias: Array | None


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """``y`` (N, M) from ``x`` (N, K), ``weight`` (M, K) and ``bias`` (M,)."""
    y = namespace(x).matmul(x, weight.T)
    if bias is not None:
        y += bias
    return y


def linear_backward(grad_y: Array, x: Array, weight: Array, *, bias: bool) -> LinearGradients:
    """Gradients of the input, the weight and, where there is one, the bias: sums over the N rows."""
    return LinearGradients(
        x=grad_y @ weight,
        weight=grad_y.T @ x,
        bias=grad_y.sum(axis=0) if bias else None,
    )
