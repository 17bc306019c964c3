"""Layers on top of each other, in one or two directions.

``concat``: layer l > 0 reads the outputs of both directions of layer l - 1, side by side: ``torch.nn.LSTM``'s
wiring. ``independent``: two columns that never mix; each direction's layer l reads its own layer l - 1.

Between layers there is dropout; a residual layer adds its input, as it was before dropout, to its output. All
data is packed: N rows, longest sequence first. What belongs to one layer and direction stands in lists, by
layer, then by direction.
"""

from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.ops.dropout import dropout_backward, dropout_forward
from nplstm.core.packed import PackedSteps
from nplstm.core.step import Recurrence, State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines import Engine, Lane

__all__ = ["StackGradients", "StackOutput", "StackTape", "Wiring", "stack_backward", "stack_forward"]


class Wiring(NamedTuple):
    """How layers and directions hang together."""

    directions: tuple[bool, ...]  # for each direction, whether it runs in reverse
    independent: bool = False  # two columns that never mix
    residual: frozenset[int] = frozenset()  # the layers that add their input to their output


class StackTape(NamedTuple):
    """What the backward pass needs of every layer and direction."""

    wiring: Wiring
    engine: Engine
    sequences: list[list[Any]]  # the engine's tapes
    masks: list[list[Array | None]]  # the dropout below layer l: one mask for each input there is, see _inputs


class StackOutput(NamedTuple):
    """Result of ``stack_forward``."""

    joined: Array  # (N, D * P)
    outputs: list[Array]  # (N, P) for each direction: the parts of ``joined``
    final: list[list[State]]
    tape: StackTape | None


class StackGradients(NamedTuple):
    """Result of ``stack_backward``."""

    x: Array  # (N, I)
    sequences: list[list[SequenceGradients]]  # of which ``x`` is used up


def stack_forward(
    x: Array,
    initial: list[list[State]],
    recurrences: list[list[Recurrence]],
    steps: PackedSteps,
    engine: Engine,
    *,
    wiring: Wiring,
    masks: list[list[Array | None]],
    record: bool,
) -> StackOutput:
    """Run all layers on ``x`` (N, I); ``masks`` as in the tape, with none for layer 0."""
    widths = [directions[0].h.shape[1] for directions in initial]
    plain = _plain(wiring, masks)
    if plain and engine.runs_together(x, widths, steps):
        lanes = _column(x, initial, recurrences, wiring)
        results = engine.forward_stack(lanes, steps, record=record)
        tape = StackTape(wiring, engine, [[tape] for _, tape in results], masks) if record else None
        return StackOutput(lanes[-1].out, [lanes[-1].out], [[state] for state, _ in results], tape)
    inputs = [x]  # one for both directions, or one each
    joined, outputs = x, inputs
    final: list[list[State]] = []
    tapes: list[list[Any]] = []
    for layer, directions in enumerate(recurrences):
        read = [i if m is None else dropout_forward(i, m) for i, m in zip(inputs, masks[layer], strict=True)]
        joined, outputs = _room_for_outputs(x, [state.h.shape[1] for state in initial[layer]])
        lanes = [
            Lane(read[d % len(read)], initial[layer][d], recurrence, outputs[d], wiring.directions[d])
            for d, recurrence in enumerate(directions)
        ]
        results = engine.forward(lanes, steps, record=record)
        final.append([state for state, _ in results])
        tapes.append([tape for _, tape in results])
        if layer in wiring.residual and record:  # the tapes have the output as it is now
            joined = joined.copy()
            outputs = _split(joined, [output.shape[1] for output in outputs])
        below, inputs = inputs, outputs if wiring.independent else [joined]
        del read, lanes  # let go of the layer's input ahead of the next allocation
        if layer in wiring.residual:
            for k in range(len(inputs)):
                inputs[k] += below[k % len(below)]
    return StackOutput(joined, outputs, final, StackTape(wiring, engine, tapes, masks) if record else None)


def _plain(wiring: Wiring, masks: list[list[Array | None]]) -> bool:
    """Tell whether each layer reads the output of the one below as it is, in one direction."""
    return len(wiring.directions) == 1 and not wiring.residual and all(m is None for row in masks for m in row)


def _column(
    x: Array, initial: list[list[State]], recurrences: list[list[Recurrence]], wiring: Wiring
) -> list[Lane]:
    """Return the layers of one direction, between which there is nothing, each reading the output below."""
    lanes: list[Lane] = []
    for (state,), (recurrence,) in zip(initial, recurrences, strict=True):
        out, _ = _room_for_outputs(x, [state.h.shape[1]])
        lanes.append(Lane(lanes[-1].out if lanes else x, state, recurrence, out, wiring.directions[0]))
    return lanes


def stack_backward(
    grad_outputs: list[Array] | None, grad_final: list[list[State]], tape: StackTape
) -> StackGradients:
    """Run all layers back; ``grad_outputs`` (N, P) for each direction, ``grad_final`` like the final states."""
    wiring = tape.wiring
    if _plain(wiring, tape.masks):
        given, final = None if grad_outputs is None else grad_outputs[0], [states[0] for states in grad_final]
        column = tape.engine.backward_stack(given, final, [tapes[0] for tapes in tape.sequences])
        return StackGradients(column[0].x, [[result] for result in column])
    grads = grad_outputs  # of each direction's output
    results: list[list[SequenceGradients]] = []
    below: list[Array] = []
    for layer in range(len(tape.sequences) - 1, -1, -1):
        layer_results = tape.engine.backward(grads, grad_final[layer], tape.sequences[layer])
        results.insert(0, layer_results)
        below = _into_inputs([result.x for result in layer_results], tape.masks[layer])
        if layer in wiring.residual and grads is not None:
            for k, passed in enumerate(_residual_gradients(grads, len(below), wiring)):
                below[k] = below[k] + passed
        if layer > 0:
            widths = [state.h.shape[1] for state in grad_final[layer - 1]]
            grads = below if wiring.independent else _split(below[0], widths)
    return StackGradients(below[0], results)


def _into_inputs(grad_x: list[Array], masks: list[Array | None]) -> list[Array]:
    """Bring the gradients of what each direction read back through the dropout to what there was to read."""
    if len(masks) == 1 and len(grad_x) == 2:  # both directions read it
        grad_x = [grad_x[0] + grad_x[1]]
    return [g if m is None else dropout_backward(g, m) for g, m in zip(grad_x, masks, strict=True)]


def _residual_gradients(grads: list[Array], count: int, wiring: Wiring) -> list[Array]:
    """Return what the layer's output passes on to its ``count`` inputs."""
    if not wiring.independent:
        return [namespace(grads[0]).concatenate(grads, axis=1) if len(grads) > 1 else grads[0]]
    return grads if count == len(grads) else [grads[0] + grads[1]]


def _room_for_outputs(x: Array, widths: list[int]) -> tuple[Array, list[Array]]:
    """Make one array for all directions of a layer; return it and each direction's part."""
    joined = namespace(x).empty((len(x), sum(widths)), dtype=x.dtype)
    return joined, _split(joined, widths)


def _split(joined: Array, widths: list[int]) -> list[Array]:
    """Return each direction's part of (N, D * P)."""
    first = 0
    parts: list[Array] = []
    for width in widths:
        parts.append(joined[:, first : first + width])
        first += width
    return parts
