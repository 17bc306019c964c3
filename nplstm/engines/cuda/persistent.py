"""Whole sequences in one launch: what ``kernels/persistent_*.cu`` are given."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends import backend_of
from nplstm.backends._cuda import Cuda, Device, Kernel
from nplstm.core.packed import PackedSteps
from nplstm.engines.cuda.addresses import DeviceWeights, address, cuda_of, row_stride, rows_address
from nplstm.engines.cuda.arguments import BACKWARD, FORWARD, made
from nplstm.engines.cuda.backward import BackwardSpan
from nplstm.engines.cuda.directions import Span
from nplstm.engines.cuda.exchange import Posts, board_of
from nplstm.engines.cuda.forward import ForwardSpan
from nplstm.engines.cuda.plan import THREADS, Direction, Plan, Problem, arithmetic_of, find_plan
from nplstm.engines.cuda.source import persistent
from nplstm.errors import DeviceError

__all__ = ["PATIENCE", "persistent_backward_steps", "persistent_forward_steps"]

PATIENCE = 2**22
"""Looks at a flag before a wait is given up: some seconds, where a step takes microseconds."""

_RING = {False: 2, True: 4}
"""States that are kept for others to read: with a follower, so that it may fall behind a little."""


def persistent_forward_steps(
    directions: list[ForwardSpan], span: Span, precision: str, *, chained: bool = False
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
        into["reverse"], into["given"] = direction.reverse, part.has_product

    x, h = directions[0].direction.x, directions[0].running.h
    _Launch("forward", x, len(directions), h, span, precision, chained).go(FORWARD, describe)


def persistent_backward_steps(directions: list[BackwardSpan], span: Span, *, chained: bool = False) -> None:
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
    _Launch("backward", tape.x, len(directions), h, span, tape.precision, chained).go(BACKWARD, describe)


class _Prepared(NamedTuple):
    """What is the same for all launches of a problem."""

    problem: Problem
    plan: Plan
    kernel: Kernel
    ring: int  # states that are kept for others to read
    rows: int  # of a state: sequences, in whole tiles
    width: int  # numbers of a row: those of all blocks, in whole groups

    @property
    def bytes(self) -> int:
        """Bytes of a lane's numbers."""
        return self.ring * self.rows * self.width * self.problem.bytes


@lru_cache(maxsize=256)
def _prepared(cuda: Cuda, device: Device, dtype: str, problem: Problem) -> _Prepared:
    """Plan, compile, and see that the device has room for all blocks at once."""
    plan = find_plan(problem, device)
    if plan is None:
        raise DeviceError(f"persistent: {unfit(problem, device)}")
    kernel = persistent(cuda, problem.direction, dtype, problem.precision, plan.tile)
    columns, rows = plan.grid(problem.lanes)
    places = kernel.resident(THREADS, plan.block_memory) * device.multiprocessors
    if columns * rows > places:
        raise DeviceError(
            f"persistent: {columns * rows} blocks have to run at once, and {device.name} has room for {places}"
        )
    each = plan.tile.units(problem.direction) * (1 if problem.direction == "forward" else 4)
    width = -(-max(plan.blocks * each, problem.numbers) // problem.group) * problem.group
    return _Prepared(problem, plan, kernel, _RING[problem.led], plan.tiles * plan.tile.rows, width)


class _Launch:
    """What both directions' launches have in common."""

    def __init__(
        self,
        direction: Direction,
        like: Array,
        lanes: int,
        state: Array,
        span: Span,
        precision: str,
        chained: bool,
    ) -> None:
        self._board, self._like = board_of(like), like
        self._span, self._chained = span, chained
        B, H = state.shape
        problem = Problem(direction, arithmetic_of(direction, like.dtype, precision), B, H, lanes, chained)
        cuda = cuda_of(like)
        self._of = _prepared(cuda, cuda.device(), str(like.dtype), problem)
        self._bounds = _bounds(span.steps, like) if span.steps.ragged else None  # held until it is launched

    def go(self, kind: Any, describe: Callable[[Any, int], None]) -> None:
        """Launch, all blocks at once; ``describe`` fills in what the structure has of each lane."""
        of, arguments = self._of, made(kind)
        with self._board.lock:
            posts = self._posts()
            self._describe(arguments["shape"], posts)
            for k in range(of.problem.lanes):
                into = arguments["lane"][:, k]
                describe(into, k)
                self._connect(into, posts, k)
            grid = of.plan.grid(of.problem.lanes)
            of.kernel.launch(grid, THREADS, arguments, block_memory=of.plan.block_memory, together=True)

    def _posts(self) -> Posts:
        """Take room on the board."""
        plan, steps = self._of.plan, self._span.last - self._span.first
        return self._board.posts(
            self._like, self._of.problem.lanes, self._of.bytes, plan.tiles * plan.blocks, steps
        )

    def _describe(self, shape: Any, posts: Posts) -> None:
        """Fill in what holds for all lanes."""
        span, of = self._span, self._of
        _fill(shape, bounds=self._bounds)
        shape["status"], shape["base"], shape["patience"] = posts.status, posts.base, PATIENCE
        shape["T"], shape["first"], shape["steps"] = len(span.steps), span.first, span.last - span.first
        shape["B"], shape["H"] = of.problem.batch, of.problem.hidden
        shape["tiles"], shape["blocks"] = of.plan.tiles, of.plan.blocks
        shape["ring"], shape["rows"], shape["width"] = of.ring, of.rows, of.width

    def _connect(self, into: Any, posts: Posts, lane: int) -> None:
        """Say where a lane sends to, and whom it follows and leads."""
        into["own"]["numbers"], into["own"]["flags"] = posts.numbers[lane], posts.flags[lane]
        if self._chained and lane:
            into["leader"]["numbers"], into["leader"]["flags"] = posts.numbers[lane - 1], posts.flags[lane - 1]
        if self._chained and lane + 1 < self._of.problem.lanes:
            into["follower"] = posts.flags[lane + 1]


def _fill(into: Any, **arrays: Array | None) -> None:
    """Fill in addresses."""
    for name, array in arrays.items():
        into[name] = address(array)


def unfit(problem: Problem, device: Device) -> str:
    """Say that nothing fits."""
    return (
        f"the weights of {problem.lanes} x H={problem.hidden} in {problem.precision} with B={problem.batch} do "
        f"not fit on {device.multiprocessors} multiprocessors ({device.name}) {problem.direction}"
    )


def _bounds(steps: PackedSteps, like: Array) -> Array:
    """Return where the rows of each step begin, on the device."""
    return backend_of(like).asarray(steps.offsets, dtype="int64")
