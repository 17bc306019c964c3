"""The time loop: one layer in one direction over whole sequences, forward and back through time.

Reads packed data (see ``packed.py``): N rows in all, the first ``batch_sizes[t]`` of the B sequences at step t.
The reverse direction runs the same loop from the last step to the first; there each sequence joins at its own
last step. Products that do not depend on the recurrence are outside of the loop: W_ih x is computed for a block
of steps at a time, and each weight's gradient is one product at the end.

Axes: T steps, N rows, B sequences, I input, H cells, K = 4H gates (3H coupled), P the width of h (H, or
``proj_size``), R the width of the recurrent input (P, or another with a hidden transform).
"""

from typing import NamedTuple

from nplstm._typing import Array
from nplstm.backends import backend_of, namespace
from nplstm.core.bound_transform import zero_context_gradients
from nplstm.core.ops.dropout import dropout_backward, dropout_forward
from nplstm.core.ops.layer_norm import LayerNormTape, layer_norm_backward
from nplstm.core.ops.linear import linear_backward
from nplstm.core.packed import PackedSteps
from nplstm.core.params import LSTMParams, Sums
from nplstm.core.step import Backward, State, Step, StepTape

__all__ = ["SequenceGradients", "SequenceTape", "sequence_backward", "sequence_forward"]

BLOCK_ROWS = 1024
"""Rows of input that are transformed at once: enough for the matrix product to be efficient, and a bound on
what inference needs beyond its input and output."""

NORM_ROWS = 128
"""The same with layer normalisation, which reads a block a dozen times: it has to stay in the cache."""


class SequenceTape(NamedTuple):
    """Values that backpropagation through time needs from one forward pass."""

    step: Step  # with the parameters as they were in the forward pass
    steps: PackedSteps
    reverse: bool
    x: Array  # (N, I)  after dropout
    recurrent: Array  # (N, R)  what W_hh read
    norms: list[LayerNormTape]  # of the input's product, by block of steps, in the order of rows
    tapes: list[StepTape]  # by step, in the order of time


class SequenceGradients(NamedTuple):
    """Gradients of one layer in one direction."""

    x: Array  # (N, I)
    params: LSTMParams
    r_0: Array | None = None  # (B, R)
    context: dict[str, Array] | None = None  # of what the hidden transform read


def sequence_forward(
    x: Array,
    step: Step,
    steps: PackedSteps,
    *,
    initial: State,
    final: State,
    out: Array,
    reverse: bool = False,
    record: bool = False,
) -> SequenceTape | None:
    """Run one layer in one direction.

    Parameters
    ----------
    x : Array, shape (N, I)
        Packed input.
    step : Step
        The parameters and options.
    steps : PackedSteps
        Which rows of ``x`` belong to which step.
    initial : State of Arrays, shapes (B, P) and (B, H), and (B, S) where a hidden transform has a state
        Longest sequence first; not modified.
    final : State
        Receives each sequence's state after its own last step; for a sequence of length 0, its initial state.
    out : Array, shape (N, P)
        Receives h_t of every step; may be a slice of a wider array.
    reverse : bool
        Run from each sequence's end to its start.
    record : bool
        Keep what ``sequence_backward`` needs.

    Returns
    -------
    SequenceTape or None
    """
    xp = namespace(x)
    tapes: list[StepTape] = []
    norms: list[LayerNormTape] = []
    if step.masks.input is not None:
        x = dropout_forward(x, _by_row(step.masks.input, steps))
    R = step.params.weight_hh.shape[1]
    recurrent = xp.empty((steps.total, R), dtype=x.dtype) if record else None
    running = steps.size(0) if len(steps) else 0
    if running < steps.batch:  # sequences of length 0
        for array, last in zip(initial, final, strict=True):
            if array is not None and last is not None:
                last[running:] = array[running:]
    state = _first(initial, 0)  # of the sequences that are running
    block_rows = BLOCK_ROWS if step.params.gain_ih is None else NORM_ROWS
    for block in steps.blocks(block_rows, reverse=reverse):
        rows_of_block = steps.span(min(block[0], block[-1]), max(block[0], block[-1]) + 1)
        from_input, norm = step.from_input(x[rows_of_block])
        if record and norm is not None:
            norms.append(norm)
        for t in block:
            rows = steps.rows(t)
            began = len(state.h)
            state = _resize(state, rows.stop - rows.start, initial, final)
            a = from_input[rows.start - rows_of_block.start : rows.stop - rows_of_block.start]
            keep = None if recurrent is None else recurrent[rows]
            state, tape = step.forward(a, state, rows, began, keep)
            out[rows] = state.h
            if record:
                tapes.append(tape)
    for running, last in zip(state, final, strict=True):
        if running is not None and last is not None:
            last[: len(running)] = running
    if recurrent is None:
        return None
    order = slice(None, None, -1 if reverse else 1)
    return SequenceTape(step, steps, reverse, x, recurrent, norms[order], tapes[order])


