"""``HiddenTransform``: base class of transforms of h inside the time loop, and the check of a user's own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, cast

from nplstm._typing import Array, Arrays
from nplstm.errors import ArgumentError

__all__ = ["HiddenTransform", "TransformGradients", "check_transform"]


class TransformGradients(NamedTuple):
    """The result of ``HiddenTransform.backward``; the dicts may leave out arrays that get no gradient.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> nplstm.TransformGradients(np.zeros((1, 2)), parameters={"weight": np.ones(3)})
    TransformGradients(h=array([[0., 0.]]), state=None, parameters={'weight': array([1., 1., 1.])}, context={})
    """

    h: Array  # (n, P)
    state: Array | None = None  # (n, S)
    parameters: Arrays = {}  # noqa: RUF012  by the transform's own names; sums over the n sequences
    context: Arrays = {}  # noqa: RUF012  each (n, ...)


class HiddenTransform(ABC):
    """Base class of transforms inside the time loop, from h (B, P) to the recurrent input r (B, R).

    ::

        r_{t-1}, s_t = transform(h_{t-1}, s_{t-1}, context_t)       a_t = W_ih x_t + W_hh r_{t-1} + b

    It is applied to the h that a step reads, so h_0 is transformed and the last h of a sequence is not.
    ``weight_hh`` is (4H, R). Any object with these methods and attributes can be used; a subclass inherits the
    defaults. Without ``backward`` a layer can only run inference: ``record`` raises.

    Attributes
    ----------
    state_size : int
        S, the width of the transform's own state; 0 for none. It starts from zeros, or from the third member of
        ``hx``, and is returned as the third member of the final state.
    context_ndims : mapping of name to int
        Other arrays that the transform reads, given in each call as ``context={name: array}``, with the number of
        axes for one sequence at one step. In a call an array may have only these axes (the same for all
        sequences), or (B, ...) (one for each sequence), or (T, B, ...) (one for each step and sequence, in the
        layout of the input).
    optional_context : names
        Context that a call may leave out.

    Examples
    --------
    r = [h; h]: the recurrent input is 6 wide for an h that is 3 wide.

    >>> import numpy as np, nplstm
    >>> class Twice(nplstm.HiddenTransform):
    ...     def forward(self, h, state, parameters, context):
    ...         return np.concatenate([h, h], axis=1), state, None
    ...
    ...     def backward(self, grad_r, grad_state, tape, parameters):
    ...         H = grad_r.shape[1] // 2
    ...         return nplstm.TransformGradients(grad_r[:, :H] + grad_r[:, H:])
    >>> lstm = nplstm.LSTM(2, 3, recurrent_size=6, hidden_transform=Twice(), rng=0)
    >>> lstm.parameters["weight_hh_l0"].shape, lstm(np.ones((5, 1, 2), np.float32))[0].shape
    ((12, 6), (5, 1, 3))
    """

    state_size: int = 0
    context_ndims: ClassVar[Mapping[str, int]] = {}
    optional_context: ClassVar[tuple[str, ...]] = ()

    def recurrent_size(self, hidden_size: int) -> int | None:
        """Return R for an h of width ``hidden_size``; None if the layer's ``recurrent_size=`` has to give it.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.AttentionReadout().recurrent_size(8)
        16
        """
        return None

    def parameter_shapes(self, hidden_size: int, recurrent_size: int) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the transform's parameters, in the order in which they are drawn.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.Projection(3).parameter_shapes(hidden_size=8, recurrent_size=3)
        {'weight': (3, 8)}
        """
        return {}

    @abstractmethod
    def forward(
        self, h: Array, state: Array | None, parameters: Arrays, context: Arrays
    ) -> tuple[Array, Array | None, Any]:
        """Transform h of n sequences at one step. The arguments must not be modified.

        Parameters
        ----------
        h : Array, shape (n, P)
        state : Array, shape (n, S), or None
        parameters : mapping of name to Array
        context : mapping of name to Array, each (n, ...)
            One row for each of the n sequences, at this step.

        Returns
        -------
        r : Array, shape (n, R)
        state : Array, shape (n, S), or None
            The next state.
        tape
            Anything; ``backward`` gets it.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> concatenation = nplstm.ContextConcatenation(1)
        >>> concatenation.forward(np.ones((2, 3)), None, {}, {"context": np.zeros((2, 1))})[0].shape
        (2, 4)
        """

    def backward(
        self, grad_r: Array, grad_state: Array | None, tape: Any, parameters: Arrays
    ) -> TransformGradients:
        """Return the gradients of the arguments of ``forward``.

        Parameters
        ----------
        grad_r : Array, shape (n, R)
            d loss / d r.
        grad_state : Array, shape (n, S), or None
            d loss / d the next state.
        tape
            From ``forward``.
        parameters : mapping of name to Array
            As in ``forward``.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> concatenation = nplstm.ContextConcatenation(1)
        >>> grads = concatenation.backward(np.ones((2, 4)), None, None, {})
        >>> grads.h.shape, grads.context["context"].shape
        ((2, 3), (2, 1))
        """
        raise NotImplementedError


def check_transform(transform: Any) -> None:
    """Raise unless the object has the members of ``HiddenTransform``; those with defaults may be missing."""
    name = type(transform).__name__
    if isinstance(transform, type):
        raise ArgumentError(f"hidden_transform: expected an object, got the class {transform.__qualname__}")
    for member, needed in (
        ("forward", True),
        ("backward", False),
        ("recurrent_size", False),
        ("parameter_shapes", False),
    ):
        found = getattr(transform, member, None)
        if (needed or found is not None) and not callable(found):
            raise ArgumentError(f"hidden_transform: expected a method {member}(), and {name} has none")
    size = getattr(transform, "state_size", 0)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ArgumentError(f"hidden_transform: expected {name}.state_size to be an integer >= 0, got {size!r}")
    axes: Any = getattr(transform, "context_ndims", {})
    counts = cast("Mapping[Any, Any]", axes)
    if not isinstance(axes, Mapping) or not all(isinstance(k, str) and isinstance(counts[k], int) for k in counts):
        raise ArgumentError(
            f"hidden_transform: expected {name}.context_ndims to map names to numbers of axes, got {axes!r}"
        )
    optional: Any = getattr(transform, "optional_context", ())
    if isinstance(optional, str) or not all(member in counts for member in optional):
        raise ArgumentError(
            f"hidden_transform: expected {name}.optional_context to name some of {list(counts)}, got {optional!r}"
        )


def has_backward(transform: Any) -> bool:
    """Tell whether the transform defines ``backward``."""
    found = getattr(transform, "backward", None)
    return found is not None and getattr(found, "__func__", None) is not HiddenTransform.backward
