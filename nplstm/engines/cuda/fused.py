"""The ``fused`` engine's steps: a matrix product by the library and one kernel for the rest of a step."""

from typing import Any

from nplstm._typing import Array
from nplstm.backends._cuda import Kernel
from nplstm.engines.cuda.addresses import DeviceWeights, address, cuda_of, row_stride, rows_address
from nplstm.engines.cuda.arguments import BACKWARD_STEP, FORWARD_STEP, made
from nplstm.engines.cuda.backward import BackwardInputs
from nplstm.engines.cuda.directions import StepRange, empty, multiply
from nplstm.engines.cuda.forward import ForwardInputs
from nplstm.engines.cuda.source import pointwise

__all__ = ["fused_backward_steps", "fused_forward_steps"]

_THREADS = 128


def fused_forward_steps(directions: list[ForwardInputs], step_range: StepRange, precision: str) -> None:
    """Run the directions in turn; see ``ForwardSteps``."""
    for direction in directions:
        _forward(direction, step_range, precision)


def fused_backward_steps(directions: list[BackwardInputs], step_range: StepRange) -> None:
    """Run the directions back in turn; see ``BackwardSteps``."""
    for direction in directions:
        _backward(direction, step_range)


class _RowAddresses:
    """Addresses of the rows of an array (n, m); null where there is no array."""

    def __init__(self, array: Array | None) -> None:
        self._first = rows_address(array)
        self._row_bytes = 0 if array is None else array.strides[0]

    def row(self, number: int) -> int:
        """Return the address of a row."""
        return self._first + number * self._row_bytes


def _launch(kernel: Kernel, arguments: Any, numbers: int) -> None:
    kernel.launch((-(-numbers // _THREADS), 1), _THREADS, arguments)


def _forward(part: ForwardInputs, step_range: StepRange, precision: str) -> None:
    direction, running, steps = part.direction, part.running, step_range.steps
    x, H, weights = direction.x, running.h.shape[1], DeviceWeights.of(direction.weights)
    weight, product = weights.hh.T, empty(x, steps.batch, 4 * H)
    kernel = pointwise(cuda_of(x), "forward_step", x.dtype)
    gates, out, cells = _RowAddresses(part.gates), _RowAddresses(direction.out), _RowAddresses(part.cells)
    arguments = made(
        FORWARD_STEP,
        product=address(product),
        bias_ih=address(weights.bias_ih),
        bias_hh=address(weights.bias_hh),
        h=address(running.h),
        c=address(running.c),
        out_stride=row_stride(direction.out),
        H=H,
    )
    for t in step_range.times(reverse=direction.reverse):
        n, row = steps.size(t), steps.bounds[t]
        if n:
            multiply(running.h[:n], weight, precision, product[:n])
            arguments["gates"], arguments["out"] = gates.row(row - part.first_row), out.row(row)
            arguments["cells"], arguments["n"] = cells.row(row), n
            _launch(kernel, arguments, n * H)


def _backward(part: BackwardInputs, step_range: StepRange) -> None:
    tape, running, steps = part.tape, part.running, step_range.steps
    H, weight = running.h.shape[1], DeviceWeights.of(tape.weights).hh
    kernel = pointwise(cuda_of(tape.x), "backward_step", tape.x.dtype)
    grad_out, grad_a = _RowAddresses(part.grad_out), _RowAddresses(part.grad_a)
    gates, cells = _RowAddresses(tape.gates), _RowAddresses(tape.cells)
    arguments = made(
        BACKWARD_STEP,
        grad_h=address(running.h),
        grad_c=address(running.c),
        c_0=address(tape.c_0),
        grad_stride=row_stride(part.grad_out),
        H=H,
    )
    for t in step_range.times(reverse=not tape.reverse):
        n, row = steps.size(t), steps.bounds[t]
        before = t + 1 if tape.reverse else t - 1
        inside = 0 <= before < len(steps)
        if n:
            arguments["grad_out"], arguments["grad_a"] = grad_out.row(row), grad_a.row(row - part.first_row)
            arguments["gates"], arguments["cells"], arguments["n"] = gates.row(row), cells.row(row), n
            arguments["before"] = cells.row(steps.bounds[before]) if inside else 0
            arguments["began"] = min(n, steps.size(before)) if inside else 0
            _launch(kernel, arguments, n * H)
            here = row - part.first_row
            multiply(part.grad_a[here : here + n], weight, tape.precision, running.h[:n])
