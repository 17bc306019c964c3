"""The time loop: one layer in one direction over whole sequences, forward and back through time.

Reads packed data (see ``packing``): N rows in all, the first ``batch_sizes[t]`` of the B sequences at step t.
The reverse direction runs the same loop from the last step to the first, where sequences join at their own
ends. What does not depend on the recurrence is taken out of the loop: the input's share of the
pre-activations for a block of steps at a time, and each weight's gradient as one product at the end.

Axes: T steps, N rows, B sequences, I input, H cells, P recurrent output (H, or ``proj_size``).
"""

from typing import NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.cells.lstm import CellTape, lstm_cell_backward, lstm_cell_forward, lstm_cell_output
from nplstm.ops.linear import linear_backward, linear_forward
from nplstm.params import LSTMParams
from nplstm.steps import Steps

__all__ = ["SequenceGradients", "SequenceTape", "sequence_backward", "sequence_forward"]

BLOCK_ROWS = 1024
"""Rows of input that are transformed at once: enough for the matrix product to be efficient, and a bound on
what inference needs beyond its input and output."""


class SequenceTape(NamedTuple):
    """What backpropagation through time needs of one forward pass."""

    params: LSTMParams  # as they were in the forward pass
    steps: Steps
    reverse: bool
    x: Array  # (N, I)
    h_0: Array  # (B, P)
    h: Array  # (N, P)    the output
    cells: list[CellTape]  # by step, in the order of time


class SequenceGradients(NamedTuple):
    """Gradients of one layer in one direction."""

    x: Array  # (N, I)
    h_0: Array  # (B, P)
    c_0: Array  # (B, H)
    params: LSTMParams


def sequence_forward(
    x: Array,
    h_0: Array,
    c_0: Array,
    params: LSTMParams,
    steps: Steps,
    *,
    out: Array,
    reverse: bool = False,
    record: bool = False,
) -> tuple[Array, Array, SequenceTape | None]:
    """Run one layer in one direction.

    Parameters
    ----------
    x : Array, shape (N, I)
        Packed input.
    h_0, c_0 : Array, shapes (B, P) and (B, H)
        Initial states, longest sequence first; not modified.
    params : LSTMParams
    steps : Steps
        The layout of ``x``.
    out : Array, shape (N, P)
        Receives h_t of every step; may be a slice of a wider array.
    reverse : bool
        Run from each sequence's end to its start.
    record : bool
        Keep what ``sequence_backward`` needs.

    Returns
    -------
    h_n, c_n : Array, shapes (B, P) and (B, H)
        Each sequence's state after its own last step; for a sequence of length 0, its initial state.
    tape : SequenceTape or None
    """
    weight_hh, weight_hr = params.weight_hh.T, params.weight_hr
    bias = None if params.bias_ih is None or params.bias_hh is None else params.bias_ih + params.bias_hh
    cells: list[CellTape] = []
    h_n, c_n = h_0.copy(), c_0.copy()
    h, c = h_0[:0], c_0[:0]  # of the sequences that are running
    for block in steps.blocks(BLOCK_ROWS, reverse=reverse):
        rows_of_block = steps.rows(min(block[0], block[-1]), max(block[0], block[-1]))
        from_input = linear_forward(x[rows_of_block], params.weight_ih, bias)
        for t in block:
            rows = steps.rows(t)
            n = rows.stop - rows.start
            h, c = _resize(h, n, h_0, h_n), _resize(c, n, c_0, c_n)
            a = from_input[rows.start - rows_of_block.start : rows.stop - rows_of_block.start]
            a += h @ weight_hh
            h, c, cell = lstm_cell_forward(a, c)
            if weight_hr is not None:
                h = linear_forward(h, weight_hr)
            out[rows] = h
            if record:
                cells.append(cell)
    h_n[: len(h)], c_n[: len(c)] = h, c
    if not record:
        return h_n, c_n, None
    return h_n, c_n, SequenceTape(params, steps, reverse, x, h_0, out, cells[::-1] if reverse else cells)


