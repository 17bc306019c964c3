"""The user's initial and final states, and the stack's: one array for all layers and directions.

A user gives h_0 as (L * D, B, P), or where ``hidden_size`` is a tuple as a tuple of (D, B, P_l) over layers, or as
one vector (P,) for all; unbatched, without B. The stack has it as (L, D, B, P), or as a list of (D, B, P_l) where
layers differ in size.
"""

from collections.abc import Callable
from typing import Any, cast

from nplstm._shapes import Axis, check_shape
from nplstm._typing import Array, DType
from nplstm.backends import namespace
from nplstm.batch.layout import Layout
from nplstm.core.step import State
from nplstm.errors import ArgumentError
from nplstm.layers.options import Options

__all__ = [
    "Layers",
    "each_layer",
    "empty_states",
    "is_vector",
    "read_state",
    "stack_layers",
    "state_arrays",
    "sum_states",
    "user_state",
]

Layers = Array | list[Array]
"""One array with the axis of layers first, or one array for each layer."""


def state_arrays(argument: str, value: Any, options: Options) -> dict[str, Any]:
    """Return the arrays in a user's state, by what errors call them."""
    if value is None:
        return {}
    if isinstance(value, tuple | list):
        members = cast("tuple[Any, ...]", value)
        if not options.by_layer or len(members) != options.layers:
            expected = f"one array for each of {options.layers} layers" if options.by_layer else "one array"
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
    options: Options,
    layout: Layout,
    dtype: DType,
    *,
    shareable: bool,
) -> Layers:
    """Return a user's state as the stack has it, in the user's order of sequences; zeros for None.

    ``axes`` are the last axes by layer. A vector for all is taken if ``shareable``. What is returned may be the
    user's memory.
    """
    xp, B, D, L = layout.backend.xp, layout.batch, options.directions, options.layers
    width = axes[0][1]
    if value is None:
        if options.uniform:
            return xp.zeros((L, D, B, width), dtype=dtype)
        return [xp.zeros((D, B, axis[1]), dtype=dtype) for axis in axes]
    if shareable and is_vector(value):
        for axis in axes:
            check_shape(argument, value.shape, [axis])
        return xp.broadcast_to(value, (L, D, B, width))
    batch_axis: list[Axis] = [("B", B)] if layout.batched else []
    if options.by_layer:
        return _read_tuple(argument, value, batch_axis, axes, options, layout)
    stacked: list[Axis] = [] if options.single_step else [("layers*directions", L * D)]
    check_shape(argument, value.shape, [*stacked, *batch_axis, axes[0]])
    if options.wiring.independent:  # all layers of one direction, then those of the other
        return value.reshape(D, L, B, width).swapaxes(0, 1)
    return value.reshape(L, D, B, width)


def _read_tuple(
    argument: str, value: Any, batch_axis: list[Axis], axes: list[Axis], options: Options, layout: Layout
) -> Layers:
    """Return a tuple of (D, B, width) over layers as the stack has it."""
    D, B = options.directions, layout.batch
    if not isinstance(value, tuple | list):
        raise ArgumentError(
            f"{argument}: expected a tuple of {options.layers} arrays, one for each layer, since hidden_size "
            f"has one size for each; got {type(value).__qualname__}"
        )
    arrays = cast("tuple[Array, ...]", value)
    for layer, array in enumerate(arrays):
        check_shape(f"{argument}[{layer}]", array.shape, [("directions", D), *batch_axis, axes[layer]])
    parts = [array.reshape(D, B, array.shape[-1]) for array in arrays]
    return layout.backend.xp.stack(parts) if options.uniform else parts


def empty_states(like: State) -> State:
    """Make room for states of the same shapes."""
    h, c, s = (None if member is None else each_layer(_empty_like, member) for member in like)
    return State(h, c, s)  # pyright: ignore[reportArgumentType]


def _empty_like(array: Array) -> Array:
    return namespace(array).empty(array.shape, dtype=array.dtype)


def each_layer(function: Callable[..., Array], state: Layers, *arguments: Any) -> Layers:
    """Apply a function to the one array of a state, or to each layer's."""
    if isinstance(state, list):
        return [function(array, *arguments) for array in state]
    return function(state, *arguments)


def user_state(state: Layers, options: Options, layout: Layout) -> Any:
    """Return a state, or a gradient of one, in the user's form; ``state`` is in the user's order of sequences."""
    if options.by_layer:
        return tuple(array if layout.batched else array[:, 0] for array in state)
    array = cast("Array", state)
    if options.wiring.independent:
        array = array.swapaxes(0, 1)
    L, D, B, width = array.shape
    leading = () if options.single_step else (L * D,)
    return array.reshape(*leading, B, width) if layout.batched else array.reshape(*leading, width)


def stack_layers(parts: list[list[Array]], options: Options, layout: Layout) -> Layers:
    """Put arrays (B, width) of each layer and direction together as the stack has states."""
    stack = layout.backend.xp.stack
    layers = [stack(directions) for directions in parts]
    return stack(layers) if options.uniform else layers


def sum_states(state: Layers) -> Array:
    """Return the gradient of one vector that all layers, directions and sequences started from."""
    sums = [
        array.sum(axis=tuple(range(array.ndim - 1))) for array in (state if isinstance(state, list) else [state])
    ]
    total = sums[0]
    for other in sums[1:]:
        total = total + other
    return total
