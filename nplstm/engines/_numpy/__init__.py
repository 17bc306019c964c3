"""NumPy engine: the standard LSTM in a few NumPy calls a step, in preallocated buffers.

The reference engine checks at each step which options are on, and makes new arrays. This engine has no options
to check. With the weights in the order of ``weights.py`` a step takes nine NumPy calls forward and seven
backward, for both directions of a layer together.

The modules that compute are imported when they are first needed, so that ``import nplstm`` is fast.
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
    """The standard LSTM on NumPy arrays; see ``Engine``."""

    name = "numpy"

    def __init__(self) -> None:
        # modules, imported at the first check of a request for NumPy arrays
        self._backward: Any = None
        self._diagonal: Any = None
        self._forward: Any = None
        self._stepper: Any = None
        self._weights: Any = None

    def unsupported_reason(self, request: Request) -> str:
        """Refuse all but the standard LSTM on NumPy arrays."""
        if request.backend != "numpy":
            return f"needs NumPy arrays; the layer is on {request.backend!r}"
        if request.variant:
            return unsupported_options([*request.variant.values()], "the standard LSTM")
        if request.single_step and "plain" in request.others:
            return "is made for sequences: one step is faster in the time loop"
        self._backward, self._diagonal, self._forward, self._stepper, self._weights = load(
            __name__, "backward", "diagonal", "forward", "stepper", "weights"
        )
        return ""

    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> Any:
        """Run the directions of a layer together."""
        with self._weights.limited(layer.weights, steps):
            return self._forward.numpy_forward(layer, steps, record=record)

    def forward_stack(
        self, stack: StackCall, x: Array, steps: PackedSteps, *, record: bool
    ) -> tuple[Array, list[Any]] | None:
        """Run small layers in diagonal order: each NumPy call serves all layers."""
        if len(stack.weights) == 1 or len(stack.reverse) > 1:
            return None
        if not self._diagonal.worth_a_diagonal([h.shape[2] for h in stack.final.h], steps):
            return None
        with self._weights.limited([row[0] for row in stack.weights], steps):
            return self._diagonal.diagonal_forward(stack, x, steps, record=record)

    def backward(self, grad_out: list[Array] | None, grad: State, tape: Any) -> list[SequenceGradients]:
        """Run the backward pass of the directions together."""
        with self._weights.limited(tape.weights, tape.steps):
            return self._backward.numpy_backward(grad_out, grad, tape)

    def stepper(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> Stepper:
        """Return a stepper with a few NumPy calls for each step and layer."""
        return self._stepper.NumpyStepper(weights, batch)
