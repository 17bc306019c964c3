"""The context arrays that a hidden transform reads besides h: from the user's form to the loop's, and back."""

from collections.abc import Mapping
from typing import Any, cast

from nplstm._shapes import Axis
from nplstm._typing import Array
from nplstm.batch.layout import Layout
from nplstm.batch.packing import PackedSequence
from nplstm.core.bound_transform import Context
from nplstm.errors import ArgumentError, ShapeError

__all__ = ["ContextReader"]


class ContextReader:
    """Reads the context of one call, and gives gradients back in the same form.

    Parameters
    ----------
    transform : HiddenTransform or None
    context : mapping of name to Array, or an array for a transform that reads one
    """

    def __init__(self, transform: Any, context: Any) -> None:
        ndims: Mapping[str, int] = getattr(transform, "context_ndims", {})
        owner = type(transform).__name__
        if context is None:
            context = {}
        elif transform is None:
            raise ArgumentError("context: is read by a hidden_transform, and the layer has none")
        elif not isinstance(context, Mapping):
            if len(ndims) != 1:
                raise ArgumentError(f"context: expected a mapping with {list(ndims)}, which {owner} reads")
            context = {next(iter(ndims)): context}
        arrays = cast("Mapping[str, Any]", context)
        self.values: dict[str, Any] = {name: value for name, value in arrays.items() if value is not None}
        unknown = [name for name in self.values if name not in ndims]
        missing = [name for name in ndims if name not in self.values and name not in _optional(transform)]
        if unknown or missing:
            raise ArgumentError(
                f"context: {owner} reads {list(ndims)}; missing: {missing or 'none'}, unknown: {unknown or 'none'}"
            )
        self._ndims = ndims
        self._forms: dict[str, str] = {}

    def arrays(self) -> dict[str, Any]:
        """Return the arrays by what errors call them."""
        return {
            f"context[{name!r}]": value.data if isinstance(value, PackedSequence) else value
            for name, value in self.values.items()
        }

    def read(self, layout: Layout, *, keep: bool) -> dict[str, Context]:
        """Bring the arrays into the loop's order; with ``keep`` they share no memory with the user's."""
        return {name: self._read(name, value, layout, keep=keep) for name, value in self.values.items()}

    def _read(self, name: str, value: Any, layout: Layout, *, keep: bool) -> Context:
        argument, ndim = f"context[{name!r}]", self._ndims[name]
        array = layout.data_of(argument, value)
        self._forms[name] = form = _form(argument, value, ndim, layout)
        if form == "step":
            own: list[Axis] = [(str(size), size) for size in array.shape[array.ndim - ndim :]]
            return Context(layout.pack(argument, value, own, keep=keep), True)
        if form == "shared":
            kept = array.copy() if keep else array
            return Context(layout.backend.xp.broadcast_to(kept, (layout.steps.batch, *array.shape)), False)
        if len(array) != layout.batch:
            raise ShapeError(f"{argument}: expected B={layout.batch} sequences, got {len(array)} in {array.shape}")
        gathered = layout.gather(array)
        return Context(gathered.copy() if keep and gathered is array else gathered, False)

    def gradients(self, grads: Mapping[str, Array], layout: Layout) -> dict[str, Any]:
        """Bring gradients back to the form in which each array was given."""
        results: dict[str, Any] = {}
        for name, grad in grads.items():
            form = self._forms[name]
            if form == "step":
                results[name] = layout.unpack(grad)
            else:
                results[name] = grad.sum(axis=0) if form == "shared" else layout.scatter_add(grad)
        return results


def _form(argument: str, value: Any, ndim: int, layout: Layout) -> str:
    """Tell by its axes whether an array is shared by all, one for each sequence, or one for each step."""
    if isinstance(value, PackedSequence):
        return "step"
    forms = {0: "shared", 1: "sequence", 2: "step"} if layout.batched else {0: "shared", 1: "step"}
    if value.ndim - ndim not in forms:
        leading = "(...), (B, ...) or (T, B, ...)" if layout.batched else "(...) or (T, ...)"
        raise ShapeError(f"{argument}: expected {leading} with {ndim} axes of its own, got {value.shape}")
    return forms[value.ndim - ndim]


def _optional(transform: Any) -> tuple[str, ...]:
    return getattr(transform, "optional_context", ())
