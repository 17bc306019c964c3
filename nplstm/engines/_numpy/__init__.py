"""The NumPy engine: the standard LSTM in a few calls a step, in buffers that are made once.

The reference asks what is on at each step and makes new arrays as it goes. Here nothing is asked: with the
weights in the order of ``weights``, a step is nine calls forward and seven back, for both directions of a layer
together.

What computes is imported when it is first needed: ``import nplstm`` is to be quick.
"""

from contextlib import AbstractContextManager
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

    def unsupported_reason(self, request: Request) -> str:
        """Refuse what is no standard LSTM on NumPy arrays."""
        if request.backend != "numpy":
            return f"runs on NumPy arrays, and the layer is on {request.backend!r}"
        if request.variant:
            return unsupported_options([*request.variant.values()], "the standard LSTM")
        load(__name__, "backward", "diagonal", "forward", "stepper")
        return ""

    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> Any:
        """Run the directions together."""
        from nplstm.engines._numpy.forward import numpy_forward

        with _limited(layer.weights, steps):
            return numpy_forward(layer, steps, record=record)

    def forward_stack(
        self, stack: StackCall, x: Array, out: Array, steps: PackedSteps, *, record: bool
    ) -> list[Any] | None:
        """Run small layers along the diagonal, a few calls for all of them."""
        from nplstm.engines._numpy.diagonal import diagonal_forward, worth_a_diagonal

        if len(stack.reverse) > 1 or not worth_a_diagonal([h.shape[2] for h in stack.final.h], steps):
            return None
        with _limited([row[0] for row in stack.weights], steps):
            return diagonal_forward(stack, x, out, steps, record=record)

    def backward(self, grad_out: list[Array] | None, grad: State, tape: Any) -> list[SequenceGradients]:
        """Run the directions back together."""
        from nplstm.engines._numpy.backward import numpy_backward

        with _limited(tape.weights, tape.steps):
            return numpy_backward(grad_out, grad, tape)

    def stepper(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> Stepper:
        """Return a few NumPy calls a step and layer."""
        from nplstm.engines._numpy.stepper import NumpyStepper

        return NumpyStepper(weights, batch)


def _limited(weights: list[LayerWeights], steps: PackedSteps) -> AbstractContextManager[None]:
    """Return the context that limits BLAS's threads for directions or layers that run together."""
    from nplstm.engines._numpy.weights import count_weights
    from nplstm.engines.blas import limited_blas

    return limited_blas(steps.total, steps.batch, count_weights(weights))
