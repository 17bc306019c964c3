"""The CUDA engines: ``fused`` runs step by step, ``persistent`` whole sequences in one kernel.

``plan`` divides a launch into blocks, ``kernels/`` has the source of the kernels, ``arguments`` their argument
structures, ``exchange`` the exchange buffers and flags between blocks. ``forward`` and ``backward`` compute
the products that do not depend on the previous step; ``fused`` and ``persistent`` run the steps; ``stepper`` runs
streams.
"""

from functools import partial
from typing import Any

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State
from nplstm.core.time_loop import SequenceGradients
from nplstm.engines.base import Engine, LayerCall, Request, StackCall, Stepper, state_of, unsupported_options
from nplstm.engines.precision import allowed_precision

__all__ = ["FusedEngine", "PersistentEngine"]


class FusedEngine(Engine):
    """Step by step: a product by the library, and one kernel for the rest of a step."""

    name = "fused"
    verified = False

    def supports_backend(self, backend: str) -> bool:
        """Support all backends but NumPy."""
        return backend != "numpy"

    def unsupported_reason(self, request: Request) -> str:
        """Refuse all but the standard LSTM on CUDA arrays."""
        if request.cuda is None:
            return f"needs CuPy arrays; the layer is on {request.backend!r}"
        return unsupported_options([*request.variant.values()], "the standard LSTM")

    def notes(self, request: Request) -> list[str]:
        """Say in which precision the products are computed."""
        if request.stream:
            return ["one launch a layer, replayed as a graph"]
        rounded = request.dtype == "float32" and request.precision != "float32"
        return [f"products in {'tf32' if rounded else request.dtype}"]

    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> list[Any]:
        """Run the directions in turn."""
        from nplstm.engines.cuda.directions import directions_of
        from nplstm.engines.cuda.forward import cuda_forward
        from nplstm.engines.cuda.fused import fused_forward_steps

        own, precision = directions_of(layer), allowed_precision()
        return cuda_forward(own, steps, record=record, precision=precision, run=fused_forward_steps)

    def backward(self, grad_out: list[Array] | None, grad: State, tape: list[Any]) -> list[SequenceGradients]:
        """Run the directions back in turn."""
        from nplstm.engines.cuda.backward import cuda_backward
        from nplstm.engines.cuda.fused import fused_backward_steps

        grads = [state_of(grad, d) for d in range(len(tape))]
        return cuda_backward(grad_out, grads, tape, run=fused_backward_steps)

    def stepper(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> Stepper:
        """Return a stepper that replays a graph of one launch for each layer."""
        from nplstm.engines.cuda.stepper import CudaStepper

        return CudaStepper(weights, batch)


class PersistentEngine(FusedEngine):
    """Whole sequences in one launch, where the weights fit on the chip; else backward runs step by step."""

    name = "persistent"

    def unsupported_reason(self, request: Request) -> str:
        """Refuse layers that do not fit, and those that are slower than step by step by the model."""
        reason = super().unsupported_reason(request)
        if reason or request.stream:
            return reason
        if request.dtype == "float64":
            return "needs float16 or float32; the layer is float64"
        from nplstm.engines.cuda.crossover import unsupported_reason

        return unsupported_reason(request, _precision(request))

    def notes(self, request: Request) -> list[str]:
        """Say how a launch is divided into blocks, and in which precision the products are computed."""
        from nplstm.engines.cuda.crossover import describe

        if request.stream:
            return super().notes(request)
        return describe(request, _precision(request))

    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> list[Any]:
        """Run the directions in one launch."""
        from nplstm.engines.cuda.directions import directions_of
        from nplstm.engines.cuda.forward import cuda_forward
        from nplstm.engines.cuda.persistent import persistent_forward_steps

        own, precision = directions_of(layer), allowed_precision()
        return cuda_forward(own, steps, record=record, precision=precision, run=persistent_forward_steps)

    def forward_stack(
        self, stack: StackCall, x: Array, steps: PackedSteps, *, record: bool
    ) -> tuple[Array, list[Any]] | None:
        """Run layers in one launch where that is faster, each a step behind the one that it reads."""
        from nplstm.engines.cuda.crossover import worth_a_chain
        from nplstm.engines.cuda.directions import directions_of
        from nplstm.engines.cuda.forward import cuda_forward
        from nplstm.engines.cuda.persistent import persistent_forward_steps

        precision, widths = allowed_precision(), [h.shape[2] for h in stack.final.h]
        if len(stack.reverse) > 1 or not worth_a_chain("forward", x, precision, widths, steps):
            return None
        layers = [directions_of(layer)[0] for layer in stack.column(x)]
        run = partial(persistent_forward_steps, chained=True)
        tapes = cuda_forward(layers, steps, record=record, precision=precision, run=run, chained=True)
        return layers[-1].out, [[tape] for tape in tapes]

    def backward(self, grad_out: list[Array] | None, grad: State, tape: list[Any]) -> list[SequenceGradients]:
        """Run the directions back in one launch, where they fit and that is faster."""
        from nplstm.engines.cuda.backward import cuda_backward
        from nplstm.engines.cuda.crossover import worth_a_launch_back
        from nplstm.engines.cuda.persistent import persistent_backward_steps

        if not worth_a_launch_back(tape):
            return super().backward(grad_out, grad, tape)
        grads = [state_of(grad, d) for d in range(len(tape))]
        return cuda_backward(grad_out, grads, tape, run=persistent_backward_steps)

    def backward_stack(
        self, grad_out: list[Array] | None, grad: State, tapes: list[Any]
    ) -> list[list[SequenceGradients]] | None:
        """Run layers back in one launch where that is faster, each a step behind the one above it."""
        from nplstm.engines.cuda.backward import cuda_backward
        from nplstm.engines.cuda.crossover import worth_a_chain
        from nplstm.engines.cuda.persistent import persistent_backward_steps

        top = tapes[-1][0]
        if len(tapes[-1]) > 1:
            return None
        widths = [tape.out.shape[1] for (tape,) in tapes]
        if not worth_a_chain("backward", top.x, top.precision, widths, top.steps):
            return None
        from_above = [tape for (tape,) in tapes[::-1]]
        run = partial(persistent_backward_steps, chained=True)
        states = [state_of(state_of(grad, k), 0) for k in reversed(range(len(tapes)))]
        results = cuda_backward(grad_out, states, from_above, run=run, chained=True)
        return [[result] for result in results[::-1]]


def _precision(request: Request) -> str:
    """Return the precision of the products: as allowed for float32 arrays, else that of the arrays."""
    return request.precision if request.dtype == "float32" else request.dtype
