"""The plain engine: the time loop of ``sequence.py``, which runs everything and is what the others are tested against."""

from typing import Any

from nplstm._typing import Array
from nplstm.engines.base import Engine, Lane, Request
from nplstm.recurrence import State
from nplstm.sequence import SequenceGradients, SequenceTape, sequence_backward, sequence_forward
from nplstm.steps import Steps

__all__ = ["PlainEngine"]


class PlainEngine(Engine):
    """One lane after the other, one step after the other."""

    name = "plain"

    def refusal(self, request: Request) -> str:
        """Refuse nothing."""
        return ""

    def forward(
        self, lanes: list[Lane], steps: Steps, *, record: bool, every: int | None = None
    ) -> list[tuple[State, Any]]:
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
