"""The way back on a CUDA device: the steps of a span, then each weight's gradient as one product over its rows."""

from typing import NamedTuple, Protocol

from nplstm._typing import Array
from nplstm.backends import backend_of, namespace
from nplstm.core.params import LSTMParams
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.cuda.addresses import dense_rows
from nplstm.engines.cuda.board import check_launches
from nplstm.engines.cuda.lanes import CudaTape, Running, Span, empty, multiply, spans

__all__ = ["BackwardLane", "BackwardSteps", "cuda_backward"]


class BackwardLane(NamedTuple):
    """One lane over one span."""

    tape: CudaTape
    grad_out: Array | None  # (N, H)
    running: Running  # the gradient of the state after the steps; then of that before them
    grad_a: Array  # (rows, 4H)  receives d loss / d a_t
    first_row: int  # of `grad_a`, among all rows


class BackwardSteps(Protocol):
    """Runs the steps of a span back: what an engine is."""

    def __call__(self, lanes: list[BackwardLane], span: Span) -> None:
        """Take ``running`` back and fill ``grad_a``. The span's steps count from the end of each sequence."""
        ...


def cuda_backward(
    grad_outputs: list[Array] | None,
    grad_final: list[State],
    tapes: list[CudaTape],
    *,
    run: BackwardSteps,
    chained: bool = False,
) -> list[SequenceGradients]:
    """Run the lanes back; see ``Engine.backward``.

    With ``chained`` the gradient of each lane's output comes, as it is made, from the lane ahead of it in the
    list; ``grad_outputs`` has that of the first alone.
    """
    steps, x, H = tapes[0].steps, tapes[0].x, tapes[0].out.shape[1]
    check_launches(x)
    running = [Running(final) for final in grad_final]
    given = [dense_rows(grad) for grad in grad_outputs or []]
    grads = [*given, *[None] * (len(tapes) - len(given))]
    sums = [_Sums(tape, chained and k + 1 < len(tapes)) for k, tape in enumerate(tapes)]
    parts = list(spans(steps, 4 * H * x.dtype.itemsize * len(tapes)))
    most = max((span.most_rows for span in parts), default=0)
    room = [empty(x, most, 4 * H) for _ in tapes]
    for span in parts:
        of_span: list[BackwardLane] = []
        for tape, grad, state, grad_a in zip(tapes, grads, running, room, strict=True):
            of_span.append(BackwardLane(tape, grad, state, grad_a, span.rows(reverse=not tape.reverse).start))
        run(of_span, span)
        for tape, total, grad_a in zip(tapes, sums, room, strict=True):
            total.add(grad_a, span.rows(reverse=not tape.reverse))
    return [total.gradients(state.state()) for total, state in zip(sums, running, strict=True)]


class _Sums:
    """The gradients of one lane's input and parameters, which grow by a span at a time."""

    def __init__(self, tape: CudaTape, passed_on: bool) -> None:
        xp, params = namespace(tape.x), tape.recurrence.params
        self._tape, self._passed_on = tape, passed_on
        self._weight_ih, self._weight_hh = xp.zeros_like(params.weight_ih), xp.zeros_like(params.weight_hh)
        self._bias = None if params.bias_ih is None else xp.zeros_like(params.bias_ih)
        self._x = tape.x[:0] if passed_on else xp.empty_like(tape.x)

    def add(self, grad_a: Array, rows: slice) -> None:
        """Add what the rows contribute, of which ``grad_a`` has the first."""
        tape, grad_a = self._tape, grad_a[: rows.stop - rows.start]
        self._weight_ih += multiply(grad_a.T, tape.x[rows], tape.precision)
        for some, before in _states_before(tape, rows):
            self._weight_hh += multiply(grad_a[some].T, before, tape.precision)
        if not self._passed_on:
            multiply(grad_a, tape.recurrence.params.weight_ih, tape.precision, self._x[rows])
        if self._bias is not None:
            self._bias += grad_a.sum(axis=0)

    def gradients(self, state: State) -> SequenceGradients:
        """Return the sums."""
        grads = LSTMParams.of_sum(self._weight_ih, self._weight_hh, self._bias)
        return SequenceGradients(self._x, state, None, grads, {})


def _states_before(tape: CudaTape, rows: slice) -> list[tuple[slice, Array]]:
    """Return h_{t-1} of some rows of whole steps, in parts: which of the rows, and theirs.

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
