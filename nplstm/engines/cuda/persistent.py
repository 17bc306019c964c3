"""Whole sequences in one launch: what ``kernels/persistent_*.cu`` are given."""

from typing import Any

from nplstm._typing import Array
from nplstm.backends import backend_of
from nplstm.backends._cuda import Device
from nplstm.engines.cuda.arguments import BACKWARD, FORWARD, made
from nplstm.engines.cuda.backward import BackwardLane
from nplstm.engines.cuda.board import Posts, board_of
from nplstm.engines.cuda.forward import ForwardLane
from nplstm.engines.cuda.fused import bias_of, row_stride
from nplstm.engines.cuda.lanes import Span, cuda_of
from nplstm.engines.cuda.plan import THREADS, Direction, Plan, Problem, find_plan
from nplstm.engines.cuda.source import persistent
from nplstm.errors import DeviceError
from nplstm.steps import Steps

__all__ = ["PATIENCE", "arithmetic_of", "persistent_backward_steps", "persistent_forward_steps"]

PATIENCE = 2**22
"""Looks at a flag before a wait is given up: some seconds, where a step takes microseconds."""

RING = {False: 2, True: 4}
"""States that are kept for others to read: with a follower, so that it may fall behind a little."""


def arithmetic_of(dtype: Any, precision: str) -> str:
    """Return what the kernels multiply for a layer of that element type: float16 for float16."""
    return "float16" if dtype == "float16" else precision


def persistent_forward_steps(
    lanes: list[ForwardLane], span: Span, precision: str, *, chained: bool = False
) -> None:
    """Run all lanes in one launch; see ``ForwardSteps``."""
    x = lanes[0].lane.x
    launch = _Launch("forward", x, len(lanes), lanes[0].running.h.shape, span, precision, chained)
    with launch.board.lock:
        posts = launch.posts()
        arguments = made(FORWARD)
        launch.describe(arguments["shape"], posts)
        for k, lane in enumerate(lanes):
            into = arguments["lane"][:, k]
            params = lane.lane.recurrence.params
            launch.fill(
                into,
                weight_hh=params.weight_hh,
                weight_ih=None if lane.given else params.weight_ih,
                bias=lane.lane.recurrence.prepared(bias_of),
                gates=lane.gates,
                h=lane.running.h,
                c=lane.running.c,
                out=lane.lane.out,
                cells=lane.cells,
            )
            into["out_stride"], into["gates_from"] = row_stride(lane.lane.out), lane.first_row
            into["reverse"], into["given"] = lane.lane.reverse, lane.given
            launch.connect(into, posts, k)
        launch.go(arguments)


def persistent_backward_steps(lanes: list[BackwardLane], span: Span, *, chained: bool = False) -> None:
    """Run all lanes back in one launch; see ``BackwardSteps``."""
    tape = lanes[0].tape
    launch = _Launch("backward", tape.x, len(lanes), lanes[0].running.h.shape, span, tape.precision, chained)
    with launch.board.lock:
        posts = launch.posts()
        arguments = made(BACKWARD)
        launch.describe(arguments["shape"], posts)
        for k, lane in enumerate(lanes):
            into = arguments["lane"][:, k]
            leader = lanes[k - 1].tape.recurrence.params if chained and k else None
            launch.fill(
                into,
                weight_hh=lane.tape.recurrence.params.weight_hh,
                weight_ih=None if leader is None else leader.weight_ih,
                grad_out=lane.grad_out,
                gates=lane.tape.gates,
                cells=lane.tape.cells,
                c_0=lane.tape.c_0,
                grad_a=lane.grad_a,
                grad_h=lane.running.h,
                grad_c=lane.running.c,
            )
            into["grad_stride"] = 0 if lane.grad_out is None else row_stride(lane.grad_out)
            into["grad_a_from"], into["reverse"] = lane.first_row, lane.tape.reverse
            launch.connect(into, posts, k)
        launch.go(arguments)


