"""Choice between one launch for a whole sequence and step by step, by the model of ``plan``."""

from nplstm._typing import Array
from nplstm.backends._cuda import Device
from nplstm.core.packed import PackedSteps
from nplstm.engines.base import Request
from nplstm.engines.cuda.addresses import cuda_of
from nplstm.engines.cuda.directions import CudaTape
from nplstm.engines.cuda.persistent import unfit
from nplstm.engines.cuda.plan import MAX_DIRECTIONS, Phase, Plan, Problem, arithmetic_of, find_plan

__all__ = ["describe", "fused_step", "unsupported_reason", "worth_a_chain", "worth_a_launch_back"]

_RATE = {"float32": 40e6, "tf32": 250e6, "float16": 450e6, "bfloat16": 450e6}
"""Operations per microsecond of the library's product at these sizes."""

_CALLS = 20.0
"""Microseconds that Python takes to submit a step: a product and a launch."""

_MANY_STEPS = 1000
"""The length of a sequence for which ``describe`` says whether layers run as a chain."""


def fused_step(problem: Problem) -> float:
    """Model a step of two calls, in microseconds: Python submits one while the device runs another."""
    operations = 8 * problem.batch * problem.hidden**2
    weights = 16 * problem.hidden**2 / 3500e3  # bytes, by bytes in a microsecond
    return problem.directions * max(_CALLS, 6 + weights + operations / _RATE[problem.precision])


def unsupported_reason(request: Request, precision: str) -> str:
    """Say why a launch for whole sequences does not run the request; empty if it does."""
    assert request.cuda is not None
    device = request.cuda.device()
    if device.capability < (8, 0):
        return f"needs compute capability 8.0; {device.name} has {'.'.join(map(str, device.capability))}"
    for problem in _problems("forward", request, precision):
        plan = find_plan(problem, device)
        if plan is None:
            return unfit(problem, device)
        if "fused" in request.others and plan.step > fused_step(problem):
            each = f"{plan.step:.1f} us a step against {fused_step(problem):.1f}"
            return f"needs to be faster than step by step; the model gives {each}"
    return ""


def describe(request: Request, precision: str) -> list[str]:
    """Say how launches are divided into blocks, and in which precision they multiply."""
    assert request.cuda is not None
    device = request.cuda.device()
    lines: list[str] = []
    phases: tuple[Phase, Phase] = ("forward", "backward")
    for phase in phases:
        problems = _problems(phase, request, precision)
        if request.column and (chain := _chain(problems, device, _MANY_STEPS)):
            lines.append(f"{len(problems)} layers together {phase}: {_described(*chain)}")
            continue
        for layer, problem in enumerate(problems):
            plan = find_plan(problem, device)
            worth = plan is not None and plan.step <= fused_step(problem)
            how = _described(plan, problem) if plan and (worth or phase == "forward") else "step by step"
            lines.append(f"layer {layer} {phase}: {how}")
    return lines


def worth_a_launch_back(tapes: list[CudaTape]) -> bool:
    """Tell whether the backward pass fits into one launch, and is faster so."""
    tape = tapes[0]
    arithmetic = arithmetic_of("backward", tape.x.dtype, tape.precision)
    problem = Problem("backward", arithmetic, tape.steps.batch, tape.out.shape[1], len(tapes), False)
    plan = find_plan(problem, cuda_of(tape.x).device())
    return plan is not None and plan.step <= fused_step(problem)


def worth_a_chain(phase: Phase, x: Array, precision: str, widths: list[int], steps: PackedSteps) -> bool:
    """Tell whether layers fit into one launch, each a step behind the one it reads, and are faster so."""
    arithmetic = arithmetic_of(phase, x.dtype, precision)
    problems = [Problem(phase, arithmetic, steps.batch, hidden, 1, False) for hidden in widths]
    return _chain(problems, cuda_of(x).device(), len(steps)) is not None


def _chain(problems: list[Problem], device: Device, steps: int) -> tuple[Plan, Problem] | None:
    """Return the plan of layers that follow each other, if that is faster than one after the other."""
    layers, one = len(problems), problems[0]
    if not 1 < layers <= MAX_DIRECTIONS or set(problems) != {one} or one.batch == 0:
        return None
    together = one._replace(directions=layers, chained=True)
    chain, single = find_plan(together, device), find_plan(one, device)
    if chain is None or (single is not None and (steps + layers - 1) * chain.step >= layers * steps * single.step):
        return None
    return chain, together


def _problems(phase: Phase, request: Request, precision: str) -> list[Problem]:
    """Return the problem of each layer, for layers that run one after the other."""
    arithmetic = arithmetic_of(phase, request.dtype, precision)
    return [
        Problem(phase, arithmetic, request.batch, hidden, request.directions, False) for hidden in request.hidden
    ]


def _described(plan: Plan, problem: Problem) -> str:
    tile = plan.tile
    blocks = "one block" if plan.blocks == 1 else f"{plan.blocks} blocks"
    each = "" if problem.directions == 1 else " and layer" if problem.chained else " and direction"
    return (
        f"{blocks} of {tile.units(problem.phase)} cells for each {tile.rows} sequences{each}, products in "
        f"{problem.precision}, {plan.step:.1f} us a step by the model"
    )
