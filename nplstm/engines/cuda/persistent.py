"""The ``persistent`` engine's steps: whole sequences in one launch of ``kernels/persistent_*.cu``."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends import backend_of
from nplstm.backends._cuda import Cuda, Device, Kernel
from nplstm.core.packed import PackedSteps
from nplstm.engines.cuda.addresses import DeviceWeights, address, cuda_of, row_stride, rows_address
from nplstm.engines.cuda.arguments import BACKWARD, FORWARD, made
from nplstm.engines.cuda.backward import BackwardInputs
from nplstm.engines.cuda.directions import StepRange
from nplstm.engines.cuda.exchange import LaunchBuffers, exchange_buffers_of
from nplstm.engines.cuda.forward import ForwardInputs
from nplstm.engines.cuda.plan import THREADS, Phase, Plan, Problem, arithmetic_of, find_plan
from nplstm.engines.cuda.source import persistent
from nplstm.errors import DeviceError

__all__ = ["PATIENCE", "persistent_backward_steps", "persistent_forward_steps"]

PATIENCE = 2**22
"""Reads of a flag before a wait times out: some seconds, where a step takes microseconds."""

_RING = {False: 2, True: 4}
"""States in an exchange buffer, by whether the launch is a chain: there a follower may be some steps behind."""


def persistent_forward_steps(
    directions: list[ForwardInputs], step_range: StepRange, precision: str, *, chained: bool = False
) -> None:
    """Run all directions in one launch; see ``ForwardSteps``."""

    def describe(into: Any, k: int) -> None:
        part, direction = directions[k], directions[k].direction
        weights = DeviceWeights.of(direction.weights)
        _fill(
            into,
            weight_hh=weights.hh,
            weight_ih=None if part.has_product else weights.ih,
            bias_ih=weights.bias_ih,
            bias_hh=weights.bias_hh,
            gates=part.gates,
            h=part.running.h,
            c=part.running.c,
            cells=part.cells,
        )
        into["out"], into["out_stride"] = rows_address(direction.out), row_stride(direction.out)
        into["gates_from"] = part.first_row
        into["reverse"], into["has_product"] = direction.reverse, part.has_product

    x, h = directions[0].direction.x, directions[0].running.h
    _Launch("forward", x, len(directions), h, step_range, precision, chained).go(FORWARD, describe)


def persistent_backward_steps(
    directions: list[BackwardInputs], step_range: StepRange, *, chained: bool = False
) -> None:
    """Run all directions back in one launch; see ``BackwardSteps``."""

    def describe(into: Any, k: int) -> None:
        part, tape = directions[k], directions[k].tape
        leader = DeviceWeights.of(directions[k - 1].tape.weights) if chained and k else None
        _fill(
            into,
            weight_hh=DeviceWeights.of(tape.weights).hh,
            weight_ih=None if leader is None else leader.ih,
            gates=tape.gates,
            cells=tape.cells,
            c_0=tape.c_0,
            grad_a=part.grad_a,
            grad_h=part.running.h,
            grad_c=part.running.c,
        )
        into["grad_out"], into["grad_stride"] = rows_address(part.grad_out), row_stride(part.grad_out)
        into["grad_a_from"], into["reverse"] = part.first_row, tape.reverse

    tape, h = directions[0].tape, directions[0].running.h
    _Launch("backward", tape.x, len(directions), h, step_range, tape.precision, chained).go(BACKWARD, describe)


class _PreparedLaunch(NamedTuple):
    """Plan, kernel and sizes of the exchange buffers, the same for all launches of a problem."""

    problem: Problem
    plan: Plan
    kernel: Kernel
    ring: int  # states in an exchange buffer
    rows: int  # of a state: sequences, in whole tiles
    width: int  # numbers of a row: those of all blocks, in whole groups

    @property
    def bytes(self) -> int:
        """Bytes of a direction's exchange buffer."""
        return self.ring * self.rows * self.width * self.problem.bytes


