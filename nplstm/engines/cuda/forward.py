"""The way forward on a CUDA device: the input's product for a span of steps at once, then the steps."""

from typing import NamedTuple, Protocol

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State
from nplstm.engines.base import Lane
from nplstm.engines.cuda.board import check_launches
from nplstm.engines.cuda.lanes import CudaTape, Running, Span, empty, kept_type, multiply, spans

__all__ = ["ForwardLane", "ForwardSteps", "cuda_forward"]


class ForwardLane(NamedTuple):
    """One lane over one span."""

    lane: Lane
    running: Running
    gates: Array | None  # (rows, 4H)  receives i, f, g, o where `cells` is there
    cells: Array | None  # (N, H)
    first_row: int  # of `gates`, among all rows
    given: bool  # whether `gates` has the input's share


class ForwardSteps(Protocol):
    """Runs the steps of a span: what an engine is."""

    def __call__(self, lanes: list[ForwardLane], span: Span, precision: str) -> None:
        """Advance ``running`` and fill ``out``, ``gates`` and ``cells``."""
        ...


def cuda_forward(
    lanes: list[Lane],
    steps: PackedSteps,
    *,
    record: bool,
    precision: str,
    run: ForwardSteps,
    chained: bool = False,
) -> list[tuple[State, CudaTape | None]]:
    """Run the lanes; see ``Engine.forward``.

    With ``chained`` each lane but the first reads the output of the one before it as it is made: there is no
    product to be taken ahead of the steps, and a recording has room for the gates alone.
    """
    H, x = lanes[0].initial.c.shape[1], lanes[0].x
    check_launches(x)
    running = [Running(lane.initial) for lane in lanes]
    fed = [k == 0 or not chained for k in range(len(lanes))]
    row_bytes = 4 * H * x.dtype.itemsize * sum(fed)
    parts = [Span(steps, 0, len(steps))] if record and steps.total else list(spans(steps, row_bytes))
    most = steps.total if record else max((span.most_rows for span in parts), default=0)
    gates = [empty(x, most, 4 * H) if record or there else None for there in fed]
    cells = [empty(x, steps.total, H, dtype=kept_type(x.dtype)) if record else None for _ in lanes]
    for span in parts:
        of_span: list[ForwardLane] = []
        for lane, state, room, kept, there in zip(lanes, running, gates, cells, fed, strict=True):
            rows = span.rows(reverse=lane.reverse)
            if there and room is not None:
                _input_product(lane, rows, room[: rows.stop - rows.start], precision)
            of_span.append(ForwardLane(lane, state, room, kept, rows.start, there))
        run(of_span, span, precision)
    results: list[tuple[State, CudaTape | None]] = []
    for lane, state, room, kept in zip(lanes, running, gates, cells, strict=True):
        tape = None
        if record and room is not None and kept is not None:
            # the caller's states can be written to: here no array refuses that
            given = (lane.x, lane.initial.h.copy(), lane.initial.c.copy(), lane.out)
            tape = CudaTape(lane.recurrence, steps, lane.reverse, precision, *given, room, kept)
        results.append((state.state(), tape))
    return results


def _input_product(lane: Lane, rows: slice, out: Array, precision: str) -> None:
    """Write ``x W_ih^T``; the kernels add the biases as they read it."""
    multiply(lane.x[rows], lane.recurrence.params.weight_ih.T, precision, out)
