"""Step by step on a CUDA device: a product by the library and one kernel for all that is left of a step."""

from typing import Any

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.backends._cuda import Kernel
from nplstm.engines.cuda.arguments import BACKWARD_STEP, FORWARD_STEP, made
from nplstm.engines.cuda.backward import BackwardLane
from nplstm.engines.cuda.forward import ForwardLane
from nplstm.engines.cuda.lanes import Span, cuda_of, empty, products
from nplstm.engines.cuda.source import pointwise
from nplstm.params import LSTMParams

__all__ = ["bias_of", "fused_backward_steps", "fused_forward_steps"]

_THREADS = 128


def bias_of(params: LSTMParams) -> Array | None:
    """Return the sum of the biases: for ``Recurrence.prepared``, which keeps it."""
    return params.bias


def fused_forward_steps(lanes: list[ForwardLane], span: Span, precision: str) -> None:
    """Run the lanes in turn; see ``ForwardSteps``."""
    for lane in lanes:
        with products(lane.lane.x, precision):
            _forward_lane(lane, span)


def fused_backward_steps(lanes: list[BackwardLane], span: Span) -> None:
    """Run the lanes back in turn; see ``BackwardSteps``."""
    for lane in lanes:
        with products(lane.tape.x, lane.tape.precision):
            _backward_lane(lane, span)


class _Places:
    """Addresses of rows: an array's first element, and how far its rows are apart."""

    def __init__(self, array: Array | None, stride: int | None = None) -> None:
        self.address = 0 if array is None else cuda_of(array).address(array)
        columns = 0 if array is None else array.shape[-1] if stride is None else stride
        self._row_bytes = 0 if array is None else columns * array.dtype.itemsize

    def row(self, number: int) -> int:
        """Return the address of a row; the null address where there is no array."""
        return self.address + number * self._row_bytes


def _launch(kernel: Kernel, arguments: Any, numbers: int) -> None:
    kernel.launch((-(-numbers // _THREADS), 1), _THREADS, arguments)


def _forward_lane(lane: ForwardLane, span: Span) -> None:
    recurrence, running, steps, x = lane.lane.recurrence, lane.running, span.steps, lane.lane.x
    H, cuda, matmul = running.h.shape[1], cuda_of(x), namespace(x).matmul
    weight, product = recurrence.params.weight_hh.T, empty(x, steps.batch, 4 * H)
    kernel = pointwise(cuda, "forward_step", x.dtype)
    stride = row_stride(lane.lane.out)
    gates, out, cells = _Places(lane.gates), _Places(lane.lane.out, stride), _Places(lane.cells)
    arguments = made(
        FORWARD_STEP,
        product=cuda.address(product),
        bias=_Places(recurrence.prepared(bias_of)).address,
        h=cuda.address(running.h),
        c=cuda.address(running.c),
        out_stride=stride,
        H=H,
    )
    for t in span.times(reverse=lane.lane.reverse):
        n, row = steps.size(t), steps.bounds[t]
        if n:
            matmul(running.h[:n], weight, out=product[:n])
            arguments["gates"], arguments["out"] = gates.row(row - lane.first_row), out.row(row)
            arguments["cells"], arguments["n"] = cells.row(row), n
            _launch(kernel, arguments, n * H)


def _backward_lane(lane: BackwardLane, span: Span) -> None:
    tape, running, steps = lane.tape, lane.running, span.steps
    H, cuda, matmul = running.h.shape[1], cuda_of(tape.x), namespace(tape.x).matmul
    weight = tape.recurrence.params.weight_hh
    kernel = pointwise(cuda, "backward_step", tape.x.dtype)
    stride = 0 if lane.grad_out is None else row_stride(lane.grad_out)
    grad_out, grad_a = _Places(lane.grad_out, stride), _Places(lane.grad_a)
    gates, cells = _Places(tape.gates), _Places(tape.cells)
    arguments = made(
        BACKWARD_STEP,
        grad_h=cuda.address(running.h),
        grad_c=cuda.address(running.c),
        c_0=cuda.address(tape.c_0),
        grad_stride=stride,
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
            matmul(lane.grad_a[here : here + n], weight, out=running.h[:n])


def row_stride(array: Array) -> int:
    """Return how many elements lie between the rows of a part of a wider array."""
    return array.strides[0] // array.dtype.itemsize if len(array) > 1 else array.shape[1]
