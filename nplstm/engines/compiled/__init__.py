"""The compiled engine: the standard LSTM on NumPy arrays, by kernels of our own in C.

``kernels/`` has the kernels: ``cell.h`` and ``sequence.h`` first. ``library`` loads them and chooses the instruction
set, ``packing`` puts weights in their order, ``forward``, ``backward``, ``short`` and ``stepper`` call them.
"""

from typing import Any

from nplstm._typing import Array
from nplstm.engines.base import Engine, Lane, Request, ShortCall, Stepper
from nplstm.recurrence import Recurrence, State
from nplstm.sequence import SequenceGradients
from nplstm.steps import Steps

__all__ = ["CompiledEngine"]


class CompiledEngine(Engine):
    """See ``Engine``. The library is loaded when the first request comes that the engine would run."""

    name = "compiled"

    def refusal(self, request: Request) -> str:
        """Refuse what is no standard LSTM on NumPy arrays, and everything where there are no kernels."""
        if request.backend != "numpy":
            return f"it runs on NumPy arrays, and the layer is on {request.backend!r}"
        if request.variant:
            return f"it runs the standard LSTM, and there is {request.variant}"
        from nplstm.engines.compiled.library import problem

        return problem()

    def notes(self, request: Request) -> list[str]:
        """Name the instruction set."""
        from nplstm.engines.compiled.library import library

        return [f"kernels for {library().instruction_set}"]

    def forward(self, lanes: list[Lane], steps: Steps, *, record: bool) -> list[tuple[State, Any]]:
        """Run the lanes, several threads sharing the work."""
        from nplstm.engines.compiled.forward import compiled_forward

        return compiled_forward(lanes, steps, record=record)

    def backward(
        self, grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[Any]
    ) -> list[SequenceGradients]:
        """Run the lanes back."""
        from nplstm.engines.compiled.backward import compiled_backward

        return compiled_backward(grad_outputs, grad_final, tapes)

    def stepper(self, recurrences: list[Recurrence], batch: int, residual: frozenset[int]) -> Stepper:
        """Return one kernel call a step for all layers."""
        from nplstm.engines.compiled.stepper import CompiledStepper

        return CompiledStepper(recurrences, batch)

    def short_call(self, recurrences: list[list[Recurrence]], directions: tuple[bool, ...]) -> ShortCall:
        """Return kernel calls with little around them."""
        from nplstm.engines.compiled.short import CompiledShortCall

        return CompiledShortCall(recurrences, directions)
