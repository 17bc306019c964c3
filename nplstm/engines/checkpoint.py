"""Recording in less memory: keep the states of every so many steps, and compute what lies between again.

An engine runs a span of steps as it runs a whole sequence, from the state before it; sequences that do not reach
the span, or have ended before it, have length 0 there. So one recording of a span is in memory at a time, and the
forward pass is run twice.
"""

from typing import Any, NamedTuple, TypeVar

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.bound_transform import zero_context_gradients
from nplstm.core.packed import PackedSteps
from nplstm.core.params import LSTMParams, Sums
from nplstm.core.step import Recurrence, State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.base import Engine, Lane, Request, Stepper
from nplstm.engines.precision import allowed_precision, use_precision

__all__ = ["CheckpointTape", "Checkpointed"]

T = TypeVar("T")


class CheckpointTape(NamedTuple):
    """What is kept of one layer in one direction."""

    x: Array  # (N, I)
    recurrence: Recurrence
    reverse: bool
    steps: PackedSteps
    starts: list[State]  # before each span
    precision: str  # that was allowed when it was recorded


class _Span(NamedTuple):
    """Some steps: where their rows are, and what a loop over them alone sees."""

    rows: slice
    steps: PackedSteps


class Checkpointed(Engine):
    """An engine whose tapes keep the states of every ``every`` steps.

    Parameters
    ----------
    engine : Engine
        Which computes.
    every : int
    """

    def __init__(self, engine: Engine, every: int) -> None:
        self.name = engine.name
        self._engine = engine
        self._every = every

    def unsupported_reason(self, request: Request) -> str:
        """As the engine itself."""
        return self._engine.unsupported_reason(request)

    def stepper(self, recurrences: list[Recurrence], batch: int, residual: frozenset[int]) -> Stepper:
        """As the engine itself: steps keep nothing."""
        return self._engine.stepper(recurrences, batch, residual)

    def forward(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
        """Run span after span without recording, and keep the states between them."""
        if not record:
            return self._engine.forward(lanes, steps, record=False)
        results: list[tuple[State, Any]] = []
        for together in _together(lanes, steps):
            states = [_copied(lane.initial) for lane in together]
            starts: list[list[State]] = [[] for _ in together]
            for first in range(0, len(steps), self._every):
                spans = [self._span(steps, first, reverse=lane.reverse) for lane in together]
                parts = [
                    _part(lane, span.rows, state, lane.out[span.rows])
                    for lane, span, state in zip(together, spans, states, strict=True)
                ]
                for state, kept in zip(states, starts, strict=True):
                    kept.append(state)
                found = self._engine.forward(parts, spans[0].steps, record=False)
                states = [state for state, _ in found]
            for lane, state, kept in zip(together, states, starts, strict=True):
                tape = CheckpointTape(lane.x, lane.recurrence, lane.reverse, steps, kept, allowed_precision())
                results.append((state, tape))
        return results

    def backward(
        self, grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[CheckpointTape]
    ) -> list[SequenceGradients]:
        """Record span after span, the last first, and run it back."""
        steps = tapes[0].steps
        results: list[SequenceGradients] = []
        for group in _together(list(range(len(tapes))), steps):
            sums = [_Sums(tapes[k], grad_final[k]) for k in group]
            for number in reversed(range(len(tapes[0].starts))):
                spans = [self._span(steps, number * self._every, reverse=tapes[k].reverse) for k in group]
                parts = [_again(tapes[k], span, number) for k, span in zip(group, spans, strict=True)]
                grads = None
                if grad_outputs is not None:
                    grads = [grad_outputs[k][span.rows] for k, span in zip(group, spans, strict=True)]
                with use_precision(tapes[0].precision):
                    recorded = [tape for _, tape in self._engine.forward(parts, spans[0].steps, record=True)]
                back = self._engine.backward(grads, [total.state for total in sums], recorded)
                for total, span, share in zip(sums, spans, back, strict=True):
                    total.add(share, span.rows)
            results += [total.gradients() for total in sums]
        return results

    def _span(self, steps: PackedSteps, first: int, *, reverse: bool) -> _Span:
        """Return the span that begins with the ``first`` step to be processed."""
        last = min(first + self._every, len(steps))
        sizes = steps.batch_sizes[::-1][first:last][::-1] if reverse else steps.batch_sizes[first:last]
        return _Span(steps.span(first, last, reverse=reverse), PackedSteps(steps.batch, sizes))


def _together(lanes: list[T], steps: PackedSteps) -> list[list[T]]:
    """Return which lanes run side by side: those whose spans have the same numbers of sequences."""
    return [[lane] for lane in lanes] if steps.ragged else [lanes]


def _copied(state: State) -> State:
    return State(*(None if array is None else array.copy() for array in state))  # pyright: ignore[reportArgumentType]


def _part(lane: Lane, rows: slice, state: State, out: Array) -> Lane:
    """Return the lane as far as it has these rows."""
    return Lane(lane.x[rows], state, lane.recurrence.of_rows(rows), out, lane.reverse)


def _again(tape: CheckpointTape, span: _Span, number: int) -> Lane:
    """Return what is to be recorded of a span, into an output of its own."""
    x, state = tape.x, tape.starts[number]
    out = namespace(x).empty((span.steps.total, state.h.shape[1]), dtype=x.dtype)
    return _part(Lane(x, state, tape.recurrence, out, tape.reverse), span.rows, state, out)


def _added(params: LSTMParams, more: LSTMParams) -> LSTMParams:
    others = more.named()
    return LSTMParams.from_named({name: array + others[name] for name, array in params.named().items()})


class _Sums:
    """The gradients of one lane, which grow span by span."""

    def __init__(self, tape: CheckpointTape, final: State) -> None:
        self.state = final
        self._tape = tape
        self._x = namespace(tape.x).empty_like(tape.x)
        self._params: LSTMParams | None = None
        self._context = zero_context_gradients(tape.recurrence.context)

    def add(self, share: SequenceGradients, rows: slice) -> None:
        """Take over the gradients of a span."""
        self.state = share.state
        self._x[rows] = share.x
        self._params = share.params if self._params is None else _added(self._params, share.params)
        for name, grad in share.context.items():
            if self._tape.recurrence.context[name].by_step:
                self._context[name][rows] = grad
            else:
                self._context[name] += grad

    def gradients(self) -> SequenceGradients:
        """Return them."""
        params = Sums().gradients(self._tape.recurrence.params) if self._params is None else self._params
        return SequenceGradients(self._x, self.state, None, params, self._context)
