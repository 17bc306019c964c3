"""The compiled engine: the standard LSTM and some variants on NumPy arrays, by kernels of our own in C.

``kernels/`` has the kernels; read ``cell.h`` and ``sequence.h`` first. ``library`` loads them and chooses the
instruction set, ``kernel_weights`` puts weights in their order; ``forward``, ``backward`` and ``stepper`` call the
kernels.
"""

from typing import Any

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.base import Engine, LayerCall, Request, StackCall, Stepper, unsupported_options
from nplstm.engines.loading import load

__all__ = ["CompiledEngine"]

_SUPPORTED = "the standard LSTM, diagonal peepholes, coupled_input_forget, clip and proj_size"


class CompiledEngine(Engine):
    """See ``Engine``. The library is loaded when the first request comes that the engine would run."""

    name = "compiled"

    def __init__(self) -> None:
        # modules, which are imported when the engine is first asked whether it runs a layer
        self._backward: Any = None
        self._forward: Any = None
        self._stepper: Any = None

    def unsupported_reason(self, request: Request) -> str:
        """Refuse what the kernels do not compute, and everything where there are none."""
        if request.backend != "numpy":
            return f"needs NumPy arrays; the layer is on {request.backend!r}"
        others = request.variant
        for option in ("coupled_input_forget", "clip", "proj_size"):
            others.pop(option, None)
        if request.cell.peephole == "diagonal":
            others.pop("peephole")
        if others:
            return unsupported_options([*others.values()], _SUPPORTED)
        self._backward, self._forward, self._stepper, library = load(
            __name__, "backward", "forward", "stepper", "library"
        )
        return library.problem()

    def notes(self, request: Request) -> list[str]:
        """Name the instruction set."""
        from nplstm.engines.compiled.library import library

        return [f"kernels for {library().instruction_set}"]

    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> Any:
        """Run the directions, several threads sharing the work."""
        return self._forward.compiled_layer(layer, steps, record=record)

    def forward_stack(
        self, stack: StackCall, x: Array, steps: PackedSteps, *, record: bool
    ) -> tuple[Array, list[Any]] | None:
        """Run layers of one size in one kernel call."""
        return self._forward.compiled_stack(stack, x, steps, record=record)

    def backward(self, grad_out: list[Array] | None, grad: State, tape: Any) -> list[SequenceGradients]:
        """Run the directions back."""
        return self._backward.compiled_backward(grad_out, grad, tape)[0]

    def backward_stack(
        self, grad_out: list[Array] | None, grad: State, tapes: list[Any]
    ) -> list[list[SequenceGradients]] | None:
        """Run layers that ran together back together."""
        return self._backward.compiled_backward(grad_out, grad, tapes[0]) if len(tapes) == 1 else None

    def stepper(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> Stepper:
        """Return one kernel call a step for all layers."""
        return self._stepper.CompiledStepper(weights, batch)