class _Launch:
    """What both directions' launches have in common."""

    def __init__(
        self,
        direction: Direction,
        x: Array,
        lanes: int,
        state_shape: tuple[int, ...],
        span: Span,
        precision: str,
        chained: bool,
    ) -> None:
        self._x, self._lanes, self._span, self._chained = x, lanes, span, chained
        self._cuda, self.board = cuda_of(x), board_of(x)
        self._batch, self._hidden = state_shape
        arithmetic = arithmetic_of(x.dtype, precision)
        self._problem = Problem(direction, arithmetic, self._batch, self._hidden, lanes, chained)
        self._plan, self._ring = self._planned(self._cuda.device()), RING[chained]
        self._bounds = _bounds(span.steps, x) if span.steps.ragged else None  # held until it is launched

    def _planned(self, device: Device) -> Plan:
        plan = find_plan(self._problem, device)
        if plan is None:
            raise DeviceError(f"persistent: {unfit(self._problem, device)}")
        return plan

    @property
    def _rows(self) -> int:
        return self._plan.tiles * self._plan.tile.rows

    @property
    def _width(self) -> int:
        """Numbers between the rows of what is sent: those of all blocks, and whole groups."""
        problem = self._problem
        each = self._plan.tile.units(problem.direction) * (1 if problem.direction == "forward" else 4)
        group = problem.group
        return -(-max(self._plan.blocks * each, problem.numbers) // group) * group

    def posts(self) -> Posts:
        """Take room on the board, after a look at whether the last launch went well."""
        self.board.check()
        each = self._ring * self._rows * self._width * self._problem.bytes
        flags = self._plan.tiles * self._plan.blocks
        return self.board.posts(self._x, self._lanes, each, flags, self._span.last - self._span.first)

    def describe(self, shape: Any, posts: Posts) -> None:
        """Fill in what holds for all lanes."""
        steps, span = self._span.steps, self._span
        self.fill(shape, bounds=self._bounds)
        shape["status"], shape["base"], shape["patience"] = posts.status, posts.base, PATIENCE
        shape["T"], shape["first"], shape["steps"] = len(steps), span.first, span.last - span.first
        shape["B"], shape["H"] = self._batch, self._hidden
        shape["tiles"], shape["blocks"] = self._plan.tiles, self._plan.blocks
        shape["ring"], shape["rows"], shape["width"] = self._ring, self._rows, self._width

    def fill(self, into: Any, **arrays: Array | None) -> None:
        """Fill in addresses."""
        for name, array in arrays.items():
            into[name] = 0 if array is None else self._cuda.address(array)

    def connect(self, into: Any, posts: Posts, lane: int) -> None:
        """Say where a lane sends to, and whom it follows and leads."""
        into["own"]["numbers"], into["own"]["flags"] = posts.numbers[lane], posts.flags[lane]
        if self._chained and lane:
            into["leader"]["numbers"], into["leader"]["flags"] = posts.numbers[lane - 1], posts.flags[lane - 1]
        if self._chained and lane + 1 < self._lanes:
            into["follower"] = posts.flags[lane + 1]

    def go(self, arguments: Any) -> None:
        """Launch, all blocks at once or not at all."""
        plan = self._plan
        problem = self._problem
        kernel = persistent(self._cuda, problem.direction, self._x.dtype, problem.precision, plan.tile)
        places = kernel.resident(THREADS, plan.block_memory) * self._cuda.device().multiprocessors
        columns, rows = plan.grid(self._lanes)
        if columns * rows > places:
            raise DeviceError(
                f"persistent: {columns * rows} blocks have to run at once, and the device has room for {places}"
            )
        kernel.launch((columns, rows), THREADS, arguments, block_memory=plan.block_memory, together=True)


def unfit(problem: Problem, device: Device) -> str:
    """Say that nothing fits."""
    return (
        f"the weights of {problem.lanes} x H={problem.hidden} in {problem.precision} with B={problem.batch} do "
        f"not fit on {device.multiprocessors} multiprocessors ({device.name}) {problem.direction}"
    )


def _bounds(steps: Steps, like: Array) -> Array:
    """Return where the rows of each step begin, on the device."""
    return backend_of(like).asarray(steps.offsets, dtype="int32")
