"""What a call should take, by the model that the engines plan with: their steps, and the products around them.

A model and no bound: the constants of ``nplstm.engines.cuda.plan`` are of others' measurements. A share of it says
how far a figure is from what the design promises, and rows that stand out are those to look into.
"""

from nplstm.backends._cuda import Device
from nplstm.engines.cuda.crossover import fused_step
from nplstm.engines.cuda.plan import MAX_LANES, Direction, Problem, find_plan

from .cases import Case

__all__ = ["modelled"]

_OPERATIONS = {"float32": 40e6, "tf32": 250e6, "float16": 450e6, "bfloat16": 250e6}
"""In a microsecond, of the library's product; with bfloat16 what is no part of the recurrence is taken in TF32."""


def modelled(case: Case, device: Device) -> float:
    """Return the microseconds of a step of all layers; for training, of a step there and back."""
    ways: tuple[Direction, ...] = ("forward", "backward") if case.task == "training" else ("forward",)
    return sum(_steps(direction, case, device) for direction in ways) + _products(case)


def _steps(direction: Direction, case: Case, device: Device) -> float:
    """Return what the recurrence of all layers takes: one after the other, or each a step behind the one below."""
    one = Problem(direction, case.precision, case.B, case.H, case.directions, False)
    plan = find_plan(one, device)
    in_turn = case.layers * min(fused_step(one), plan.step if plan else float("inf"))
    if not 1 < case.layers <= MAX_LANES or case.bidirectional:
        return in_turn
    chain = find_plan(Problem(direction, case.precision, case.B, case.H, case.layers, True), device)
    return min(in_turn, chain.step * (case.T + case.layers - 1) / case.T) if chain else in_turn


def _products(case: Case) -> float:
    """Return what the products outside the recurrence take: x W_ih^T; for training, three gradients as well."""
    operations = 0
    for layer in range(case.layers):
        read = case.H if layer == 0 else case.directions * case.H
        of_input, of_state = (8 * case.B * case.H * width * case.directions for width in (read, case.H))
        operations += of_input + (2 * of_input + of_state if case.task == "training" else 0)
    return operations / _OPERATIONS[case.precision]
