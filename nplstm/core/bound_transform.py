"""A hidden transform bound to its parameters and the context of one call, with checks of what it returns."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from nplstm._shapes import check_shape
from nplstm._typing import Array, Arrays
from nplstm.backends import backend_of, namespace
from nplstm.core.hidden_transform import TransformGradients
from nplstm.core.params import Sums
from nplstm.errors import ArgumentError

__all__ = ["BoundTransform", "Context", "zero_context_gradients"]


class Context(NamedTuple):
    """One array that the transform reads besides h, in packed order."""

    values: Array  # (B, ...), or (N, ...) where it is given per step
    by_step: bool


class BoundTransform:
    """A hidden transform, as the time loop calls it.

    Parameters
    ----------
    transform : HiddenTransform, or an object like it
    parameters : mapping of name to Array
        Parameters of the transform, by its own names.
    context : mapping of name to Context
        In packed order: longest sequence first.
    recurrent_size : int
        R, the width that the transform has to return.
    """

    def __init__(
        self, transform: Any, parameters: Arrays, context: dict[str, Context], recurrent_size: int
    ) -> None:
        self._transform = transform
        self._parameters = parameters
        self._recurrent_size = recurrent_size
        self.context = context

    def of_rows(self, rows: slice) -> "BoundTransform":
        """Return the transform bound to the context of some steps alone."""
        context = {name: c._replace(values=c.values[rows]) if c.by_step else c for name, c in self.context.items()}
        return BoundTransform(self._transform, self._parameters, context, self._recurrent_size)

    def _rows(self, by_step: bool, rows: slice, n: int) -> slice:
        """Return the rows of a context that belong to the first ``n`` sequences of a step."""
        return slice(rows.start, rows.start + n) if by_step else slice(n)

    def forward(self, h: Array, state: Array | None, rows: slice) -> tuple[Array, Array | None, Any]:
        """Transform ``h`` (n, P) of the first n sequences of the step that has these rows."""
        n = len(h)
        context = {name: c.values[self._rows(c.by_step, rows, n)] for name, c in self.context.items()}
        result = self._transform.forward(h, state, self._parameters, context)
        owner = type(self._transform).__name__
        members = cast("tuple[Any, ...]", result)
        if not isinstance(result, tuple) or len(members) != 3:
            raise ArgumentError(
                f"hidden_transform: expected {owner}.forward to return (r, state, tape), got {result!r:.60}"
            )
        r, new_state, tape = members
        _check_result(f"{owner}.forward's r", r, h, ("R", self._recurrent_size))
        if state is None and new_state is not None:
            raise ArgumentError(f"hidden_transform: {owner}.forward returned a state, but {owner}.state_size is 0")
        if state is not None:
            _check_result(f"{owner}.forward's state", new_state, h, ("S", state.shape[1]))
        return r, new_state, tape

    def backward(
        self, grad_r: Array, grad_state: Array | None, tape: Any, rows: slice, sums: Sums, grad_context: Arrays,
        width: int,
    ) -> TransformGradients:  # fmt: skip
        """Run the transform's backward; add its gradients of parameters and context to those given."""
        n = len(grad_r)
        grads = self._transform.backward(grad_r, grad_state, tape, self._parameters)
        owner = type(self._transform).__name__
        _check_result(f"{owner}.backward's gradient of h", getattr(grads, "h", None), grad_r, ("P", width))
        if grad_state is not None:
            _check_result(
                f"{owner}.backward's gradient of the state", grads.state, grad_r, ("S", grad_state.shape[1])
            )
        for name, share in _members(f"{owner}.backward's parameters", grads.parameters):
            if name not in self._parameters:
                raise ArgumentError(
                    f"hidden_transform: {owner}.backward returned a gradient of {name!r}, and its parameters are "
                    f"{list(self._parameters)}"
                )
            shape = self._parameters[name].shape
            _check_share(f"{owner}.backward's gradient of {name!r}", share, grad_r, shape)
            sums.add("transform_" + name, share.copy())  # a copy: the array belongs to the transform
        for name, share in _members(f"{owner}.backward's context", grads.context):
            if name in self.context:  # optional context may be absent
                context = self.context[name]
                shape = (n, *context.values.shape[1:])
                _check_share(f"{owner}.backward's gradient of context {name!r}", share, grad_r, shape)
                grad_context[name][self._rows(context.by_step, rows, n)] += share
        return grads


def _members(what: str, mapping: Any) -> Any:
    if not isinstance(mapping, Mapping):
        raise ArgumentError(f"hidden_transform: expected {what} to be a mapping, got {type(mapping).__name__}")
    return cast("Mapping[str, Any]", mapping).items()


def _check_result(what: str, array: Any, like: Array, axis: tuple[str, int]) -> None:
    """Raise unless a transform's result has shape (n, axis), and backend and element type of ``like``."""
    _check_kind(what, array, like)
    check_shape(f"hidden_transform: {what}", array.shape, [("n", len(like)), axis])


def _check_share(what: str, share: Any, like: Array, shape: tuple[int, ...]) -> None:
    """Raise unless a gradient has this shape, and backend and element type of ``like``."""
    _check_kind(what, share, like)
    check_shape(f"hidden_transform: {what}", share.shape, [(str(size), size) for size in shape])


def _check_kind(what: str, array: Any, like: Array) -> None:
    backend = backend_of(array, f"hidden_transform: {what}")
    if backend is not backend_of(like) or array.dtype != like.dtype:
        raise ArgumentError(
            f"hidden_transform: expected {what} to be {like.dtype} on {backend_of(like).name!r}, "
            f"got {array.dtype} on {backend.name!r}"
        )


def zero_context_gradients(context: dict[str, Context]) -> dict[str, Array]:
    """Return zeros for the gradient of each context."""
    return {name: namespace(c.values).zeros(c.values.shape, dtype=c.values.dtype) for name, c in context.items()}
