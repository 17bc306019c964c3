"""Backward pass of the compiled engine: one kernel call for a layer or a stack, and its gradients."""

import numpy as np

from nplstm._typing import Array
from nplstm.core.cell_spec import CellSpec
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.params import LSTMParams
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines._numpy.memory import work_space
from nplstm.engines.compiled.forward import CompiledTape, aligned_rows, checked_steps
from nplstm.engines.compiled.kernel_weights import checked_layers, padded_width
from nplstm.engines.compiled.library import library
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
    grad_x = tuple([work_space((N, padded_width(I, dtype.itemsize)), dtype) for _ in x])
    grads = np.empty(sum([_size(one) for one in weights]), dtype)
    library().module.backward(
        checked_layers(weights, D, back=True), x, *tape.initial[:2], tape.out, tape.reverse,
        checked_steps(tape.steps), tape.kept,
        None if grad_out is None else tuple([aligned_rows(rows) for rows in grad_out]),
        grad.h, grad.c, grad_x, grads, get_num_threads(),
    )  # fmt: skip
    of_x = [values[:, :I] for values in grad_x]
    results: list[SequenceGradients] = []
    start = 0
    for k, one in enumerate(weights):
        end = start + _size(one)
        results.append(SequenceGradients(of_x[k % D], _params(grads[start:end], one)))
        start = end
    return [results[k : k + D] for k in range(0, len(results), D)]


def _size(weights: LayerWeights) -> int:
    """Return how many numbers the kernels write for the gradients of one layer and direction."""
    (P, H), params = weights.widths, weights.params
    size = 4 * H * (params.weight_ih.shape[1] + P + 2)
    if params.weight_ch is not None:
        size += 3 * H
    return size if params.weight_hr is None else size + P * H


def _params(flat: Array, weights: LayerWeights) -> LSTMParams:
    """Return the gradients of one layer and direction: parts of ``flat``."""
    (P, H), params = weights.widths, weights.params
    I = params.weight_ih.shape[1]
    ends = 4 * H * I, 4 * H * (I + P), 4 * H * (I + P + 1), 4 * H * (I + P + 2)
    rest = flat[ends[3] :]
    peephole = weight_hr = None
    if params.weight_ch is not None:
        peephole, rest = rest[: 3 * H], rest[3 * H :]
    if params.weight_hr is not None:
        weight_hr = rest.reshape(P, H)
    biased = params.bias_ih is not None
    found = LSTMParams(
        flat[: ends[0]].reshape(4 * H, I),
        flat[ends[0] : ends[1]].reshape(4 * H, P),
        flat[ends[1] : ends[2]] if biased else None,
        flat[ends[2] : ends[3]] if biased else None,
        weight_hr,
        peephole,
    )
    return _coupled(found, weights.spec) if weights.spec.coupled_input_forget else found


def _coupled(params: LSTMParams, spec: CellSpec) -> LSTMParams:
    """Return the gradients of three gates from those of the four that were made of them, with f = 1 - i."""
    gates = {name: _joined(array, 4) for name, array in params.named().items() if name not in _NOT_OF_GATES}
    if params.weight_ch is not None:
        gates["weight_ch"] = _joined(params.weight_ch, 3)
    return params._replace(**gates)


_NOT_OF_GATES = ("weight_hr", "weight_ch")


def _joined(values: Array, gates: int) -> Array:
    """Return i - f and the others, of gates i, f and others."""
    i, f, *others = values.reshape(gates, -1, *values.shape[1:])
    return np.concatenate([i - f, *others])
