"""Forward pass on a CUDA device: x W_ih^T for a range of steps at once, then the steps."""

from typing import NamedTuple, Protocol

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps
from nplstm.engines.cuda.directions import (
    CudaTape,
    LayerDirection,
    RunningState,
    StepRange,
    empty,
    kept_type,
    multiply,
    step_ranges,
)
from nplstm.engines.cuda.exchange import check_launches

__all__ = ["ForwardInputs", "ForwardSteps", "cuda_forward"]


class ForwardInputs(NamedTuple):
    """Inputs of one direction for a range of steps."""

    direction: LayerDirection
    running: RunningState
    gates: Array | None  # (rows, 4H)  receives i, f, g, o where `cells` is there
    cells: Array | None  # (N, H)
    first_row: int  # of `gates`, among all rows
    has_product: bool  # whether `gates` has x W_ih^T


class ForwardSteps(Protocol):
    """A function of an engine that runs a range of steps."""

    def __call__(self, directions: list[ForwardInputs], step_range: StepRange, precision: str) -> None:
        """Advance ``running`` and fill ``out``, ``gates`` and ``cells``."""
        ...


def cuda_forward(
    directions: list[LayerDirection],
    steps: PackedSteps,
    *,
    record: bool,
    precision: str,
    run: ForwardSteps,
    chained: bool = False,
) -> list[CudaTape]:
    """Run the directions of a layer; return their tapes if they are recorded. See ``Engine.forward``.

    With ``chained`` these are layers, of which each but the first reads the output of the one before it as it is
    computed: x W_ih^T cannot be computed before the steps, and ``gates`` is allocated for a recording alone.
    """
    H, x = directions[0].initial.c.shape[1], directions[0].x
    check_launches(x)
    running = [RunningState(direction.initial) for direction in directions]
    has_input = [k == 0 or not chained for k in range(len(directions))]  # whether x is complete before the steps
    row_bytes = 4 * H * x.dtype.itemsize * sum(has_input)
    parts = [StepRange(steps, 0, len(steps))] if record and steps.total else list(step_ranges(steps, row_bytes))
    most = steps.total if record else max((step_range.most_rows for step_range in parts), default=0)
    gates = [empty(x, most, 4 * H) if record or has_x else None for has_x in has_input]
    cells = [empty(x, steps.total, H, dtype=kept_type(x.dtype)) if record else None for _ in directions]
    for step_range in parts:
        inputs: list[ForwardInputs] = []
        for direction, state, room, kept, has_x in zip(directions, running, gates, cells, has_input, strict=True):
            rows = step_range.rows(reverse=direction.reverse)
            if has_x and room is not None:
                _input_product(direction, rows, room[: rows.stop - rows.start], precision)
            inputs.append(ForwardInputs(direction, state, room, kept, rows.start, has_x))
        run(inputs, step_range, precision)
    tapes: list[CudaTape] = []
    for direction, state, room, kept in zip(directions, running, gates, cells, strict=True):
        state.write(direction.final)
        if record and room is not None and kept is not None:
            states = direction.initial.h, direction.initial.c
            own = (direction.x, *states, direction.out, room, kept)
            tapes.append(CudaTape(direction.weights, steps, direction.reverse, precision, *own))
    return tapes


def _input_product(direction: LayerDirection, rows: slice, out: Array, precision: str) -> None:
    """Write ``x W_ih^T``; the kernels add the biases as they read it."""
    multiply(direction.x[rows], direction.weights.params.weight_ih.T, precision, out)
