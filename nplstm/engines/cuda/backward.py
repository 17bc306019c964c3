"""Backward pass on a CUDA device: a range of steps, then each weight's gradient as one product over its rows."""

from typing import NamedTuple, Protocol

from nplstm._typing import Array
from nplstm.backends import backend_of, namespace
from nplstm.core.params import LSTMParams
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.cuda.addresses import dense_rows
from nplstm.engines.cuda.directions import CudaTape, RunningState, StepRange, empty, multiply, step_ranges
from nplstm.engines.cuda.exchange import check_launches

__all__ = ["BackwardInputs", "BackwardSteps", "cuda_backward"]


class BackwardInputs(NamedTuple):
    """Inputs of one direction for a range of steps."""

    tape: CudaTape
    grad_out: Array | None  # (N, H)
    running: RunningState  # the gradient of the state after the steps; then of that before them
    grad_a: Array  # (rows, 4H)  receives d loss / d a_t
    first_row: int  # of `grad_a`, among all rows


class BackwardSteps(Protocol):
    """A function of an engine that runs a range of steps back."""

    def __call__(self, directions: list[BackwardInputs], step_range: StepRange) -> None:
        """Advance ``running`` and fill ``grad_a``. Steps count from the end of each sequence."""
        ...


def cuda_backward(
    grad_out: list[Array] | None,
    grads: list[State],
    tapes: list[CudaTape],
    *,
    run: BackwardSteps,
    chained: bool = False,
) -> list[SequenceGradients]:
    """Run the directions of a layer back; see ``Engine.backward``. ``grads``, of the states, are overwritten.

    With ``chained`` these are layers, the highest first; each but the first reads the gradient of its output as
    the layer before it in the list computes it; ``grad_out`` has that of the first alone.
    """
    steps, x, H = tapes[0].steps, tapes[0].x, tapes[0].out.shape[1]
    check_launches(x)
    running = [RunningState(grad) for grad in grads]
    dense = [dense_rows(grad) for grad in grad_out or []]
    grad_outs = [*dense, *[None] * (len(tapes) - len(dense))]
    sums = [_GradientSums(tape, chained and k + 1 < len(tapes)) for k, tape in enumerate(tapes)]
    parts = list(step_ranges(steps, 4 * H * x.dtype.itemsize * len(tapes)))
    most = max((step_range.most_rows for step_range in parts), default=0)
    room = [empty(x, most, 4 * H) for _ in tapes]
    for step_range in parts:
        inputs: list[BackwardInputs] = []
        for tape, grad, state, grad_a in zip(tapes, grad_outs, running, room, strict=True):
            inputs.append(
                BackwardInputs(tape, grad, state, grad_a, step_range.rows(reverse=not tape.reverse).start)
            )
        run(inputs, step_range)
        for tape, total, grad_a in zip(tapes, sums, room, strict=True):
            total.add(grad_a, step_range.rows(reverse=not tape.reverse))
    for state, grad in zip(running, grads, strict=True):
        state.write(grad)
    return [total.gradients() for total in sums]


class _GradientSums:
    """Gradients of one direction's input and parameters, summed over the ranges of steps."""

    def __init__(self, tape: CudaTape, passed_on: bool) -> None:
        xp, params = namespace(tape.x), tape.weights.params
        self._tape, self._passed_on = tape, passed_on
        self._weight_ih, self._weight_hh = xp.zeros_like(params.weight_ih), xp.zeros_like(params.weight_hh)
        self._bias = None if params.bias_ih is None else xp.zeros_like(params.bias_ih)
        self._x = tape.x[:0] if passed_on else xp.empty_like(tape.x)

    def add(self, grad_a: Array, rows: slice) -> None:
        """Add the gradients of some rows; ``grad_a`` begins with the first of them."""
        tape, grad_a = self._tape, grad_a[: rows.stop - rows.start]
        self._weight_ih += multiply(grad_a.T, tape.x[rows], tape.precision)
        for some, before in _states_before(tape, rows):
            self._weight_hh += multiply(grad_a[some].T, before, tape.precision)
        if not self._passed_on:
            multiply(grad_a, tape.weights.params.weight_ih, tape.precision, self._x[rows])
        if self._bias is not None:
            self._bias += grad_a.sum(axis=0)

    def gradients(self) -> SequenceGradients:
        """Return the sums."""
        grads = LSTMParams.of_sum(self._weight_ih, self._weight_hh, self._bias)
        return SequenceGradients(self._x, grads)


def _states_before(tape: CudaTape, rows: slice) -> list[tuple[slice, Array]]:
    """Return h_{t-1} of some rows of whole steps, in parts: a slice of the rows, and its h_{t-1}.

    Sequences of one length need no copy: the rows of the step before stand B rows away.
    """
    steps, B = tape.steps, tape.steps.batch
    if steps.ragged:
        return [(slice(None), _gathered(tape, rows))]
    parts: list[tuple[slice, Array]] = []
    before = -B if not tape.reverse else B
    begin = 0 if not tape.reverse else steps.total - B  # the rows of the step that is taken first
    if rows.start <= begin < rows.stop:
        parts.append((slice(begin - rows.start, begin - rows.start + B), tape.h_0))
        rest = slice(rows.start + B, rows.stop) if not tape.reverse else slice(rows.start, begin)
    else:
        rest = rows
    if rest.stop > rest.start:
        parts.append(
            (
                slice(rest.start - rows.start, rest.stop - rows.start),
                tape.out[rest.start + before : rest.stop + before],
            )
        )
    return parts


def _gathered(tape: CudaTape, rows: slice) -> Array:
    """Return h_{t-1} of rows whose sequences end at different steps."""
    places, begins, sequences = tape.steps.rows_before(rows, reverse=tape.reverse)
    backend = backend_of(tape.out)
    found = tape.out[backend.asarray(places)]
    if begins.size:
        found[backend.asarray(begins)] = tape.h_0[backend.asarray(sequences)]
    return found
