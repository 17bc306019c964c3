"""``AttentionReadout``: attention over a support set inside the loop, r = [h; weighted sum of the set]."""

from typing import Any, ClassVar, NamedTuple

from nplstm._shapes import check_number, check_shape
from nplstm._typing import Array, Arrays
from nplstm.backends import namespace
from nplstm.core.hidden_transform import HiddenTransform, TransformGradients
from nplstm.errors import ShapeError

__all__ = ["AttentionReadout"]


class _Tape(NamedTuple):
    support: Array  # (n, S, E)
    query: Array  # (n, E)
    weights: Array  # (n, S)  the attention


class AttentionReadout(HiddenTransform):
    """Put beside h what attention reads out of a support set, as in Matching Networks' full-context embedding.

    ::

        q = h + residual                                    (the residual is optional)
        w_s = softmax over s of (scale * q . support_s)
        r = [q; sum over s of w_s support_s]

    In a call, ``context={"support": (S, E) or (B, S, E), "residual": (E,) or (B, E)}``, with E = P. The
    residual is f'(x) of Vinyals et al. (arXiv:1606.04080), equations 3 to 6, where h_k includes it; leave it out
    for a plain read-out. The first query is h_0 + residual, with h_0 zero where ``hx`` is left out.

    The layer returns h without the residual: add it to the output yourself. In the backward pass f' then has three
    gradients, which are added: of the input, of the residual, and of that sum.

    Parameters
    ----------
    scale : float
        Factor of the dot products; 1 in the paper, 1 / sqrt(E) in transformers.

    Raises
    ------
    ArgumentError
        If ``scale`` is not a finite number.
    ShapeError
        In a call, if the context's axes do not fit h, or the support set is empty.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> lstm = nplstm.LSTM(3, 3, hidden_transform=nplstm.AttentionReadout(), rng=0)
    >>> f, support = np.ones((2, 3), np.float32), np.eye(3, dtype=np.float32)  # two queries, three supports
    >>> steps = np.broadcast_to(f, (4, 2, 3)).copy()  # four steps of processing
    >>> context = {"support": support, "residual": f}
    >>> tape = lstm.record(steps, context=context)
    >>> h = tape.output[-1] + f
    >>> grad_output = np.zeros_like(tape.output)
    >>> grad_output[-1] = h  # of half the sum of squares of h
    >>> grads = tape.backward(grad_output)
    >>> grad_f = grads.input.sum(axis=0) + grads.context["residual"] + h
    >>> grads.context["support"].shape
    (3, 3)
    """

    context_ndims: ClassVar = {"support": 2, "residual": 1}
    optional_context: ClassVar = ("residual",)

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = check_number("scale", scale, finite=True)

    def __repr__(self) -> str:
        return f"AttentionReadout({'' if self.scale == 1 else self.scale})"

    def recurrent_size(self, hidden_size: int) -> int:
        """Return 2 P.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.AttentionReadout().recurrent_size(3)
        6
        """
        return 2 * hidden_size

    def forward(
        self, h: Array, state: Array | None, parameters: Arrays, context: Arrays
    ) -> tuple[Array, Array | None, Any]:
        """Return [query; read-out], (n, 2 P).

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> support = np.eye(3)[None]  # (1, S, E)
        >>> nplstm.AttentionReadout().forward(np.zeros((1, 3)), None, {}, {"support": support})[0].round(2)
        array([[0.  , 0.  , 0.  , 0.33, 0.33, 0.33]])
        """
        xp, support = namespace(h), context["support"]
        n, P = h.shape
        check_shape("context['support']", support.shape, [("B", n), ("S", None), ("P", P)])
        if support.shape[1] == 0:
            raise ShapeError(f"context['support']: expected at least one vector to attend to, got {support.shape}")
        query = h
        if "residual" in context:
            check_shape("context['residual']", context["residual"].shape, [("B", n), ("P", P)])
            query = h + context["residual"]
        scores = (support @ query[:, :, None])[:, :, 0] * self.scale
        weights = xp.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        readout = (weights[:, None, :] @ support)[:, 0]
        return xp.concatenate([query, readout], axis=1), state, _Tape(support, query, weights)

    def backward(
        self, grad_r: Array, grad_state: Array | None, tape: Any, parameters: Arrays
    ) -> TransformGradients:
        """Return the gradients of h, of the residual and of the support set.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> attention, support = nplstm.AttentionReadout(), np.eye(3)[None]
        >>> r, _, tape = attention.forward(np.zeros((1, 3)), None, {}, {"support": support})
        >>> grads = attention.backward(np.ones_like(r), None, tape, {})
        >>> grads.h.shape, grads.context["support"].shape
        ((1, 3), (1, 3, 3))
        """
        support, query, weights = tape
        P = query.shape[1]
        grad_readout = grad_r[:, P:]
        grad_weights = (support @ grad_readout[:, :, None])[:, :, 0]
        grad_scores = weights * (grad_weights - (weights * grad_weights).sum(axis=1, keepdims=True)) * self.scale
        grad_query = grad_r[:, :P] + (grad_scores[:, None, :] @ support)[:, 0]
        # weights (x) grad_readout + grad_scores (x) query, two outer products as one product
        xp = namespace(query)
        columns = xp.concatenate([weights[:, :, None], grad_scores[:, :, None]], axis=2)
        grad_support = columns @ xp.concatenate([grad_readout[:, None, :], query[:, None, :]], axis=1)
        return TransformGradients(grad_query, grad_state, {}, {"support": grad_support, "residual": grad_query})
