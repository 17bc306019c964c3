"""The compiled engine: the standard LSTM on NumPy arrays by kernels of our own, which Numba compiles.

``simd`` and ``products`` are what a kernel is made of, ``kernels`` the time loop, ``packing`` the layout of its
weights, ``shares`` and ``team`` how threads divide the work, ``forward`` and ``backward`` what calls them.
"""

from functools import cache
from importlib import import_module
from typing import Any

from nplstm._typing import Array
from nplstm.engines.base import Engine, Lane, Request, ShortCall, Stepper
from nplstm.recurrence import Recurrence, State
from nplstm.sequence import SequenceGradients
from nplstm.steps import Steps

__all__ = ["CompiledEngine"]


@cache
def _missing() -> str:
    """Say why Numba cannot be used; empty if it can."""
    try:
        import_module("numba")
    except ImportError as error:
        return f"Numba is not there ({error}): pip install 'nplstm[jit]'"
    return ""


class CompiledEngine(Engine):
    """See ``Engine``. Numba is imported when the first request comes that the engine would run."""

    name = "compiled"

    def refusal(self, request: Request) -> str:
        """Refuse what is no standard LSTM on NumPy arrays, and everything where there is no Numba."""
        if request.backend != "numpy":
            return f"it runs on NumPy arrays, and the layer is on {request.backend!r}"
        if request.variant:
            return f"it runs the standard LSTM, and there is {request.variant}"
        return _missing()

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
