"""The NumPy engine: the standard LSTM in a few calls a step, in buffers that are made once.

The reference asks what is on at each step and makes new arrays as it goes. Here nothing is asked: with the
weights in the order of ``weights``, a step is nine calls forward and seven back, for both directions of a layer
together.

What computes is imported when it is first needed: ``import nplstm`` is to be quick.
"""

from typing import Any

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.base import Engine, LayerCall, Request, StackCall, Stepper, unsupported_options
from nplstm.engines.loading import load

__all__ = ["NumpyEngine"]


class NumpyEngine(Engine):
    """See ``Engine``."""

    name = "numpy"

    def __init__(self) -> None:
        # modules, which are imported when the engine is first asked whether it runs a layer
        self._backward: Any = None
        self._diagonal: Any = None
        self._forward: Any = None
        self._stepper: Any = None
        self._weights: Any = None

    def unsupported_reason(self, request: Request) -> str:
        """Refuse what is no standard LSTM on NumPy arrays."""
        if request.backend != "numpy":
            return f"needs NumPy arrays; the layer is on {request.backend!r}"
        if request.variant:
            return unsupported_options([*request.variant.values()], "the standard LSTM")
        self._backward, self._diagonal, self._forward, self._stepper, self._weights = load(
            __name__, "backward", "diagonal", "forward", "stepper", "weights"
        )
        return ""

    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> Any:
        """Run the directions together."""
        with self._weights.limited(layer.weights, steps):
            return self._forward.numpy_forward(layer, steps, record=record)

    def forward_stack(
        self, stack: StackCall, x: Array, out: Array, steps: PackedSteps, *, record: bool
    ) -> list[Any] | None:
        """Run small layers along the diagonal, a few calls for all of them."""
        if len(stack.weights) == 1 or len(stack.reverse) > 1:
            return None
        if not self._diagonal.worth_a_diagonal([h.shape[2] for h in stack.final.h], steps):
            return None
        with self._weights.limited([row[0] for row in stack.weights], steps):
            return self._diagonal.diagonal_forward(stack, x, out, steps, record=record)

    def backward(self, grad_out: list[Array] | None, grad: State, tape: Any) -> list[SequenceGradients]:
        """Run the directions back together."""
        with self._weights.limited(tape.weights, tape.steps):
            return self._backward.numpy_backward(grad_out, grad, tape)

    def stepper(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> Stepper:
        """Return a few NumPy calls a step and layer."""
        return self._stepper.NumpyStepper(weights, batch)
