"""The way forward on a CUDA device: the input's product for a span of steps at once, then the steps."""

from typing import NamedTuple, Protocol

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps
from nplstm.engines.cuda.directions import (
    CudaTape,
    LayerDirection,
    Running,
    Span,
    empty,
    kept_type,
    multiply,
    spans,
)
from nplstm.engines.cuda.exchange import check_launches

__all__ = ["ForwardSpan", "ForwardSteps", "cuda_forward"]


class ForwardSpan(NamedTuple):
    """One direction over one span."""

    direction: LayerDirection
    running: Running
    gates: Array | None  # (rows, 4H)  receives i, f, g, o where `cells` is there
    cells: Array | None  # (N, H)
    first_row: int  # of `gates`, among all rows
    has_product: bool  # whether `gates` has the input's share


class ForwardSteps(Protocol):
    """Runs the steps of a span: what an engine is."""

    def __call__(self, directions: list[ForwardSpan], span: Span, precision: str) -> None:
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
    made: there is no product to be taken ahead of the steps, and a recording has room for the gates alone.
    """
    H, x = directions[0].initial.c.shape[1], directions[0].x
    check_launches(x)
    running = [Running(direction.initial) for direction in directions]
    ahead = [
        k == 0 or not chained for k in range(len(directions))
    ]  # whether the input is there ahead of the steps
    row_bytes = 4 * H * x.dtype.itemsize * sum(ahead)
    parts = [Span(steps, 0, len(steps))] if record and steps.total else list(spans(steps, row_bytes))
    most = steps.total if record else max((span.most_rows for span in parts), default=0)
    gates = [empty(x, most, 4 * H) if record or there else None for there in ahead]
    cells = [empty(x, steps.total, H, dtype=kept_type(x.dtype)) if record else None for _ in directions]
    for span in parts:
        of_span: list[ForwardSpan] = []
        for direction, state, room, kept, there in zip(directions, running, gates, cells, ahead, strict=True):
            rows = span.rows(reverse=direction.reverse)
            if there and room is not None:
                _input_product(direction, rows, room[: rows.stop - rows.start], precision)
            of_span.append(ForwardSpan(direction, state, room, kept, rows.start, there))
        run(of_span, span, precision)
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
