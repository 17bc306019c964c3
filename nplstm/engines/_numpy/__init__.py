"""The NumPy engine: the standard LSTM in a few calls a step, in buffers that are made once.

The plain loop asks what is on at each step and makes new arrays as it goes. Here nothing is asked: with the
weights in the order of ``weights``, a step is nine calls forward and seven back, for both directions of a layer
together.

What computes is imported when it is first needed: ``import nplstm`` is to be quick.
"""

from contextlib import AbstractContextManager
from typing import Any

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps
from nplstm.core.step import Recurrence, State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.base import Engine, Lane, Request, ShortCall, Stepper
from nplstm.engines.loading import load

__all__ = ["NumpyEngine"]


class NumpyEngine(Engine):
    """See ``Engine``."""

    name = "numpy"

    def unsupported_reason(self, request: Request) -> str:
        """Refuse what is no standard LSTM on NumPy arrays."""
        if request.backend != "numpy":
            return f"it runs on NumPy arrays, and the layer is on {request.backend!r}"
        if request.variant:
            return f"it runs the standard LSTM, and there is {', '.join(request.variant)}"
        load(__name__, "backward", "diagonal", "forward", "short", "stepper")
        return ""

    def forward(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
        """Run the lanes together."""
        from nplstm.engines._numpy.forward import numpy_forward

        with _limited([lane.recurrence for lane in lanes], steps):
            return numpy_forward(lanes, steps, record=record)

    def runs_together(self, x: Array, widths: list[int], steps: PackedSteps) -> bool:
        """Tell whether the layers are small, of one size, and the sequences of one length."""
        from nplstm.engines._numpy.diagonal import worth_a_diagonal

        return worth_a_diagonal(widths, steps)

    def forward_stack(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
        """Run layers along the diagonal, a few calls for all of them."""
        from nplstm.engines._numpy.diagonal import diagonal_forward

        with _limited([lane.recurrence for lane in lanes], steps):
            return diagonal_forward(lanes, steps, record=record)

    def backward(
        self, grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[Any]
    ) -> list[SequenceGradients]:
        """Run the lanes back together."""
        from nplstm.engines._numpy.backward import numpy_backward

        with _limited([tape.recurrence for tape in tapes], tapes[0].steps):
            return numpy_backward(grad_outputs, grad_final, tapes)

    def stepper(self, recurrences: list[Recurrence], batch: int, residual: frozenset[int]) -> Stepper:
        """Return a few NumPy calls a step and layer."""
        from nplstm.engines._numpy.stepper import NumpyStepper

        return NumpyStepper(recurrences, batch)

    def short_call(self, recurrences: list[list[Recurrence]], directions: tuple[bool, ...]) -> ShortCall:
        """Return calls of one block with little around them."""
        from nplstm.engines._numpy.short import NumpyShortCall

        return NumpyShortCall(recurrences, directions)


def _limited(recurrences: list[Recurrence], steps: PackedSteps) -> AbstractContextManager[None]:
    """Return the context that limits BLAS's threads for lanes that run together."""
    from nplstm.engines._numpy.weights import count_weights
    from nplstm.engines.blas import limited_blas

    return limited_blas(steps.total, steps.batch, count_weights(recurrences))
