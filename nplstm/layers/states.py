"""The user's initial and final states, and the loop's: one array for each layer and direction.

A user gives h_0 as (L * D, B, P), or where layers differ in size as a tuple of (D, B, P_l) over layers, or as
one vector (P,) for all; unbatched, without B. ``read_state`` takes it apart, and ``join_state`` puts states
and gradients together.
"""

from typing import Any, cast

from nplstm._shapes import Axis, check_shape
from nplstm._typing import Array, DType
from nplstm.batch.layout import Layout
from nplstm.errors import ArgumentError
from nplstm.layers.options import Structure

__all__ = ["is_vector", "join_state", "read_state", "state_arrays"]

ByLayer = list[list[Array]]
"""By layer, then by direction; each (B, width) in the user's order."""


def state_arrays(argument: str, value: Any, structure: Structure) -> dict[str, Any]:
    """Return the arrays in a user's state, by what errors call them."""
    if value is None:
        return {}
    if isinstance(value, tuple | list):
        members = cast("tuple[Any, ...]", value)
        if not structure.by_layer or len(members) != structure.layers:
            expected = f"one array for each of {structure.layers} layers" if structure.by_layer else "one array"
            raise ArgumentError(
                f"{argument}: expected {expected}, got a {type(members).__name__} of {len(members)}"
            )
        return {f"{argument}[{layer}]": array for layer, array in enumerate(members)}
    return {argument: value}


def is_vector(value: Any) -> bool:
    """Tell whether a state is one vector for all layers, directions and sequences."""
    return getattr(value, "ndim", None) == 1


def read_state(
    argument: str,
    value: Any,
    axes: list[Axis],
    structure: Structure,
    layout: Layout,
    dtype: DType,
    *,
    shareable: bool,
) -> ByLayer:
    """Take a user's state apart; zeros for None. ``axes``: the last axis by layer.

    A vector for all is taken if ``shareable``.
    """
    xp, B, D = layout.backend.xp, layout.batch, structure.directions
    if value is None:
        return [[xp.zeros((B, axis[1]), dtype=dtype) for _ in range(D)] for axis in axes]
    if shareable and is_vector(value):
        for axis in axes:
            check_shape(argument, value.shape, [axis])
        return [[xp.broadcast_to(value, (B, axis[1])) for _ in range(D)] for axis in axes]
    batch_axis: list[Axis] = [("B", B)] if layout.batched else []
    if not structure.by_layer:
        check_shape(argument, value.shape, [("layers*directions", structure.layers * D), *batch_axis, axes[0]])
        stacked = value if layout.batched else value[:, None]
        return [[stacked[structure.place(layer, d)] for d in range(D)] for layer in range(structure.layers)]
    if not isinstance(value, tuple | list):
        raise ArgumentError(
            f"{argument}: expected a tuple of {structure.layers} arrays, one for each layer, since hidden_size "
            f"has one size for each; got {type(value).__qualname__}"
        )
    parts: ByLayer = []
    for layer, array in enumerate(cast("tuple[Array, ...]", value)):
        check_shape(f"{argument}[{layer}]", array.shape, [("directions", D), *batch_axis, axes[layer]])
        parts.append([array[d] if layout.batched else array[d][None] for d in range(D)])
    return parts


def join_state(parts: ByLayer, structure: Structure, layout: Layout, *, as_vector: bool = False) -> Any:
    """Put arrays (B, width) together in the form of the user's states; ``as_vector``, add all of them up."""
    xp, D = layout.backend.xp, structure.directions
    if as_vector:
        sums = [part.sum(axis=0) for directions in parts for part in directions]
        total = sums[0]
        for other in sums[1:]:
            total = total + other
        return total
    rows = [[part[None] if layout.batched else part[:1] for part in directions] for directions in parts]
    if structure.by_layer:
        return tuple(xp.concatenate(directions) for directions in rows)
    if len(parts) == D == 1:
        return rows[0][0]
    places = sorted((structure.place(layer, d), layer, d) for layer in range(structure.layers) for d in range(D))
    return xp.concatenate([rows[layer][d] for _, layer, d in places])