@lru_cache(maxsize=256)
def _prepared(cuda: Cuda, device: Device, dtype: str, problem: Problem) -> _PreparedLaunch:
    """Plan, compile, and check that the device can run all blocks at once."""
    plan = find_plan(problem, device)
    if plan is None:
        raise DeviceError(f"persistent: {unfit(problem, device)}")
    kernel = persistent(cuda, problem.phase, dtype, problem.precision, plan.tile)
    columns, rows = plan.grid(problem.directions)
    resident = kernel.resident(THREADS, plan.block_memory) * device.multiprocessors
    if columns * rows > resident:
        raise DeviceError(
            f"persistent: {columns * rows} blocks have to run at once, and {device.name} can run {resident}"
        )
    each = plan.tile.units(problem.phase) * (1 if problem.phase == "forward" else 4)
    width = -(-max(plan.blocks * each, problem.numbers) // problem.group) * problem.group
    return _PreparedLaunch(problem, plan, kernel, _RING[problem.chained], plan.tiles * plan.tile.rows, width)


class _Launch:
    """A launch of the forward or the backward kernel."""

    def __init__(
        self,
        phase: Phase,
        like: Array,
        directions: int,
        state: Array,
        step_range: StepRange,
        precision: str,
        chained: bool,
    ) -> None:
        self._exchange, self._like = exchange_buffers_of(like), like
        self._steps, self._chained = step_range, chained
        B, H = state.shape
        problem = Problem(phase, arithmetic_of(phase, like.dtype, precision), B, H, directions, chained)
        cuda = cuda_of(like)
        self._prepared = _prepared(cuda, cuda.device(), str(like.dtype), problem)
        # held until the launch
        self._bounds = _bounds(step_range.steps, like) if step_range.steps.ragged else None

    def go(self, kind: Any, describe: Callable[[Any, int], None]) -> None:
        """Launch, all blocks at once; ``describe`` fills in the arguments of each direction."""
        prepared, arguments = self._prepared, made(kind)
        with self._exchange.lock:
            buffers = self._reserve()
            self._describe(arguments["shape"], buffers)
            for k in range(prepared.problem.directions):
                into = arguments["direction"][:, k]
                describe(into, k)
                self._connect(into, buffers, k)
            grid = prepared.plan.grid(prepared.problem.directions)
            prepared.kernel.launch(
                grid, THREADS, arguments, block_memory=prepared.plan.block_memory, together=True
            )

    def _reserve(self) -> LaunchBuffers:
        """Reserve exchange buffers and flags."""
        plan, steps = self._prepared.plan, self._steps.last - self._steps.first
        return self._exchange.reserve(
            self._like, self._prepared.problem.directions, self._prepared.bytes, plan.tiles * plan.blocks, steps
        )

    def _describe(self, shape: Any, buffers: LaunchBuffers) -> None:
        """Fill in the arguments of all directions."""
        step_range, prepared = self._steps, self._prepared
        _fill(shape, bounds=self._bounds)
        shape["status"], shape["base"], shape["patience"] = buffers.status, buffers.base, PATIENCE
        shape["T"], shape["first"], shape["steps"] = (
            len(step_range.steps),
            step_range.first,
            step_range.last - step_range.first,
        )
        shape["B"], shape["H"] = prepared.problem.batch, prepared.problem.hidden
        shape["tiles"], shape["blocks"] = prepared.plan.tiles, prepared.plan.blocks
        shape["ring"], shape["rows"], shape["width"] = prepared.ring, prepared.rows, prepared.width

    def _connect(self, into: Any, buffers: LaunchBuffers, direction: int) -> None:
        """Fill in a direction's exchange buffer, and those of its leader and its follower in a chain."""
        into["own"]["numbers"], into["own"]["flags"] = buffers.numbers[direction], buffers.flags[direction]
        if self._chained and direction:
            into["leader"]["numbers"], into["leader"]["flags"] = (
                buffers.numbers[direction - 1],
                buffers.flags[direction - 1],
            )
        if self._chained and direction + 1 < self._prepared.problem.directions:
            into["follower"] = buffers.flags[direction + 1]


def _fill(into: Any, **arrays: Array | None) -> None:
    """Fill in addresses."""
    for name, array in arrays.items():
        into[name] = address(array)


def unfit(problem: Problem, device: Device) -> str:
    """Say that no plan fits the device."""
    return (
        f"needs weights that fit on {device.multiprocessors} multiprocessors ({device.name}); those of "
        f"{problem.directions} x H={problem.hidden} in {problem.precision} with B={problem.batch} do not fit "
        f"in the {problem.phase} pass"
    )


def _bounds(steps: PackedSteps, like: Array) -> Array:
    """Return where the rows of each step begin, on the device."""
    return backend_of(like).asarray(steps.offsets, dtype="int64")
