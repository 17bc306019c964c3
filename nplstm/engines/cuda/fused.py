"""Step by step on a CUDA device: a product by the library and one kernel for all that is left of a step."""

from typing import Any

from nplstm._typing import Array
from nplstm.backends._cuda import Kernel
from nplstm.engines.cuda.addresses import Weights, address, cuda_of, row_stride, rows_address
from nplstm.engines.cuda.arguments import BACKWARD_STEP, FORWARD_STEP, made
from nplstm.engines.cuda.backward import BackwardLane
from nplstm.engines.cuda.forward import ForwardLane
from nplstm.engines.cuda.lanes import Span, empty, multiply
from nplstm.engines.cuda.source import pointwise

__all__ = ["fused_backward_steps", "fused_forward_steps"]

_THREADS = 128


def fused_forward_steps(lanes: list[ForwardLane], span: Span, precision: str) -> None:
    """Run the lanes in turn; see ``ForwardSteps``."""
    for lane in lanes:
        _forward_lane(lane, span, precision)


def fused_backward_steps(lanes: list[BackwardLane], span: Span) -> None:
    """Run the lanes back in turn; see ``BackwardSteps``."""
    for lane in lanes:
        _backward_lane(lane, span)


class _Places:
    """Addresses of the rows of an array (n, m); the null address where there is none."""

    def __init__(self, array: Array | None) -> None:
        self._first = rows_address(array)
        self._row_bytes = 0 if array is None else array.strides[0]

    def row(self, number: int) -> int:
        """Return the address of a row."""
        return self._first + number * self._row_bytes


def _launch(kernel: Kernel, arguments: Any, numbers: int) -> None:
    kernel.launch((-(-numbers // _THREADS), 1), _THREADS, arguments)


def _forward_lane(lane: ForwardLane, span: Span, precision: str) -> None:
    recurrence, running, steps, x = lane.lane.recurrence, lane.running, span.steps, lane.lane.x
    H, weights = running.h.shape[1], Weights.of(recurrence)
    weight, product = weights.hh.T, empty(x, steps.batch, 4 * H)
    kernel = pointwise(cuda_of(x), "forward_step", x.dtype)
    gates, out, cells = _Places(lane.gates), _Places(lane.lane.out), _Places(lane.cells)
    arguments = made(
        FORWARD_STEP,
        product=address(product),
        bias_ih=address(weights.bias_ih),
        bias_hh=address(weights.bias_hh),
        h=address(running.h),
        c=address(running.c),
        out_stride=row_stride(lane.lane.out),
        H=H,
    )
    for t in span.times(reverse=lane.lane.reverse):
        n, row = steps.size(t), steps.bounds[t]
        if n:
            multiply(running.h[:n], weight, precision, product[:n])
            arguments["gates"], arguments["out"] = gates.row(row - lane.first_row), out.row(row)
            arguments["cells"], arguments["n"] = cells.row(row), n
            _launch(kernel, arguments, n * H)


def _backward_lane(lane: BackwardLane, span: Span) -> None:
    tape, running, steps = lane.tape, lane.running, span.steps
    H, weight = running.h.shape[1], Weights.of(tape.recurrence).hh
    kernel = pointwise(cuda_of(tape.x), "backward_step", tape.x.dtype)
    grad_out, grad_a = _Places(lane.grad_out), _Places(lane.grad_a)
    gates, cells = _Places(tape.gates), _Places(tape.cells)
    arguments = made(
        BACKWARD_STEP,
        grad_h=address(running.h),
        grad_c=address(running.c),
        c_0=address(tape.c_0),
        grad_stride=row_stride(lane.grad_out),
        H=H,
    )
    for t in span.times(reverse=not tape.reverse):
        n, row = steps.size(t), steps.bounds[t]
        before = t + 1 if tape.reverse else t - 1
        inside = 0 <= before < len(steps)
        if n:
            arguments["grad_out"], arguments["grad_a"] = grad_out.row(row), grad_a.row(row - lane.first_row)
            arguments["gates"], arguments["cells"], arguments["n"] = gates.row(row), cells.row(row), n
            arguments["before"] = cells.row(steps.bounds[before]) if inside else 0
            arguments["began"] = min(n, steps.size(before)) if inside else 0
            _launch(kernel, arguments, n * H)
            here = row - lane.first_row
            multiply(lane.grad_a[here : here + n], weight, tape.precision, running.h[:n])
