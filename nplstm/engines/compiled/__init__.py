"""The compiled engine: the standard LSTM on NumPy arrays, by kernels of our own in C.

``kernels/`` has the kernels; read ``cell.h`` and ``sequence.h`` first. ``library`` loads them and chooses the
instruction set, ``packing`` puts weights in their order; ``forward``, ``backward``, ``short`` and ``stepper`` call
them.
"""

from typing import Any

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps
from nplstm.core.step import Recurrence, State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.base import Engine, Lane, Request, ShortCall, Stepper
from nplstm.engines.loading import load

__all__ = ["CompiledEngine"]

_OPTIONS = ("peephole", "coupled_input_forget", "clip", "proj_size")
"""Of other LSTMs than the standard one, those that it runs; of peepholes the diagonal ones."""


class CompiledEngine(Engine):
    """See ``Engine``. The library is loaded when the first request comes that the engine would run."""

    name = "compiled"

    def unsupported_reason(self, request: Request) -> str:
        """Refuse what the kernels do not compute, and everything where there are none."""
        if request.backend != "numpy":
            return f"it runs on NumPy arrays, and the layer is on {request.backend!r}"
        others = [option for option in request.variant if option not in _OPTIONS]
        if request.cell.peephole == "full":
            others.insert(0, "peephole='full'")
        if others:
            return f"it runs the standard LSTM, {', '.join(_OPTIONS)}, and there is {', '.join(others)}"
        load(__name__, "backward", "forward", "short", "stepper", "library")
        from nplstm.engines.compiled.library import problem

        return problem()

    def notes(self, request: Request) -> list[str]:
        """Name the instruction set."""
        from nplstm.engines.compiled.library import library

        return [f"kernels for {library().instruction_set}"]

    def forward(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
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

    def short_call(self, recurrences: list[list[Recurrence]], directions: tuple[bool, ...]) -> ShortCall | None:
        """Return one kernel call for a stack of standard layers."""
        spec, params = recurrences[0][0].spec, recurrences[0][0].params
        if spec.composes_cell or params.weight_hr is not None:
            return None
        from nplstm.engines.compiled.short import CompiledShortCall

        return CompiledShortCall(recurrences, directions)
