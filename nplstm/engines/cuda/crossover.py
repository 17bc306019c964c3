"""When to run a whole sequence in one launch, and when step by step: by the model of ``plan``."""

from nplstm._typing import Array
from nplstm.backends._cuda import Device
from nplstm.core.packed import PackedSteps
from nplstm.engines.base import Request
from nplstm.engines.cuda.addresses import cuda_of
from nplstm.engines.cuda.directions import CudaTape
from nplstm.engines.cuda.persistent import unfit
from nplstm.engines.cuda.plan import MAX_LANES, Direction, Plan, Problem, arithmetic_of, find_plan

__all__ = ["describe", "fused_step", "unsupported_reason", "worth_a_chain", "worth_a_launch_back"]

_RATE = {"float32": 40e6, "tf32": 250e6, "float16": 450e6, "bfloat16": 450e6}
"""Operations in a microsecond that the library's product comes to at these sizes."""

_CALLS = 20.0
"""Microseconds that it takes Python to ask for a step: a product and a launch."""

_MANY_STEPS = 1000
"""What is told of a chain holds for sequences of about this length."""


def fused_step(problem: Problem) -> float:
    """Model a step that is two calls, in microseconds: Python asks for one while the device is at another."""
    operations = 8 * problem.batch * problem.hidden**2
    weights = 16 * problem.hidden**2 / 3500e3  # bytes, by bytes in a microsecond
    return problem.lanes * max(_CALLS, 6 + weights + operations / _RATE[problem.precision])


def unsupported_reason(request: Request, precision: str) -> str:
    """Say why a launch for whole sequences does not run the request; empty if it does."""
    assert request.cuda is not None
    device = request.cuda.device()
    if device.capability < (8, 0):
        return f"it needs a device of compute capability 8.0, and {device.name} has {device.capability}"
    for problem in _problems("forward", request, precision):
        plan = find_plan(problem, device)
        if plan is None:
            return unfit(problem, device)
        if "fused" in request.others and plan.step > fused_step(problem):
            each = f"{fused_step(problem):.1f} us a step, and here {plan.step:.1f}"
            return f"step by step is faster by the model: {each}"
    return ""


def describe(request: Request, precision: str) -> list[str]:
    """Say how launches are cut into blocks, and in what they multiply."""
    assert request.cuda is not None
    device = request.cuda.device()
    lines: list[str] = []
    directions: tuple[Direction, Direction] = ("forward", "backward")
    for direction in directions:
        problems = _problems(direction, request, precision)
        if request.column and (chain := _chain(problems, device, _MANY_STEPS)):
            lines.append(f"{len(problems)} layers together {direction}: {_described(*chain)}")
            continue
        for layer, problem in enumerate(problems):
            plan = find_plan(problem, device)
            worth = plan is not None and plan.step <= fused_step(problem)
            how = _described(plan, problem) if plan and (worth or direction == "forward") else "step by step"
            lines.append(f"layer {layer} {direction}: {how}")
    return lines


def worth_a_launch_back(tapes: list[CudaTape]) -> bool:
    """Tell whether the way back fits into a launch, and is faster so."""
    tape = tapes[0]
    arithmetic = arithmetic_of("backward", tape.x.dtype, tape.precision)
    problem = Problem("backward", arithmetic, tape.steps.batch, tape.out.shape[1], len(tapes), False)
    plan = find_plan(problem, cuda_of(tape.x).device())
    return plan is not None and plan.step <= fused_step(problem)


def worth_a_chain(direction: Direction, x: Array, precision: str, widths: list[int], steps: PackedSteps) -> bool:
    """Tell whether layers fit into one launch, each a step behind the one it reads, and are faster so."""
    arithmetic = arithmetic_of(direction, x.dtype, precision)
    problems = [Problem(direction, arithmetic, steps.batch, hidden, 1, False) for hidden in widths]
    return _chain(problems, cuda_of(x).device(), len(steps)) is not None


def _chain(problems: list[Problem], device: Device, steps: int) -> tuple[Plan, Problem] | None:
    """Return the plan of layers that follow each other, if that is faster than one after the other."""
    layers, one = len(problems), problems[0]
    if not 1 < layers <= MAX_LANES or set(problems) != {one} or one.batch == 0:
        return None
    together = one._replace(lanes=layers, led=True)
    chain, single = find_plan(together, device), find_plan(one, device)
    if chain is None or (single is not None and (steps + layers - 1) * chain.step >= layers * steps * single.step):
        return None
    return chain, together


def _problems(direction: Direction, request: Request, precision: str) -> list[Problem]:
    """Return what each layer comes to, one after the other."""
    arithmetic = arithmetic_of(direction, request.dtype, precision)
    return [
        Problem(direction, arithmetic, request.batch, hidden, request.directions, False)
        for hidden in request.hidden
    ]


def _described(plan: Plan, problem: Problem) -> str:
    tile = plan.tile
    blocks = "one block" if plan.blocks == 1 else f"{plan.blocks} blocks"
    each = "" if problem.lanes == 1 else " and layer" if problem.led else " and direction"
    return (
        f"{blocks} of {tile.units(problem.direction)} cells for each {tile.rows} sequences{each}, products in "
        f"{problem.precision}, {plan.step:.1f} us a step by the model"
    )
