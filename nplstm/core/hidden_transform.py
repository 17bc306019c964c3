"""What a hidden transform has to offer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, cast

from nplstm._typing import Array, Arrays
from nplstm.errors import ArgumentError

__all__ = ["HiddenTransform", "TransformGradients", "check_transform"]


class TransformGradients(NamedTuple):
    """What ``HiddenTransform.backward`` returns; dicts may leave out what gets no gradient.

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
    """A transform h (B, P) to r (B, R) inside the time loop: the recurrent input is R wide, whatever h is.

    ::

        r_{t-1}, s_t = transform(h_{t-1}, s_{t-1}, context_t)       a_t = W_ih x_t + W_hh r_{t-1} + b

    It acts on the state that a step reads, h_0 included, so what a sequence's last h would become is never
    computed. ``weight_hh`` is (4H, R). Any object with these members will do; deriving from this class saves
    writing those that have defaults. One without ``backward`` is good for inference, and ``record`` says so.

    Attributes
    ----------
    state_size : int
        S, the width of a state of the transform's own; 0 for none. It starts from zeros, or from ``hx``'s third
        member, and comes back as the third member of the final state.
    context_ndims : mapping of name to int
        What else the transform reads, given in each call as ``context={name: array}``, and how many axes that
        has for one sequence at one step. In a call an array may have just these (shared by all), or (B, ...)
        (one for each sequence), or (T, B, ...) (one for each step, too; laid out like the input).
    optional_context : names
        Those of them that a call may leave out.

    Examples
    --------
    h beside itself, so that a 3 wide h feeds a 6 wide recurrent input:

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
        """Return R for an h of that width; None where it is for ``recurrent_size=`` to say."""
        return None

    def parameter_shapes(self, hidden_size: int, recurrent_size: int) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the parameters, in the order in which they are drawn."""
        return {}

    @abstractmethod
    def forward(
        self, h: Array, state: Array | None, parameters: Arrays, context: Arrays
    ) -> tuple[Array, Array | None, Any]:
        """Return r (n, R), the next state and a tape, of n of the sequences.

        Parameters
        ----------
        h : Array, shape (n, P)
            Not to be modified, like the other arguments.
        state : Array, shape (n, S), or None
        parameters : mapping of name to Array
        context : mapping of name to Array, each (n, ...)
            Each of the n sequences' own, at this step.
        """

    def backward(
        self, grad_r: Array, grad_state: Array | None, tape: Any, parameters: Arrays
    ) -> TransformGradients:
        """Return the gradients of what ``forward`` read, given those of r and of the next state, and its tape."""
        raise NotImplementedError


def check_transform(transform: Any) -> None:
    """Raise unless the object follows the protocol; members that have defaults may be missing."""
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
    """Tell whether there is a backward of its own."""
    found = getattr(transform, "backward", None)
    return found is not None and getattr(found, "__func__", None) is not HiddenTransform.backward
