"""One pass of an ``LSTM``: from what the user gave to the stack of layers, and its result."""

from functools import partial
from typing import Any, NamedTuple, cast

from nplstm._shapes import check_triple
from nplstm._typing import Array, DType
from nplstm.backends import Backend, check_arrays
from nplstm.backends._cuda import CudaBackend
from nplstm.batch.choose_layout import CallOptions, choose_layout
from nplstm.batch.layout import Layout
from nplstm.batch.packing import PackedSequence
from nplstm.core.bound_transform import BoundTransform, Context
from nplstm.core.cell_spec import CellSpec
from nplstm.core.masks import draw_masks, inference_masks
from nplstm.core.ops.dropout import dropout_mask
from nplstm.core.params import Parameters
from nplstm.core.step import Recurrence, State
from nplstm.engines import Engine, Request, allowed_engines, allowed_precision, find_engine
from nplstm.engines.checkpoint import Checkpointed
from nplstm.errors import ArgumentError, ShapeError
from nplstm.layers.context import ContextReader
from nplstm.layers.options import Structure
from nplstm.layers.output import Output
from nplstm.layers.stack import stack_forward
from nplstm.layers.states import is_vector, read_state, state_arrays
from nplstm.layers.tape import GivenStates, Pass

__all__ = ["Layer", "engine_of", "recurrence_of", "request_of", "run"]


class Layer(NamedTuple):
    """What a pass needs to know of an ``LSTM``."""

    structure: Structure
    parameters: Parameters
    cell: CellSpec
    transform: Any  # a HiddenTransform, or None
    dropout: float
    batch_first: bool
    flipped: bool  # whether the output is in the order of processing
    backend: Backend
    dtype: DType


def request_of(definition: Layer, *, recurrent_given: bool, training: bool, batch: int = 1) -> Request:
    """Say what is to be run."""
    structure, backend = definition.structure, definition.backend
    return Request(
        backend.name,
        definition.cell,
        definition.transform,
        structure.proj_size,
        recurrent_given,
        training,
        dtype=str(definition.dtype),
        hidden=structure.hidden_sizes,
        directions=structure.directions,
        column=structure.directions == 1
        and not structure.wiring.residual
        and not (training and definition.dropout),
        batch=batch,
        precision=allowed_precision(),
        cuda=backend.cuda if isinstance(backend, CudaBackend) else None,
    )


_ENGINES_KEPT = 16
"""Answers that are kept for a layer: calls of many sizes are not to fill the memory."""


def engine_of(definition: Layer, *, recurrent_given: bool, training: bool, batch: int = 1) -> Engine:
    """Find the engine; asked once, until the parameters are replaced."""
    asked = partial(request_of, definition, recurrent_given=recurrent_given, training=training, batch=batch)
    key: tuple[Any, ...] = (allowed_engines(), recurrent_given, training)
    if isinstance(definition.backend, CudaBackend):  # there, sizes decide as well
        key = (*key, batch, allowed_precision(), definition.backend.current_device())
    last: dict[tuple[Any, ...], Engine] = definition.parameters.derived("engines", lambda: {})
    if key not in last:
        if len(last) >= _ENGINES_KEPT:
            last.clear()
        last[key] = find_engine(asked())
    return last[key]


def run(
    definition: Layer,
    input: Any,
    hx: Any,
    said: CallOptions,
    context: Any,
    *,
    rng: Any,
    record: bool,
    every: int | None = None,
) -> Pass:
    """Bring the input into the packed layout and run the stack, with masks if there is a generator."""
    structure = definition.structure
    given = check_triple("hx", ("h_0", "c_0", "s_0"), hx, structure.state_size > 0)
    reader = ContextReader(definition.transform, context)
    arrays = {"input": input.data if isinstance(input, PackedSequence) else input}
    arrays["weight_ih_l0"] = definition.parameters["weight_ih_l0"]
    for argument, value in zip(("h_0", "c_0", "s_0"), given, strict=True):
        arrays |= state_arrays(argument, value, structure)
    check_arrays("the LSTM", definition.backend, definition.dtype, **arrays, **reader.arrays())
    layout = choose_layout(
        input,
        said,
        input_size=structure.input_size,
        batch_first=definition.batch_first,
        backend=definition.backend,
    )
    rows = layout.pack("input", input, [("I", structure.input_size)], keep=record)
    recurrent = _gives_recurrent_input(given[0], structure)
    initial = _initial((None if recurrent else given[0], *given[1:]), structure, layout, definition.dtype)
    r_0 = _recurrent_input(given[0], definition, layout) if recurrent else None
    masks = _masks(definition, rng, len(rows))
    contexts = reader.read(layout, keep=record)
    recurrences = [
        [
            _recurrence(definition, layer, d, layout, rng, contexts, None if r_0 is None else r_0[layer][d])
            for d in range(structure.directions)
        ]
        for layer in range(structure.layers)
    ]
    if every is not None and recurrent:
        raise ArgumentError(
            "checkpoint_every: the recurrent input was given in the place of h_0, and is not a state"
        )
    training = rng is not None
    engine = engine_of(definition, recurrent_given=recurrent, training=training, batch=layout.steps.batch)
    if every is not None:
        engine = Checkpointed(engine, every)
    result = stack_forward(
        rows,
        initial,
        recurrences,
        layout.steps,
        engine,
        wiring=structure.wiring,
        masks=masks,
        record=record,
    )
    return Pass(
        structure,
        layout,
        Output(structure, layout, flipped=definition.flipped),
        reader,
        GivenStates((is_vector(given[0]), is_vector(given[1]), is_vector(given[2])), recurrent),
        [state.h for state in initial[-1]],
        result,
    )