def sequence_backward(
    grad_output: Array | None, grad_h_n: Array, grad_c_n: Array, tape: SequenceTape
) -> SequenceGradients:
    """Backpropagate through time: visit the recorded steps from the last one processed to the first.

    ::

        grad_h_t = grad_output_t + grad_a_{t+1} W_hh        (and at a sequence's last step, grad_h_n)
        grad_W_hh = sum over t of grad_a_t^T h_{t-1}, and likewise W_ih, W_hr and the biases

    Parameters
    ----------
    grad_output : Array, shape (N, P), or None
        d loss / d h_t at each step, packed; None where the loss reads none of them.
    grad_h_n, grad_c_n : Array, shapes (B, P) and (B, H)
        d loss / d final state; not modified.
    tape : SequenceTape
        From ``sequence_forward``; not modified.

    Returns
    -------
    SequenceGradients
        ``params`` are sums over all rows.
    """
    params, steps = tape.params, tape.steps
    xp = namespace(tape.x)
    grad_a = xp.empty((steps.total, params.weight_hh.shape[0]), dtype=tape.x.dtype)
    h_prev = xp.empty_like(tape.h, order="C")
    grad_projected = None if params.weight_hr is None else xp.empty_like(h_prev)
    grad_h, grad_c = grad_h_n.copy(), grad_c_n.copy()
    for t in range(len(steps)) if tape.reverse else range(len(steps) - 1, -1, -1):
        rows = steps.rows(t)
        n = rows.stop - rows.start
        _write_previous_h(h_prev[rows], t, tape)
        if grad_output is not None:
            grad_h[:n] += grad_output[rows]
        grad_cell_output = grad_h[:n]
        if params.weight_hr is not None and grad_projected is not None:
            grad_projected[rows] = grad_cell_output
            grad_cell_output = grad_cell_output @ params.weight_hr
        grad_c[:n] = lstm_cell_backward(grad_cell_output, grad_c[:n], tape.cells[t], grad_a[rows])
        grad_h[:n] = grad_a[rows] @ params.weight_hh
    return _collect(tape, grad_a, h_prev, grad_projected, grad_h, grad_c)


def _collect(
    tape: SequenceTape,
    grad_a: Array,
    h_prev: Array,
    grad_projected: Array | None,
    grad_h_0: Array,
    grad_c_0: Array,
) -> SequenceGradients:
    """Take the products over all rows that the loop put off."""
    params = tape.params
    from_input = linear_backward(grad_a, tape.x, params.weight_ih, bias=params.bias_ih is not None)
    grad_params = LSTMParams(
        weight_ih=from_input.weight,
        weight_hh=grad_a.T @ h_prev,
        bias_ih=from_input.bias,
        # the biases are added up, so their gradients are equal; but each is an array of its own
        bias_hh=None if from_input.bias is None else from_input.bias.copy(),
        weight_hr=None if grad_projected is None else grad_projected.T @ _cell_outputs(tape),
    )
    return SequenceGradients(from_input.x, grad_h_0, grad_c_0, grad_params)


def _resize(running: Array, n: int, initial: Array, final: Array) -> Array:
    """Return the state of the first ``n`` sequences, given that of those that took the last step.

    Sequences that have ended leave their state in ``final``; those that begin, in the reverse direction at
    their own ends, bring theirs from ``initial``.
    """
    before = len(running)
    if n < before:
        final[n:before] = running[n:]
        return running[:n]
    if n > before:
        return namespace(running).concatenate([running, initial[before:n]])
    return running


def _write_previous_h(out: Array, t: int, tape: SequenceTape) -> None:
    """Write the state that step ``t`` read: the output of the step before it, or the initial state."""
    before = t + 1 if tape.reverse else t - 1
    known = 0
    if 0 <= before < len(tape.steps):
        rows = tape.steps.rows(before)
        known = min(len(out), rows.stop - rows.start)
        out[:known] = tape.h[rows.start : rows.start + known]
    out[known:] = tape.h_0[known : len(out)]


def _cell_outputs(tape: SequenceTape) -> Array:
    """Recompute what the projection read at each step, (N, H)."""
    xp = namespace(tape.x)
    outputs = xp.empty((tape.steps.total, tape.params.weight_hh.shape[0] // 4), dtype=tape.x.dtype)
    for t, cell in enumerate(tape.cells):
        outputs[tape.steps.rows(t)] = lstm_cell_output(cell)
    return outputs
