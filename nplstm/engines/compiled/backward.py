"""Backward pass of the compiled engine: one kernel call for a layer or a stack, and its gradients."""

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
    layers = checked_layers(weights, D, back=True)
    grad_x = tuple([work_space((N, layers.Ip), dtype) for _ in x])
    grads = tuple([_empty_gradients(one) for one in weights])
    layers.module.backward(
        layers.handle, x, tape.h_0, tape.c_0, tape.out, tape.reverse, checked_steps(tape.steps), tape.kept,
        None if grad_out is None else tuple([aligned_rows(rows) for rows in grad_out]),
        grad.h, grad.c, grad_x, grads, get_num_threads(),
    )  # fmt: skip
    of_x = [values[:, :I] for values in grad_x]
    found = [SequenceGradients(of_x[k % D], _params(grads[k], one)) for k, one in enumerate(weights)]
    return [found[k : k + D] for k in range(0, len(found), D)]


def _empty_gradients(weights: LayerWeights) -> tuple[Array | None, ...]:
    """Make arrays for what the kernels write: W_ih, W_hh, b_ih, b_hh, peepholes and W_hr, or None."""
    (P, H), params = weights.widths, weights.params
    dtype, biased = params.weight_hh.dtype, weights.bias is not None
    return (
        np.empty((4 * H, params.weight_ih.shape[1]), dtype),
        np.empty((4 * H, P), dtype),
        np.empty(4 * H, dtype) if biased else None,
        np.empty(4 * H, dtype) if biased else None,
        None if params.weight_ch is None else np.empty(3 * H, dtype),
        None if params.weight_hr is None else np.empty((P, H), dtype),
    )


def _params(grads: tuple[Array | None, ...], weights: LayerWeights) -> LSTMParams:
    """Return the gradients of one layer and direction, with those of the three gates of which four were made."""
    *gates, peephole, weight_hr = grads
    if weights.spec.coupled_input_forget:
        gates, peephole = [_joined_gates(values, 4) for values in gates], _joined_gates(peephole, 3)
    weight_ih, weight_hh, bias_ih, bias_hh = gates
    return LSTMParams(weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, peephole)  # pyright: ignore[reportArgumentType]


def _joined_gates(values: Array | None, gates: int) -> Array | None:
    """Return the gradient of i, whose weights f has with the other sign, and those of the other gates."""
    if values is None:
        return None
    i, f, *others = values.reshape(gates, -1, *values.shape[1:])
    return np.concatenate([i - f, *others])
