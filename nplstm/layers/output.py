"""The output of a pass: from packed rows to the user's layout, and its gradient.

::

    rows of each direction -> (fill masked steps) -> merge the directions -> the user's layout -> (flip in time)
"""

from typing import Any, cast

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.batch.layout import Layout
from nplstm.batch.packing import PackedSequence
from nplstm.engines.base import split_directions
from nplstm.errors import ArgumentError
from nplstm.layers.options import Options

__all__ = ["MERGES", "output_backward", "output_forward", "output_gradients"]

MERGES = ("concat", "sum", "mean", "product", "none")
"""What becomes of the outputs of two directions: side by side, their sum, mean or product, or both as they are."""


def output_forward(joined: Array, initial_h: Array, options: Options, layout: Layout) -> Any:
    """Return the output: an array or a PackedSequence, or without merging a pair of them.

    Parameters
    ----------
    joined : Array, shape (N, D * P)
    initial_h : Array, shape (D, M, P)
        The last layer's initial h, in the loop's order; for steps that are masked out.
    """
    merged = [joined]
    if options.merge != "concat" or layout.fills:
        merged = _merge(_filled(joined, initial_h, options, layout), options.merge)
    elif not options.flipped:
        return layout.unpack(joined)
    shown = [layout.unpack_filled(rows) for rows in merged]
    if options.flipped:
        shown = [layout.flip(values) for values in shown]
    return tuple(shown) if options.merge == "none" and len(shown) == 2 else shown[0]


def output_backward(
    grads: dict[str, Any], joined: Array, initial_h: Array, options: Options, layout: Layout
) -> tuple[list[Array] | None, list[Array | None]]:
    """Return the gradients of each direction's rows (N, P), and where it was shown of its initial h (M, P).

    ``grads`` is what ``output_gradients`` returned.
    """
    if not grads:
        return None, []
    axis = options.output_axis
    rows: dict[str, Array] = {}
    for argument, grad in grads.items():
        in_time = grad
        if options.flipped:
            layout.check(argument, grad, [axis])
            in_time = layout.flip(grad)
        rows[argument] = layout.pack_filled(argument, in_time, [axis])
    by_direction = [*rows.values()]
    if options.directions == 2:
        by_direction = _of_directions(rows, joined, initial_h, options, layout)
    if not layout.fills:
        return by_direction, []
    reverse = options.wiring.reverse
    pairs = [layout.fill_gradient(grad, reverse=reverse[d]) for d, grad in enumerate(by_direction)]
    return [of_rows for of_rows, _ in pairs], [of_initial for _, of_initial in pairs]


def _of_directions(
    rows: dict[str, Array], joined: Array, initial_h: Array, options: Options, layout: Layout
) -> list[Array]:
    """Return the gradient of each direction's rows, given those of what they were merged into."""
    first = next(iter(rows.values()))
    if options.merge == "none":  # zeros for one that was left out
        none: Array = namespace(first).zeros_like(first)
        return [rows.get(f"grad_output[{d}]", none) for d in range(2)]
    factors = _filled(joined, initial_h, options, layout) if options.merge == "product" else []
    return _merge_backward(first, options.merge, factors)


def output_gradients(grad_output: Any, options: Options) -> dict[str, Any]:
    """Return the gradient, or where the output was a pair its members, by what errors call them."""
    if grad_output is None:
        return {}
    if options.merge != "none" or options.directions == 1:
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


def _filled(joined: Array, initial_h: Array, options: Options, layout: Layout) -> list[Array]:
    """Return each direction's output with what it shows at steps that are masked out."""
    reverse = options.wiring.reverse
    parts = split_directions(joined, len(reverse))
    return [layout.fill(part, initial_h[d], reverse=reverse[d]) for d, part in enumerate(parts)]


def _merge(parts: list[Array], merge: str) -> list[Array]:
    """Merge the outputs (N, P) of the directions into one, (N, D * P) or (N, P); "none" leaves them alone."""
    if len(parts) == 1 or merge == "none":
        return parts
    ahead, back = parts
    if merge == "concat":
        return [namespace(ahead).concatenate([ahead, back], axis=1)]
    if merge == "product":
        return [ahead * back]
    return [ahead + back if merge == "sum" else (ahead + back) * 0.5]


def _merge_backward(grad: Array, merge: str, factors: list[Array]) -> list[Array]:
    """Return d loss / d part for each of two directions; ``factors`` is what a product was made of."""
    if merge == "concat":
        return split_directions(grad, 2)
    if merge == "product":
        ahead, back = factors
        return [grad * back, grad * ahead]
    share = grad if merge == "sum" else grad * 0.5
    return [share, share]
