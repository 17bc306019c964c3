"""``Projection``: a linear map of h inside the loop, r = W h."""

from typing import Any

from nplstm._shapes import check_size
from nplstm._typing import Array, Arrays
from nplstm.core.hidden_transform import HiddenTransform, TransformGradients
from nplstm.core.ops.linear import linear_backward, linear_forward

__all__ = ["Projection"]


class Projection(HiddenTransform):
    """Project h (B, H) to the recurrent input r = W h (B, R).

    Output and state stay H wide. With ``proj_size`` (torch, Sak et al. 2014) they are the projected h instead.
    Parameter ``transform_weight_l{k}`` (R, H).

    Parameters
    ----------
    size : int
        R, the width of r.

    Raises
    ------
    ArgumentError
        If ``size`` is not a positive integer.

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
        """Return R.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.Projection(3).recurrent_size(8)
        3
        """
        return self.size

    def parameter_shapes(self, hidden_size: int, recurrent_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the one parameter, W (R, H).

        Examples
        --------
        >>> import nplstm
        >>> nplstm.Projection(3).parameter_shapes(8, 3)
        {'weight': (3, 8)}
        """
        return {"weight": (self.size, hidden_size)}

    def forward(
        self, h: Array, state: Array | None, parameters: Arrays, context: Arrays
    ) -> tuple[Array, Array | None, Any]:
        """Return W h, (n, R).

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> nplstm.Projection(1).forward(np.array([[1.0, 2.0]]), None, {"weight": np.ones((1, 2))}, {})[0]
        array([[3.]])
        """
        return linear_forward(h, parameters["weight"]), state, h

    def backward(
        self, grad_r: Array, grad_state: Array | None, tape: Any, parameters: Arrays
    ) -> TransformGradients:
        """Return the gradients of h and of W.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> projection, parameters = nplstm.Projection(1), {"weight": np.ones((1, 2))}
        >>> r, _, tape = projection.forward(np.array([[1.0, 2.0]]), None, parameters, {})
        >>> projection.backward(np.ones_like(r), None, tape, parameters).parameters["weight"]
        array([[1., 2.]])
        """
        grads = linear_backward(grad_r, tape, parameters["weight"], bias=False)
        return TransformGradients(grads.x, grad_state, {"weight": grads.weight})
