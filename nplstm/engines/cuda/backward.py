"""The way back on a CUDA device: the steps of a span, then each weight's gradient as one product over its rows."""

from typing import NamedTuple, Protocol

from nplstm._typing import Array
from nplstm.backends import backend_of, namespace
from nplstm.core.params import LSTMParams
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.cuda.addresses import dense_rows
from nplstm.engines.cuda.directions import CudaTape, Running, Span, empty, multiply, spans
from nplstm.engines.cuda.exchange import check_launches

__all__ = ["BackwardSpan", "BackwardSteps", "cuda_backward"]


class BackwardSpan(NamedTuple):
    """One direction over one span."""

    tape: CudaTape
    grad_out: Array | None  # (N, H)
    running: Running  # the gradient of the state after the steps; then of that before them
    grad_a: Array  # (rows, 4H)  receives d loss / d a_t
    first_row: int  # of `grad_a`, among all rows


class BackwardSteps(Protocol):
    """Runs the steps of a span back: what an engine is."""

    def __call__(self, directions: list[BackwardSpan], span: Span) -> None:
        """Take ``running`` back and fill ``grad_a``. The span's steps count from the end of each sequence."""
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

    With ``chained`` these are layers, the highest first, and the gradient of each one's output comes, as it is
    made, from the layer ahead of it in the list; ``grad_out`` has that of the first alone.
    """
    steps, x, H = tapes[0].steps, tapes[0].x, tapes[0].out.shape[1]
    check_launches(x)
    running = [Running(grad) for grad in grads]
    dense = [dense_rows(grad) for grad in grad_out or []]
    grad_outs = [*dense, *[None] * (len(tapes) - len(dense))]
    sums = [_Sums(tape, chained and k + 1 < len(tapes)) for k, tape in enumerate(tapes)]
    parts = list(spans(steps, 4 * H * x.dtype.itemsize * len(tapes)))
    most = max((span.most_rows for span in parts), default=0)
    room = [empty(x, most, 4 * H) for _ in tapes]
    for span in parts:
        of_span: list[BackwardSpan] = []
        for tape, grad, state, grad_a in zip(tapes, grad_outs, running, room, strict=True):
            of_span.append(BackwardSpan(tape, grad, state, grad_a, span.rows(reverse=not tape.reverse).start))
        run(of_span, span)
        for tape, total, grad_a in zip(tapes, sums, room, strict=True):
            total.add(grad_a, span.rows(reverse=not tape.reverse))
    for state, grad in zip(running, grads, strict=True):
        state.write(grad)
    return [total.gradients() for total in sums]


class _Sums:
    """The gradients of one direction's input and parameters, which grow by a span at a time."""

    def __init__(self, tape: CudaTape, passed_on: bool) -> None:
        xp, params = namespace(tape.x), tape.weights.params
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
            multiply(grad_a, tape.weights.params.weight_ih, tape.precision, self._x[rows])
        if self._bias is not None:
            self._bias += grad_a.sum(axis=0)

    def gradients(self) -> SequenceGradients:
        """Return the sums."""
        grads = LSTMParams.of_sum(self._weight_ih, self._weight_hh, self._bias)
        return SequenceGradients(self._x, grads)


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
