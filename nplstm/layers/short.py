"""Short ways for a plain stack of which nothing else is said: past all that asks what else there is."""

from typing import Any, cast

from nplstm._typing import Array
from nplstm.engines import allowed_engines
from nplstm.engines.base import ShortCall
from nplstm.layers.forward import Layer, engine_of, recurrence_of

__all__ = ["run_short"]


def run_short(definition: Layer, input: Any, hx: Any) -> tuple[Array, tuple[Array, Array]] | None:
    """Return what a call returns; None where it is not short, or something about it is to be looked at."""
    short = definition.parameters.derived(f"short {allowed_engines()}", lambda: _short_call(definition))
    if short is None or not _fits(input, definition, 3):
        return None
    x = input.swapaxes(0, 1) if definition.batch_first else input
    T, B, I = x.shape
    if definition.structure.input_size != I or T * B == 0 or not short.takes(T, B):
        return None
    states = cast("tuple[Any, ...]", (None, None) if hx is None else hx)
    structure = definition.structure
    shape = (structure.layers * structure.directions, B, structure.hidden_sizes[0])
    if not isinstance(states, tuple | list) or len(states) != 2:
        return None
    if any(state is not None and not (_fits(state, definition, 3) and state.shape == shape) for state in states):
        return None
    output, h_n, c_n = short(x, *states)
    return (output.swapaxes(0, 1) if definition.batch_first else output), (h_n, c_n)


def _fits(array: Any, definition: Layer, ndim: int) -> bool:
    """Tell whether it is an array such as the layer takes, without asking what is wrong with it."""
    return definition.backend.is_array(array) and array.ndim == ndim and array.dtype == definition.dtype


def _short_call(definition: Layer) -> ShortCall | None:
    structure = definition.structure
    wiring = structure.wiring
    if (
        definition.transform is not None
        or definition.flipped
        or structure.steps_outside
        or structure.by_layer
        or wiring.independent
        or wiring.residual
        or structure.merge != "concat"
    ):
        return None
    engine = engine_of(definition, recurrent_given=False, training=False)
    directions = range(structure.directions)
    recurrences = [[recurrence_of(definition, layer, d) for d in directions] for layer in range(structure.layers)]
    return engine.short_call(recurrences, wiring.directions)
