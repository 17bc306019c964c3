"""A stack of layers in one or two directions: forward and backward.

``concat``: layer l > 0 reads the outputs of both directions of layer l - 1, side by side: ``torch.nn.LSTM``'s
wiring. ``independent``: two columns that never mix; each direction's layer l reads its own layer l - 1.

Between layers there is dropout; a residual layer adds its input, as it was before dropout, to its output. All
data is packed: N rows, longest sequence first. What belongs to one layer and direction stands in lists, by
layer, then by direction; states stand as in ``StackCall``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.ops.dropout import dropout_backward, dropout_forward
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines import Engine, StackCall
from nplstm.engines.base import split_directions, state_of

__all__ = ["DropoutMasks", "StackGradients", "StackTape", "Wiring", "stack_backward", "stack_forward"]

DropoutMasks = list[list[Array | None]]
"""Of the dropout below each layer: a mask for each input that there is, one for both directions or one each."""


@dataclass(frozen=True)
class Wiring:
    """How layers and directions are connected."""

    reverse: tuple[bool, ...]  # for each direction, whether it runs from the end
    independent: bool = False  # two columns that never mix
    residual: frozenset[int] = frozenset()  # the layers that add their input to their output

    @cached_property
    def inputs(self) -> int:
        """How many inputs a layer above the first has: one for both directions, or one each."""
        return len(self.reverse) if self.independent else 1

    @cached_property
    def plain(self) -> bool:
        """Whether each layer reads the whole output of the one below as it is, dropout aside."""
        return not self.residual and not self.independent


class StackTape(NamedTuple):
    """What the backward pass needs of every layer and direction."""

    wiring: Wiring
    engine: Engine
    layers: list[Any]  # the engine's tapes
    dropout: DropoutMasks | None


class StackGradients(NamedTuple):
    """Result of ``stack_backward``."""

    x: Array  # (N, I)
    sequences: list[list[SequenceGradients]]  # of which ``x`` is used up


def stack_forward(
    x: Array,
    stack: StackCall,
    steps: PackedSteps,
    engine: Engine,
    *,
    wiring: Wiring,
    dropout: DropoutMasks | None,
    record: bool,
) -> tuple[Array, StackTape | None]:
    """Run all layers on ``x`` (N, I); return the last one's output (N, D * P), directions side by side."""
    tapes: list[Any] = []
    if wiring.plain and dropout is None:
        together = engine.forward_stack(stack, x, steps, record=record)
        if together is not None:
            joined, tapes = together
            return joined, StackTape(wiring, engine, tapes, None) if record else None
    joined, inputs = x, [x]  # one input for both directions, or one each
    for layer in range(len(stack.weights)):
        read = inputs
        if dropout is not None:
            read = [i if m is None else dropout_forward(i, m) for i, m in zip(inputs, dropout[layer], strict=True)]
        joined = stack.new_output(layer, x)
        of_directions = read if len(read) == len(wiring.reverse) else read * 2
        tapes.append(engine.forward(stack.layer(layer, of_directions, joined), steps, record=record))
        below = inputs
        if layer in wiring.residual and record:  # the tapes have the output as it is now
            joined = joined.copy()
        inputs = split_directions(joined, wiring.inputs)
        del read, of_directions  # let go of the layer's input ahead of the next allocation
        if layer in wiring.residual:
            for k in range(len(inputs)):
                inputs[k] += below[k % len(below)]
    return joined, StackTape(wiring, engine, tapes, dropout) if record else None


def stack_backward(grad_out: list[Array] | None, grad: State, tape: StackTape) -> StackGradients:
    """Run all layers back.

    Parameters
    ----------
    grad_out : list of Arrays (N, P), optional
        Of each direction's output.
    grad : State
        Of the final states; overwritten with that of the initial ones.
    tape : StackTape
    """
    wiring, dropout, layers = tape.wiring, tape.dropout, len(tape.layers)
    if wiring.plain and dropout is None:
        together = tape.engine.backward_stack(grad_out, grad, tape.layers)
        if together is not None:
            return StackGradients(_input_gradient(together[0]), together)
    results: list[list[SequenceGradients]] = []
    below: list[Array] = []
    for layer in range(layers - 1, -1, -1):
        found = tape.engine.backward(grad_out, state_of(grad, layer), tape.layers[layer])
        results.insert(0, found)
        inputs = 1 if layer == 0 else wiring.inputs
        below = [gradients.x for gradients in found] if inputs == len(found) else [_input_gradient(found)]
        if dropout is not None:
            below = [
                g if m is None else dropout_backward(g, m) for g, m in zip(below, dropout[layer], strict=True)
            ]
        if layer in wiring.residual and grad_out is not None:
            below = [
                g + more for g, more in zip(below, _residual_gradients(grad_out, inputs, wiring), strict=True)
            ]
        if layer > 0:
            grad_out = below if wiring.independent else split_directions(below[0], len(wiring.reverse))
    return StackGradients(below[0], results)


def _input_gradient(found: list[SequenceGradients]) -> Array:
    """Return the gradient of an input that all directions read."""
    return found[0].x if len(found) == 1 else found[0].x + found[1].x


def _residual_gradients(grads: list[Array], inputs: int, wiring: Wiring) -> list[Array]:
    """Return what the layer's output passes on to its ``inputs``."""
    if not wiring.independent:
        return [namespace(grads[0]).concatenate(grads, axis=1) if len(grads) > 1 else grads[0]]
    return grads if inputs == len(grads) else [grads[0] + grads[1]]
