"""Checkpoints: a recording keeps the states of every n-th step; the backward pass computes the others again.

An engine runs a span of steps like a whole sequence, from the state before it; sequences that do not reach the
span, or have ended before it, have length 0 there. So the recording of only one span is in memory at a time, and
the forward pass is run twice.
"""

from typing import Any, NamedTuple, cast

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.bound_transform import zero_context_gradients
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.core.params import LSTMParams
from nplstm.core.step import State, StepInputs
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.base import Engine, LayerCall, Request, Stepper, state_of
from nplstm.engines.precision import allowed_precision, use_precision

__all__ = ["CheckpointTape", "Checkpointed"]


class CheckpointTape(NamedTuple):
    """Recording of directions of a layer that run together."""

    layer: LayerCall  # without an output
    steps: PackedSteps
    starts: list[State]  # before each span: (D, B, P), (D, B, H)
    precision: str  # allowed precision at the time of the recording


class _Span(NamedTuple):
    """Some steps: their rows for each direction, and their own packed batch index."""

    rows: list[slice]
    steps: PackedSteps


class Checkpointed(Engine):
    """An engine whose tapes keep only the states of every ``every``-th step.

    Parameters
    ----------
    engine : Engine
        The engine that computes.
    every : int
    """

    def __init__(self, engine: Engine, every: int) -> None:
        self.name = engine.name
        self._engine = engine
        self._every = every

    def __reduce__(self) -> tuple[Any, ...]:
        return Checkpointed, (self._engine, self._every)

    def unsupported_reason(self, request: Request) -> str:
        """As the engine itself."""
        return self._engine.unsupported_reason(request)

    def stepper(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> Stepper:
        """As the engine itself: a stream records nothing."""
        return self._engine.stepper(weights, batch, residual)

    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> list[CheckpointTape]:
        """Run span after span without a recording; keep the states between them."""
        if not record:
            self._engine.forward(layer, steps, record=False)
            return []
        return [self._forward(part, steps) for part in _side_by_side(layer, steps)]

    def _forward(self, layer: LayerCall, steps: PackedSteps) -> CheckpointTape:
        states = [layer.initial]
        for first in self._firsts(steps):
            span = self._span(steps, first, layer.reverse)
            ends = first + self._every >= len(steps)
            final = layer.final if ends else _empty_like(layer.final)
            out = [out[rows] for out, rows in zip(layer.out, span.rows, strict=True)]
            self._engine.forward(_of_span(layer, span, states[-1], final, out), span.steps, record=False)
            states.append(final)
        return CheckpointTape(layer._replace(out=[]), steps, states[:-1], allowed_precision())

    def _firsts(self, steps: PackedSteps) -> range:
        """Return the first step of each span, in the order of processing; without steps, there is one span."""
        return range(0, max(1, len(steps)), self._every)

    def backward(
        self, grad_out: list[Array] | None, grad: State, tape: list[CheckpointTape]
    ) -> list[SequenceGradients]:
        """Record span after span, from the last to the first, and run the backward pass of each."""
        results: list[SequenceGradients] = []
        for part in tape:
            own = slice(len(results), len(results) + len(part.layer.x))
            results += self._backward(None if grad_out is None else grad_out[own], state_of(grad, own), part)
        return results

    def _backward(
        self, grad_out: list[Array] | None, grad: State, tape: CheckpointTape
    ) -> list[SequenceGradients]:
        layer, D = tape.layer, len(tape.layer.x)
        sums = [_DirectionGradients(x, inputs) for x, inputs in zip(layer.x, layer.inputs, strict=True)]
        for first, start in zip(reversed(self._firsts(tape.steps)), reversed(tape.starts), strict=True):
            span = self._span(tape.steps, first, layer.reverse)
            out = [namespace(x).empty((span.steps.total, start.h.shape[2]), dtype=x.dtype) for x in layer.x]
            again = _of_span(layer, span, start, _empty_like(start), out)
            grads = None if grad_out is None else [grad_out[d][span.rows[d]] for d in range(D)]
            with use_precision(tape.precision):
                recorded = self._engine.forward(again, span.steps, record=True)
            shares = self._engine.backward(grads, grad, recorded)
            for total, share, rows in zip(sums, shares, span.rows, strict=True):
                total.add(share, rows)
        return [total.gradients() for total in sums]

    def _span(self, steps: PackedSteps, first: int, reverse: tuple[bool, ...]) -> _Span:
        """Return the span that begins with the ``first`` step to be processed."""
        last = min(first + self._every, len(steps))
        sizes = steps.batch_sizes[::-1][first:last][::-1] if reverse[0] else steps.batch_sizes[first:last]
        return _Span([steps.span(first, last, reverse=r) for r in reverse], PackedSteps(steps.batch, sizes))


def _side_by_side(layer: LayerCall, steps: PackedSteps) -> list[LayerCall]:
    """Return the calls of directions that can run together: their spans have the same batch sizes."""
    return [layer.direction(d) for d in range(len(layer.x))] if steps.ragged else [layer]


def _of_span(layer: LayerCall, span: _Span, initial: State, final: State, out: list[Array]) -> LayerCall:
    """Return the call of a layer over the rows of a span."""
    x = [array[rows] for array, rows in zip(layer.x, span.rows, strict=True)]
    inputs = [of_layer.of_rows(rows) for of_layer, rows in zip(layer.inputs, span.rows, strict=True)]
    return layer._replace(x=x, inputs=inputs, initial=initial, final=final, out=out)


def _empty_like(state: State) -> State:
    xp = namespace(state.h)
    h, c, s = state
    return State(xp.empty_like(h), xp.empty_like(c), None if s is None else xp.empty_like(s))


def _added(params: LSTMParams, more: LSTMParams) -> LSTMParams:
    others = more.named()
    return LSTMParams.from_named({name: array + others[name] for name, array in params.named().items()})


class _DirectionGradients:
    """The gradients of one direction, summed span by span."""

    def __init__(self, x: Array, inputs: StepInputs) -> None:
        self._x = namespace(x).empty_like(x)
        self._params: LSTMParams | None = None
        self._inputs = inputs
        self._context = zero_context_gradients(inputs.context)

    def add(self, share: SequenceGradients, rows: slice) -> None:
        """Add the gradients of a span."""
        self._x[rows] = share.x
        self._params = share.params if self._params is None else _added(self._params, share.params)
        for name, grad in (share.context or {}).items():
            if self._inputs.context[name].by_step:
                self._context[name][rows] = grad
            else:
                self._context[name] += grad

    def gradients(self) -> SequenceGradients:
        """Return the sums."""
        return SequenceGradients(self._x, cast("LSTMParams", self._params), None, self._context)
