"""Layers on top of each other, in one or two directions: ``torch.nn.LSTM``'s wiring.

Layer l > 0 reads the outputs of both directions of layer l - 1, side by side, after dropout. States stand in
the order ``layer * D + direction``. All data is packed: N rows, longest sequence first.
"""

from typing import NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.ops.dropout import dropout_backward, dropout_forward
from nplstm.params import LSTMParams
from nplstm.sequence import SequenceTape, sequence_backward, sequence_forward
from nplstm.steps import Steps

__all__ = ["StackGradients", "StackOutput", "StackParams", "StackTape", "stack_backward", "stack_forward"]

StackParams = list[tuple[LSTMParams, ...]]
"""By layer, then by direction."""


class StackTape(NamedTuple):
    """What the backward pass needs of every layer and direction."""

    sequences: list[tuple[SequenceTape, ...]]  # by layer, then by direction
    masks: list[Array | None]  # (N, D * P)  the dropout between layer l and l + 1, for the first L - 1 layers


class StackOutput(NamedTuple):
    """Result of ``stack_forward``."""

    output: Array  # (N, D * P)
    h_n: Array  # (L * D, B, P)
    c_n: Array  # (L * D, B, H)
    tape: StackTape | None


class StackGradients(NamedTuple):
    """Result of ``stack_backward``."""

    x: Array  # (N, I)
    h_0: Array  # (L * D, B, P)
    c_0: Array  # (L * D, B, H)
    params: StackParams


def stack_forward(
    x: Array,
    h_0: Array,
    c_0: Array,
    params: StackParams,
    steps: Steps,
    *,
    masks: list[Array | None],
    record: bool,
) -> StackOutput:
    """Run all layers; ``x`` (N, I), ``h_0`` (L * D, B, P), ``c_0`` (L * D, B, H), ``masks`` as in the tape."""
    xp = namespace(x)
    h_n, c_n = xp.empty_like(h_0), xp.empty_like(c_0)
    P = h_0.shape[-1]
    output = x
    tapes: list[tuple[SequenceTape, ...]] = []
    for layer, directions in enumerate(params):
        if layer > 0 and (mask := masks[layer - 1]) is not None:
            output = dropout_forward(output, mask)
        layer_input = output  # lets go of the layer's input before, ahead of the next allocation
        output = xp.empty((len(x), len(directions) * P), dtype=x.dtype)
        recorded: list[SequenceTape] = []
        for d, direction in enumerate(directions):
            k = layer * len(directions) + d
            h_n[k], c_n[k], tape = sequence_forward(
                layer_input,
                h_0[k],
                c_0[k],
                direction,
                steps,
                out=output[:, d * P : (d + 1) * P],
                reverse=d == 1,
                record=record,
            )
            if tape is not None:
                recorded.append(tape)
        tapes.append(tuple(recorded))
    return StackOutput(output, h_n, c_n, StackTape(tapes, masks) if record else None)


def stack_backward(grad_output: Array | None, grad_h_n: Array, grad_c_n: Array, tape: StackTape) -> StackGradients:
    """Run all layers back; ``grad_output`` (N, D * P), the others shaped like the states."""
    xp = namespace(grad_h_n)
    grad_h_0, grad_c_0 = xp.empty_like(grad_h_n), xp.empty_like(grad_c_n)
    P = grad_h_n.shape[-1]
    grad_params: StackParams = []
    grad = grad_output
    for layer in range(len(tape.sequences) - 1, -1, -1):
        directions = tape.sequences[layer]
        results = [
            sequence_backward(
                None if grad is None else grad[:, d * P : (d + 1) * P],
                grad_h_n[layer * len(directions) + d],
                grad_c_n[layer * len(directions) + d],
                sequence,
            )
            for d, sequence in enumerate(directions)
        ]
        for d, result in enumerate(results):
            grad_h_0[layer * len(directions) + d] = result.h_0
            grad_c_0[layer * len(directions) + d] = result.c_0
        grad_params.insert(0, tuple(result.params for result in results))
        grad = results[0].x if len(results) == 1 else results[0].x + results[1].x
        if layer > 0 and (mask := tape.masks[layer - 1]) is not None:
            grad = dropout_backward(grad, mask)
    assert grad is not None  # there is at least one layer
    return StackGradients(grad, grad_h_0, grad_c_0, grad_params)
