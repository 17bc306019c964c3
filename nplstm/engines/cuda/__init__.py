"""The engines on a CUDA device: our kernels around the library's products, or whole sequences in one kernel.

``plan`` cuts a launch into blocks, ``kernels/`` is what they run, ``arguments`` what that is given, ``board`` how
blocks tell each other what they have; ``forward`` and ``backward`` are what surrounds the steps, ``fused`` and
``persistent`` two ways to run them, ``stepper`` one step at a time.
"""

from functools import partial
from typing import Any

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps
from nplstm.core.step import Recurrence, State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.base import Engine, Lane, Request, Stepper
from nplstm.engines.precision import allowed_precision

__all__ = ["FusedEngine", "PersistentEngine"]


class FusedEngine(Engine):
    """Step by step: a product by the library, and one kernel for what is left of a step."""

    name = "fused"
    verified = False

    def supports_backend(self, backend: str) -> bool:
        """Serve all but NumPy."""
        return backend != "numpy"

    def unsupported_reason(self, request: Request) -> str:
        """Refuse what is no standard LSTM on arrays that kernels can reach."""
        if request.cuda is None:
            return f"it runs on CuPy arrays, and the layer is on {request.backend!r}"
        return f"it runs the standard LSTM, and there is {', '.join(request.variant)}" if request.variant else ""

    def notes(self, request: Request) -> list[str]:
        """Tell in what the products are computed."""
        if request.stream:
            return ["one launch a layer, replayed as a graph"]
        rounded = request.dtype == "float32" and request.precision != "float32"
        return [f"products in {'tf32' if rounded else request.dtype}"]

    def forward(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
        """Run the lanes in turn."""
        from nplstm.engines.cuda.forward import cuda_forward
        from nplstm.engines.cuda.fused import fused_forward_steps

        return cuda_forward(lanes, steps, record=record, precision=allowed_precision(), run=fused_forward_steps)

    def backward(
        self, grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[Any]
    ) -> list[SequenceGradients]:
        """Run the lanes back in turn."""
        from nplstm.engines.cuda.backward import cuda_backward
        from nplstm.engines.cuda.fused import fused_backward_steps

        return cuda_backward(grad_outputs, grad_final, tapes, run=fused_backward_steps)

    def stepper(self, recurrences: list[Recurrence], batch: int, residual: frozenset[int]) -> Stepper:
        """Return a graph of one launch a layer."""
        from nplstm.engines.cuda.stepper import CudaStepper

        return CudaStepper(recurrences, batch)


class PersistentEngine(FusedEngine):
    """Whole sequences in one launch, where the weights fit on the chip; the way back step by step where not."""

    name = "persistent"

    def unsupported_reason(self, request: Request) -> str:
        """Refuse what does not fit, and what is slower than step by step by the model."""
        reason = super().unsupported_reason(request)
        if reason or request.stream:
            return reason
        if request.dtype == "float64":
            return "it multiplies float32 at most, and the layer is float64"
        from nplstm.engines.cuda.crossover import unsupported_reason

        return unsupported_reason(request, _precision(request))

    def notes(self, request: Request) -> list[str]:
        """Tell how a launch is cut into blocks, and in what the products are computed."""
        from nplstm.engines.cuda.crossover import describe

        if request.stream:
            return super().notes(request)
        return describe(request, _precision(request))

    def forward(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
        """Run the lanes in one launch."""
        from nplstm.engines.cuda.forward import cuda_forward
        from nplstm.engines.cuda.persistent import persistent_forward_steps

        return cuda_forward(
            lanes, steps, record=record, precision=allowed_precision(), run=persistent_forward_steps
        )

    def runs_together(self, x: Array, widths: list[int], steps: PackedSteps) -> bool:
        """Tell whether layers that follow each other a step behind are faster than one after the other."""
        from nplstm.engines.cuda.crossover import worth_a_chain

        return worth_a_chain("forward", x, allowed_precision(), widths, steps)

    def forward_stack(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
        """Run layers in one launch, each a step behind the one that it reads."""
        from nplstm.engines.cuda.forward import cuda_forward
        from nplstm.engines.cuda.persistent import persistent_forward_steps

        run = partial(persistent_forward_steps, chained=True)
        return cuda_forward(lanes, steps, record=record, precision=allowed_precision(), run=run, chained=True)

    def backward(
        self, grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[Any]
    ) -> list[SequenceGradients]:
        """Run the lanes back in one launch, where they fit and that is faster."""
        from nplstm.engines.cuda.backward import cuda_backward
        from nplstm.engines.cuda.crossover import worth_a_launch_back
        from nplstm.engines.cuda.persistent import persistent_backward_steps

        if not worth_a_launch_back(tapes):
            return super().backward(grad_outputs, grad_final, tapes)
        return cuda_backward(grad_outputs, grad_final, tapes, run=persistent_backward_steps)

    def backward_stack(
        self, grad_output: Array | None, grad_final: list[State], tapes: list[Any]
    ) -> list[SequenceGradients]:
        """Run layers back in one launch where that is faster, each a step behind the one above it."""
        from nplstm.engines.cuda.backward import cuda_backward
        from nplstm.engines.cuda.crossover import worth_a_chain
        from nplstm.engines.cuda.persistent import persistent_backward_steps

        top = tapes[-1]
        widths = [tape.out.shape[1] for tape in tapes]
        if not worth_a_chain("backward", top.x, top.precision, widths, top.steps):
            return super().backward_stack(grad_output, grad_final, tapes)
        grads = None if grad_output is None else [grad_output]
        run = partial(persistent_backward_steps, chained=True)
        return cuda_backward(grads, grad_final[::-1], tapes[::-1], run=run, chained=True)[::-1]


def _precision(request: Request) -> str:
    """Return in what the products are computed: as allowed for float32 arrays, else what the arrays are."""
    return request.precision if request.dtype == "float32" else request.dtype
