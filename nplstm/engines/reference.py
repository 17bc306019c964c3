"""The plain engine: the time loop, which runs everything and is what the others are tested against."""

from typing import Any

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.packed import PackedSteps
from nplstm.core.step import Recurrence, State
from nplstm.core.time_loop import SequenceGradients, SequenceTape, sequence_backward, sequence_forward
from nplstm.engines.base import Engine, Lane, Request, Stepper

__all__ = ["PlainEngine"]


class PlainEngine(Engine):
    """One lane after the other, one step after the other."""

    name = "plain"

    def supports_backend(self, backend: str) -> bool:
        """Serve all."""
        return True

    def unsupported_reason(self, request: Request) -> str:
        """Refuse nothing."""
        return ""

    def forward(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
        """Run the lanes in turn."""
        return [
            sequence_forward(
                lane.x, lane.initial, lane.recurrence, steps, out=lane.out, reverse=lane.reverse, record=record
            )
            for lane in lanes
        ]

    def backward(
        self, grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[SequenceTape]
    ) -> list[SequenceGradients]:
        """Run the lanes back in turn."""
        return [
            sequence_backward(None if grad_outputs is None else grad_outputs[k], final, tape)
            for k, (final, tape) in enumerate(zip(grad_final, tapes, strict=True))
        ]

    def stepper(self, recurrences: list[Recurrence], batch: int, residual: frozenset[int]) -> Stepper:
        """Return the step of the time loop, layer by layer."""
        return _PlainStepper(recurrences, batch, residual)


class _PlainStepper(Stepper):
    def __init__(self, recurrences: list[Recurrence], batch: int, residual: frozenset[int]) -> None:
        xp, dtype = namespace(recurrences[0].params.weight_ih), recurrences[0].params.weight_ih.dtype
        self._recurrences, self._residual, self._rows = recurrences, residual, slice(0, batch)
        widths = [recurrence.widths for recurrence in recurrences]
        self._states = [
            State(xp.zeros((batch, P), dtype=dtype), xp.zeros((batch, H), dtype=dtype)) for P, H in widths
        ]
        I = recurrences[0].params.weight_ih.shape[1]
        super().__init__(xp.zeros((batch, I), dtype=dtype), xp.zeros((batch, widths[-1][0]), dtype=dtype))

    def step(self) -> None:
        values = self.x
        for layer, recurrence in enumerate(self._recurrences):
            a, _ = recurrence.from_input(values)
            self._states[layer], _ = recurrence.forward(a, self._states[layer], self._rows, 0, None)
            h = self._states[layer].h
            values = h + values if layer in self._residual else h
        self.y[...] = values

    @property
    def h(self) -> list[Array]:
        return [state.h for state in self._states]

    @property
    def c(self) -> list[Array]:
        return [state.c for state in self._states]
