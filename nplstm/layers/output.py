"""The output of a pass, from the loop's rows to what the user gets, and the gradient back.

::

    rows of each direction -> (fill masked steps) -> merge the directions -> the user's layout -> (flip in time)
"""

from typing import Any, cast

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.batch.layout import Layout
from nplstm.batch.packing import PackedSequence
from nplstm.errors import ArgumentError
from nplstm.layers.merge import merge_backward, merge_forward
from nplstm.layers.options import Structure

__all__ = ["Output"]


class Output:
    """The way from rows to the user, for one pass.

    Parameters
    ----------
    structure : Structure
    layout : Layout
    flipped : bool
        Whether the output is in the order of processing, of a layer that runs in reverse.
    """

    def __init__(self, structure: Structure, layout: Layout, *, flipped: bool) -> None:
        self._structure = structure
        self._layout = layout
        self._flipped = flipped
        self._factors: list[Array] = []  # of a product, for its gradient

    def show(self, joined: Array, parts: list[Array], initial: list[Array]) -> Any:
        """Return the output: an array or a PackedSequence, or without merging a pair of them.

        Parameters
        ----------
        joined : Array, shape (N, D * P)
        parts : list of Arrays (N, P)
            Each direction's part of ``joined``.
        initial : list of Arrays (M, P)
            Each direction's initial h, in the loop's order; for steps that are masked out.
        """
        layout, merge = self._layout, self._structure.merge
        if merge == "concat" and not layout.fills:
            merged = [joined]
        else:
            parts = [
                layout.fill(part, h, reverse=reverse)
                for part, h, reverse in zip(parts, initial, self._structure.wiring.directions, strict=True)
            ]
            merged = merge_forward(parts, merge)
        shown = [layout.unpack_filled(rows) for rows in merged]
        if merge == "product":
            self._factors = parts
        if self._flipped:
            shown = [layout.flip(values) for values in shown]
        return tuple(shown) if merge == "none" and len(shown) == 2 else shown[0]

    def arrays(self, grad_output: Any) -> dict[str, Any]:
        """Return the arrays in a gradient of the output by what errors call them."""
        return {
            argument: self._layout.data_of(argument, grad) for argument, grad in self._grads(grad_output).items()
        }

    def _grads(self, grad_output: Any) -> dict[str, Any]:
        if grad_output is None:
            return {}
        if self._structure.merge != "none" or self._structure.directions == 1:
            return {"grad_output": grad_output}
        if isinstance(grad_output, PackedSequence) or not isinstance(grad_output, tuple | list):
            raise ArgumentError(
                f"grad_output: expected a pair (forward, reverse), as merge='none' returned the output, got "
                f"{type(grad_output).__qualname__}"
            )
        pair = cast("tuple[Any, ...]", grad_output)
        if len(pair) != 2:
            raise ArgumentError(f"grad_output: expected a pair (forward, reverse), got {len(pair)} of them")
        return {f"grad_output[{d}]": grad for d, grad in enumerate(pair) if grad is not None}

    def backward(self, grad_output: Any) -> tuple[list[Array] | None, list[Array | None]]:
        """Return the gradients of each direction's rows (N, P), and where it was shown of its initial h."""
        layout, structure, axis = self._layout, self._structure, self._structure.output_axis
        grads = self._grads(grad_output)
        if not grads:
            return None, [None] * structure.directions
        rows: dict[str, Array] = {}
        for argument, grad in grads.items():
            layout.check(argument, grad, [axis])
            rows[argument] = layout.pack_filled(argument, layout.flip(grad) if self._flipped else grad, [axis])
        pairs = [
            layout.fill_gradient(grad, reverse=reverse)
            for grad, reverse in zip(self._by_direction(rows), structure.wiring.directions, strict=True)
        ]
        return [of_rows for of_rows, _ in pairs], [of_initial for _, of_initial in pairs]

    def _by_direction(self, rows: dict[str, Array]) -> list[Array]:
        """Return the gradient of each direction's rows, given those of what they were merged into."""
        structure, first = self._structure, next(iter(rows.values()))
        if structure.directions == 1:
            return [first]
        if structure.merge == "none":
            none: Array = namespace(first).zeros_like(first)  # for one that was left out
            return [rows[name] if (name := f"grad_output[{d}]") in rows else none for d in range(2)]
        return merge_backward(first, structure.merge, structure.h_width(structure.layers - 1), self._factors)
