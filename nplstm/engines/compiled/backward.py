"""Backward pass of the compiled engine: one kernel call for a layer or a stack, and its gradients."""

from math import prod
from typing import NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.params import LSTMParams
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines._numpy.memory import work_space
from nplstm.engines.compiled.forward import CompiledTape, aligned_rows, checked_steps
from nplstm.engines.compiled.kernel_weights import checked_layers
from nplstm.engines.threads import get_num_threads

__all__ = ["compiled_backward"]


def compiled_backward(
    grad_out: list[Array] | None, grad: State, tape: CompiledTape
) -> list[list[SequenceGradients]]:
    """Run the layers of a tape back; return the gradients by layer, then by direction.

    Gradients of x are valid for the lowest layer only; see ``Engine.backward_stack``.
    """
    weights, x, D = tape.weights, tape.x, len(tape.x)
    (N, I), dtype = x[0].shape, x[0].dtype
    layers, gradients = checked_layers(weights, D, back=True), weights[0].prepared(_gradients, *weights[1:])
    grad_x = tuple([work_space((N, layers.Ip), dtype) for _ in x])
    flat = np.empty(gradients.size, dtype)
    layers.module.backward(
        layers.handle, x, tape.h_0, tape.c_0, tape.out, tape.reverse, checked_steps(tape.steps), tape.kept,
        None if grad_out is None else tuple([aligned_rows(rows) for rows in grad_out]),
        grad.h, grad.c, grad_x, flat, get_num_threads(),
    )  # fmt: skip
    flat.setflags(write=False)  # and so are its parts, which need no views that are
    of_x = [values[:, :I] for values in grad_x]
    found = [SequenceGradients(of_x[k % D], _params(flat, gradients, k)) for k in range(len(weights))]
    return [found[k : k + D] for k in range(0, len(found), D)]


class _Gradients(NamedTuple):
    """Where the kernels write the gradients of each layer and direction, in one flat array."""

    size: int
    coupled: bool
    parts: list[list[tuple[slice, tuple[int, ...]] | None]]  # in the order of LSTMParams


def _gradients(*weights: LayerWeights) -> _Gradients:
    end = 0

    def part(shape: tuple[int, ...]) -> tuple[slice, tuple[int, ...]]:
        nonlocal end
        start, end = end, end + prod(shape)
        return slice(start, end), shape

    parts: list[list[tuple[slice, tuple[int, ...]] | None]] = []
    for one in weights:
        (P, H), params = one.widths, one.params
        of_gates = [part((4 * H, params.weight_ih.shape[1])), part((4 * H, P)), part((4 * H,)), part((4 * H,))]
        peephole = None if params.weight_ch is None else part((3 * H,))
        weight_hr = None if params.weight_hr is None else part((P, H))
        biases = [None, None] if params.bias_ih is None else of_gates[2:]
        parts.append([*of_gates[:2], *biases, weight_hr, peephole])
    return _Gradients(end, weights[0].spec.coupled_input_forget, parts)


def _params(flat: Array, gradients: _Gradients, k: int) -> LSTMParams:
    """Return the gradients of the k-th layer and direction."""
    found = [None if part is None else flat[part[0]].reshape(part[1]) for part in gradients.parts[k]]
    if gradients.coupled:
        weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, peephole = found
        gates = [_joined_gates(values, 4) for values in (weight_ih, weight_hh, bias_ih, bias_hh)]
        found = [*gates, weight_hr, _joined_gates(peephole, 3)]
    return LSTMParams(*found)  # pyright: ignore[reportArgumentType]


def _joined_gates(values: Array | None, gates: int) -> Array | None:
    """Return the gradient of i, whose weights f has with the other sign, and those of the other gates."""
    if values is None:
        return None
    i, f, *others = values.reshape(gates, -1, *values.shape[1:])
    return np.concatenate([i - f, *others])
