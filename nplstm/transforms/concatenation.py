"""``ContextConcatenation``: a context vector beside h inside the loop, r = [h; context]."""

from typing import Any, ClassVar

from nplstm._shapes import check_shape, check_size
from nplstm._typing import Array, Arrays
from nplstm.backends import namespace
from nplstm.core.hidden_transform import HiddenTransform, TransformGradients

__all__ = ["ContextConcatenation"]


class ContextConcatenation(HiddenTransform):
    """Put a context vector beside h: r_{t-1} = [h_{t-1}; context_t].

    In a call, ``context={"context": array}``, or the array alone: (C,) for all sequences, (B, C) for each
    sequence, or (T, B, C) for each step and sequence.

    Parameters
    ----------
    size : int
        C, the context's width; R = P + C.

    Raises
    ------
    ArgumentError
        If ``size`` is not a positive integer.
    ShapeError
        In a call, if the context's axes do not fit.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> lstm = nplstm.LSTM(2, 3, hidden_transform=nplstm.ContextConcatenation(4), rng=0)
    >>> x, context = np.ones((5, 1, 2), np.float32), np.ones((1, 4), np.float32)
    >>> tape = lstm.record(x, context=context)
    >>> tape.backward(np.ones_like(tape.output)).context["context"].shape
    (1, 4)
    """

    context_ndims: ClassVar = {"context": 1}

    def __init__(self, size: int) -> None:
        self.size = check_size("size", size)

    def __repr__(self) -> str:
        return f"ContextConcatenation({self.size})"

    def recurrent_size(self, hidden_size: int) -> int:
        """Return P + C.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.ContextConcatenation(4).recurrent_size(3)
        7
        """
        return hidden_size + self.size

    def forward(
        self, h: Array, state: Array | None, parameters: Arrays, context: Arrays
    ) -> tuple[Array, Array | None, Any]:
        """Return [h; context], (n, P + C).

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> transform = nplstm.ContextConcatenation(1)
        >>> transform.forward(np.ones((1, 2)), None, {}, {"context": np.zeros((1, 1))})[0]
        array([[1., 1., 0.]])
        """
        vector = context["context"]
        check_shape("context['context']", vector.shape, [("B", len(h)), ("C", self.size)])
        return namespace(h).concatenate([h, vector], axis=1), state, None

    def backward(
        self, grad_r: Array, grad_state: Array | None, tape: Any, parameters: Arrays
    ) -> TransformGradients:
        """Return the gradients of h and of the context: the two parts of ``grad_r``.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> nplstm.ContextConcatenation(1).backward(np.array([[1.0, 2.0, 3.0]]), None, None, {}).h
        array([[1., 2.]])
        """
        width = grad_r.shape[1] - self.size
        return TransformGradients(grad_r[:, :width], grad_state, {}, {"context": grad_r[:, width:]})
