"""A linear map between steps: r = W h."""

from typing import Any

from nplstm._shapes import check_size
from nplstm._typing import Array, Arrays
from nplstm.core.hidden_transform import HiddenTransform, TransformGradients
from nplstm.core.ops.linear import linear_backward, linear_forward

__all__ = ["Projection"]


class Projection(HiddenTransform):
    """Project h (B, H) to r = W h (B, R), for the recurrence alone.

    ``proj_size`` is the same map, with the projected h also as the layer's output and state (torch, Sak et al.
    2014); here these stay H wide. Parameter ``transform_weight_l{k}`` (R, H).

    Parameters
    ----------
    size : int
        R.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> lstm = nplstm.LSTM(2, 8, hidden_transform=nplstm.Projection(3), rng=0)
    >>> lstm.parameters["weight_hh_l0"].shape, lstm.parameters["transform_weight_l0"].shape
    ((32, 3), (3, 8))
    """

    def __init__(self, size: int) -> None:
        self.size = check_size("size", size)

    def __repr__(self) -> str:
        return f"Projection({self.size})"

    def recurrent_size(self, hidden_size: int) -> int:
        """R."""
        return self.size

    def parameter_shapes(self, hidden_size: int, recurrent_size: int) -> dict[str, tuple[int, ...]]:
        """One matrix."""
        return {"weight": (self.size, hidden_size)}

    def forward(
        self, h: Array, state: Array | None, parameters: Arrays, context: Arrays
    ) -> tuple[Array, Array | None, Any]:
        """Take the product."""
        return linear_forward(h, parameters["weight"]), state, h

    def backward(
        self, grad_r: Array, grad_state: Array | None, tape: Any, parameters: Arrays
    ) -> TransformGradients:
        """Gradients of h and W."""
        grads = linear_backward(grad_r, tape, parameters["weight"], bias=False)
        return TransformGradients(grads.x, grad_state, {"weight": grads.weight})