def sequence_backward(grad_output: Array | None, grad: State, tape: SequenceTape) -> SequenceGradients:
    """Backpropagate through time: visit the recorded steps from the last one processed to the first.

    ::

        grad_h_t = grad_output_t + grad_a_{t+1} W_hh        (and at a sequence's last step, grad_h_n)
        grad_W_hh = sum over t of grad_a_t^T r_{t-1}, and likewise W_ih, W_hr and the biases

    Parameters
    ----------
    grad_output : Array, shape (N, P), or None
        d loss / d h_t at each step, packed; None where the loss reads none of them.
    grad : State of Arrays
        d loss / d final state; overwritten with d loss / d initial state.
    tape : SequenceTape
        From ``sequence_forward``; not modified.

    Returns
    -------
    SequenceGradients
        ``params`` are sums over all rows.
    """
    steps = tape.steps
    buffers = _buffers(tape, grad.h.shape[1])
    for t in range(len(steps)) if tape.reverse else range(len(steps) - 1, -1, -1):
        rows = steps.rows(t)
        n = rows.stop - rows.start
        before = t + 1 if tape.reverse else t - 1
        began = min(n, steps.size(before)) if 0 <= before < len(steps) else 0
        if grad_output is not None:
            grad.h[:n] += grad_output[rows]
        previous = tape.step.backward(_first(grad, n), tape.tapes[t], rows, began, buffers)
        for running, share in zip(grad, previous, strict=True):
            if running is not None and share is not None:
                running[:n] = share
    grad_x, params = _collect(tape, buffers)
    return SequenceGradients(grad_x, params, buffers.grad_r_0, buffers.grad_context)


def _buffers(tape: SequenceTape, width: int) -> Backward:
    """Make room for what a backward pass puts together at its end."""
    xp, step = namespace(tape.x), tape.step
    params, transform = step.params, step.transform
    rows, dtype = tape.steps.total, tape.x.dtype
    grad_a = xp.empty((rows, params.weight_hh.shape[0]), dtype=dtype)
    return Backward(
        grad_a=grad_a,
        grad_product=grad_a if params.gain_hh is None else xp.empty_like(grad_a),
        grad_projected=None if params.weight_hr is None else xp.empty((rows, width), dtype=dtype),
        grad_r_0=None if step.r_0 is None else xp.zeros(step.r_0.shape, dtype=dtype),
        width=width,
        grad_context={} if transform is None else zero_context_gradients(transform.context),
        sums=Sums(),
    )


def _collect(tape: SequenceTape, buffers: Backward) -> tuple[Array, LSTMParams]:
    """Take the products over all rows that the loop put off; return d loss / d x and those of the parameters."""
    step, sums, grad_a = tape.step, buffers.sums, buffers.grad_a
    params, masks = step.params, step.masks
    xp = namespace(grad_a)
    step.cell.collect(grad_a, [taken.cell for taken in tape.tapes], sums)
    grad_product = grad_a
    if params.gain_ih is not None and tape.norms:
        grad_product, first = xp.empty_like(grad_a), 0
        for norm in tape.norms:  # a block at a time stays in the cache
            rows = slice(first, first + len(norm.scale))
            grad_product[rows], grad_gain = layer_norm_backward(grad_a[rows], params.gain_ih, norm)
            sums.add("gain_ih", grad_gain)
            first = rows.stop
    if params.bias_ih is not None:
        # the biases are added up, so their gradients are equal; but each is an array of its own
        bias = grad_a.sum(axis=0)
        sums.add("bias_ih", bias)
        sums.add("bias_hh", bias.copy())
    from_input = linear_backward(grad_product, tape.x, params.weight_ih, bias=False)
    sums.add("weight_ih", from_input.weight)
    grad_weight = buffers.grad_product.T @ tape.recurrent
    sums.add("weight_hh", grad_weight if masks.weight is None else dropout_backward(grad_weight, masks.weight))
    if buffers.grad_projected is not None:
        sums.add("weight_hr", buffers.grad_projected.T @ _cell_outputs(tape))
    grad_x = from_input.x
    if masks.input is not None:
        grad_x = dropout_backward(grad_x, _by_row(masks.input, tape.steps))
    return grad_x, sums.gradients(params)


def _by_row(values: Array, steps: PackedSteps) -> Array:
    """Return each row's sequence's values, (N, ...) from (B, ...)."""
    return values[backend_of(values).asarray(steps.sequences)]


def _first(state: State, n: int) -> State:
    """Return the state of the first ``n`` sequences."""
    return State(state.h[:n], state.c[:n], None if state.s is None else state.s[:n])


def _resize(running: State, n: int, initial: State, final: State) -> State:
    """Return the state of the first ``n`` sequences, given that of those that took the last step.

    Sequences that have ended leave their state in ``final``; those that begin, in the reverse direction at
    their own ends, bring theirs from ``initial``.
    """
    before = len(running.h)
    if before == 0:
        return _first(initial, n)
    if n < before:
        for array, last in zip(running, final, strict=True):
            if array is not None and last is not None:
                last[n:before] = array[n:]
        return _first(running, n)
    if n > before:
        join = namespace(running.h).concatenate
        h, c = join([running.h, initial.h[before:n]]), join([running.c, initial.c[before:n]])
        s = None if running.s is None or initial.s is None else join([running.s, initial.s[before:n]])
        return State(h, c, s)
    return running


def _cell_outputs(tape: SequenceTape) -> Array:
    """Recompute what the projection read at each step, (N, H)."""
    xp, step = namespace(tape.x), tape.step
    assert step.params.weight_hr is not None
    outputs = xp.empty((tape.steps.total, step.params.weight_hr.shape[1]), dtype=tape.x.dtype)
    for t, taken in enumerate(tape.tapes):
        outputs[tape.steps.rows(t)] = step.cell.output(taken.cell)
    return outputs
