"""Initial and final states: between the user's form and the arrays of the stack.

A user gives h_0 as (L * D, B, P), or where ``hidden_size`` is a tuple as a tuple of (D, B, P_l) over layers, or as
one vector (P,) for all; unbatched, without B. The stack has it as (L, D, B, P), or as a list of (D, B, P_l) where
layers differ in size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from nplstm._shapes import Axis, check_shape
from nplstm._typing import Array, DType
from nplstm.batch.layout import Layout
from nplstm.core.step import State
from nplstm.errors import ArgumentError
from nplstm.layers.options import Options

__all__ = [
    "Layers",
    "each_layer",
    "is_vector",
    "new_states",
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
    if isinstance(value, tuple | list) and not options.single_step:
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
    gradient: bool = False,
    copy: bool = False,
) -> Any:
    """Return a user's initial state, or the ``gradient`` of a final one, in the loop's order; zeros for None.

    ``axes`` are the last axes by layer. A state may be one vector for all, a gradient not. With ``copy`` it is in
    memory of its own; else it may be the user's.
    """
    if value is None or (not gradient and is_vector(value)):
        state = _same_for_all(argument, value, axes, options, layout, dtype)
    elif options.by_layer:
        state = _read_tuple(argument, value, axes, options, layout)
    else:
        state = _read_array(argument, value, axes, options, layout)
    if layout.reorders:
        reorder = layout.final_gradient if gradient else layout.initial
        return each_layer(reorder, state, options.wiring.reverse)
    return each_layer(_copied, state) if copy and value is not None else state


def _copied(array: Array) -> Array:
    return array.copy(order="C")


def _read_array(argument: str, value: Any, axes: list[Axis], options: Options, layout: Layout) -> Array:
    """Return an array (L * D, B, width), or of one step (B, width), as (L, D, B, width)."""
    B, D, L, width = layout.batch, options.directions, options.layers, axes[0][1]
    stacked: list[Axis] = [] if options.single_step else [("layers*directions", L * D)]
    check_shape(argument, value.shape, [*stacked, *_batch_axis(layout), axes[0]])
    if options.wiring.independent:  # all layers of one direction, then those of the other
        return value.reshape(D, L, B, width).swapaxes(0, 1)
    return value.reshape(L, D, B, width)


def _same_for_all(
    argument: str, vector: Any, axes: list[Axis], options: Options, layout: Layout, dtype: DType
) -> Layers:
    """Return zeros, or one vector for all layers, directions and sequences."""
    xp = layout.backend.xp
    if vector is None:
        return _member(partial(xp.zeros, dtype=dtype), axes, options, layout.batch)
    for axis in axes:
        check_shape(argument, vector.shape, [axis])
    return _member(partial(xp.broadcast_to, vector), axes, options, layout.batch)


def _member(
    make: Callable[[tuple[Any, ...]], Array], axes: list[Axis], options: Options, sequences: int
) -> Layers:
    """Make one member of a state for so many sequences, by shape; ``axes`` are its last axes by layer."""
    D = options.directions
    if options.uniform:
        return make((len(axes), D, sequences, axes[0][1]))
    return [make((D, sequences, width)) for _, width in axes]


def _batch_axis(layout: Layout) -> list[Axis]:
    return [("B", layout.batch)] if layout.batched else []


def _read_tuple(argument: str, value: Any, axes: list[Axis], options: Options, layout: Layout) -> Layers:
    """Return a tuple of (D, B, width) over layers as the stack has it."""
    D, B = options.directions, layout.batch
    if not isinstance(value, tuple | list):
        raise ArgumentError(
            f"{argument}: expected a tuple of {options.layers} arrays, one for each layer, since hidden_size "
            f"has one size for each; got {type(value).__qualname__}"
        )
    arrays = cast("tuple[Array, ...]", value)
    for layer, array in enumerate(arrays):
        check_shape(f"{argument}[{layer}]", array.shape, [("directions", D), *_batch_axis(layout), axes[layer]])
    parts = [array.reshape(D, B, array.shape[-1]) for array in arrays]
    return layout.backend.xp.stack(parts) if options.uniform else parts


def new_states(make: Callable[..., Array], options: Options, sequences: int, dtype: DType) -> State:
    """Make states of all layers and directions for so many sequences, by ``xp.zeros`` or ``xp.empty``."""
    if options.uniform:  # most calls: in as few steps as there are
        L, D, (P, H, S) = options.layers, options.directions, options.state_widths
        s = make((L, D, sequences, S), dtype) if S else None
        return State(make((L, D, sequences, P), dtype), make((L, D, sequences, H), dtype), s)
    h, c, *s = [_member(partial(make, dtype=dtype), axes, options, sequences) for axes in options.state_axes]
    return State(h, c, s[0] if s else None)  # pyright: ignore[reportArgumentType]


def each_layer(function: Callable[..., Array], state: Layers, *arguments: Any) -> Layers:
    """Apply a function to the one array of a state, or to each layer's."""
    if isinstance(state, list):
        return [function(array, *arguments) for array in state]
    return function(state, *arguments)


def user_state(state: Any, options: Options, layout: Layout) -> Any:
    """Return a state, or a gradient of one, in the user's form; ``state`` is in the user's order of sequences."""
    if options.by_layer:
        return tuple(array if layout.batched else array[:, 0] for array in state)
    if options.wiring.independent:
        state = state.swapaxes(0, 1)
    shape = state.shape[2:] if layout.batched else state.shape[3:]
    return state.reshape(shape if options.single_step else (options.states, *shape))


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