def _gives_recurrent_input(h_0: Any, structure: Structure) -> bool:
    """Tell by its width whether what stands in the place of h_0 is the recurrent input r_0."""
    P, R = structure.h_width(0), structure.recurrent_sizes[0]
    if h_0 is None or R == P:
        return structure.steps_outside
    first: Array = cast("tuple[Array, ...]", h_0)[0] if isinstance(h_0, tuple | list) else h_0
    width = first.shape[-1] if first.ndim else None
    if structure.steps_outside and width != R:
        raise ShapeError(
            f"h_0: expected the recurrent input, R={R} wide, since recurrent_size={R}, hidden_size={P} and no "
            f"hidden_transform makes one of the other; got {first.shape}"
        )
    return width == R


def _initial(given: tuple[Any, ...], structure: Structure, layout: Layout, dtype: DType) -> list[list[State]]:
    """Return the initial states in the loop's order."""
    states: list[list[list[Array]]] = []
    for argument, value, axes in zip(("h_0", "c_0", "s_0"), given, structure.state_axes, strict=False):
        parts = read_state(argument, value, axes, structure, layout, dtype, shareable=True)
        states.append(_in_order(parts, structure, layout))
    return [
        [State(*(state[layer][d] for state in states)) for d in range(structure.directions)]
        for layer in range(structure.layers)
    ]


def _recurrent_input(r_0: Any, definition: Layer, layout: Layout) -> list[list[Array]]:
    """Return r_0, given in the place of h_0, in the loop's order; raise where it is not enough."""
    structure, steps = definition.structure, layout.steps
    R, P, T = structure.recurrent_sizes[0], structure.h_width(0), len(layout.steps)
    if structure.steps_outside and T > 1:
        raise ArgumentError(
            f"input: T={T} steps need a hidden_transform that makes a recurrent input of recurrent_size={R} "
            f"out of h, hidden_size={P}; without one, call one step at a time and give r_t in the place of h_0"
        )
    empty = steps.batch > 0 and (T == 0 or steps.size(0) < steps.batch)
    for what, happens in (
        (f"zoneout_h={definition.cell.zoneout_h} keeps h_0", definition.cell.zoneout_h > 0),
        ("masked_output='repeat' shows h_0 where a mask begins with False", layout.fills),
        ("a sequence of length 0 returns h_0", empty),
    ):
        if happens:
            raise ArgumentError(f"h_0: {what}, and in its place the recurrent input, R={R} wide, was given")
    axes = [structure.r_axis(layer) for layer in range(structure.layers)]
    parts = read_state("h_0", r_0, axes, structure, layout, definition.dtype, shareable=True)
    return _in_order(parts, structure, layout)


def _in_order(parts: list[list[Array]], structure: Structure, layout: Layout) -> list[list[Array]]:
    """Bring initial states into the loop's order."""
    reverse = structure.wiring.directions
    return [[layout.initial(part, reverse=r) for part, r in zip(row, reverse, strict=True)] for row in parts]


def recurrence_of(definition: Layer, layer: int, d: int) -> Recurrence:
    """Return the step of one layer and direction without masks and transform; made once for its parameters."""
    suffix, cell = definition.structure.suffix(layer, d), definition.cell
    parameters = definition.parameters
    return parameters.derived(
        "recurrence" + suffix, lambda: Recurrence(parameters.grouped(suffix), cell, inference_masks(cell))
    )


def _recurrence(
    definition: Layer,
    layer: int,
    d: int,
    layout: Layout,
    rng: Any,
    contexts: dict[str, Context],
    r_0: Array | None,
) -> Recurrence:
    """Make the step of one layer and direction: with its parameters, masks and transform."""
    structure = definition.structure
    suffix = structure.suffix(layer, d)
    params = definition.parameters.grouped(suffix)
    if rng is None and definition.transform is None and r_0 is None:
        return recurrence_of(definition, layer, d)
    masks = inference_masks(definition.cell)
    if rng is not None:
        H = structure.hidden_sizes[layer]
        masks = draw_masks(
            definition.cell, rng, params, layout.steps, H, backend=definition.backend, dtype=definition.dtype
        )
    transform = None
    if definition.transform is not None:
        R = structure.recurrent_sizes[layer]
        transform = BoundTransform(definition.transform, params.transform or {}, contexts, R)
    return Recurrence(params, definition.cell, masks, transform, r_0)


def _masks(definition: Layer, rng: Any, rows: int) -> list[list[Array | None]]:
    """Draw the dropout below each layer: for what both directions read, or for each column."""
    structure = definition.structure
    masks: list[list[Array | None]] = [[None]]
    for layer in range(1, structure.layers):
        shape = (rows, structure.layer_input(layer))
        count = structure.directions if structure.wiring.independent else 1
        if rng is None or definition.dropout == 0:
            masks.append([None] * count)
        else:
            draws = [
                dropout_mask(definition.backend, rng, shape, definition.dtype, definition.dropout)
                for _ in range(count)
            ]
            masks.append([*draws])
    return masks
