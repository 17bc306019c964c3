"""The way forward of the compiled engine: what the kernels are given, and what a recording keeps."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from nplstm._typing import Array
from nplstm.engines._numpy.memory import aligned_empty
from nplstm.engines.base import Lane
from nplstm.engines.compiled.calls import Task
from nplstm.engines.compiled.kernels import kernels
from nplstm.engines.compiled.packing import Packed, pack, padded_cells
from nplstm.engines.compiled.rows import Share, Span
from nplstm.engines.compiled.shares import WORTH_A_THREAD, progress_of, shares
from nplstm.engines.compiled.team import MOST_THREADS, TEAM
from nplstm.engines.threads import get_num_threads
from nplstm.recurrence import Recurrence, State
from nplstm.steps import Steps

__all__ = ["CompiledTape", "Walk", "aligned_rows", "compiled_forward", "run_lanes"]

_SCRATCH_BYTES = 1 << 18
"""Gates of a share at a time, without recording: what a core's own cache holds beside weights."""

_BLOCK_ROWS = 64
"""Rows of input that are transformed at once, at least: the weights are read once for all of them."""


class CompiledTape(NamedTuple):
    """What backpropagation through time needs of one layer in one direction."""

    recurrence: Recurrence
    steps: Steps
    reverse: bool
    x: Array  # (N, I)
    out: Array  # (N, P)  h_t
    h_0: Array  # (B, P)
    c_0: Array  # (B, Hp)
    gates: Array  # (N, 4Hp)  i, f, g, o
    cells: Array  # (N, Hp)  c_t


_Room: TypeAlias = tuple[Array, Array]
"""For the gates (rows, 4Hp) and the cells (rows, Hp)."""


class Walk(NamedTuple):
    """One layer in one direction on its way forward: what the kernel reads and writes."""

    x: Array
    packed: Packed
    h_0: Array
    c: Array  # overwritten
    out: Array
    steps: Steps

    @property
    def panels(self) -> int:
        """Hp, the cells in whole panels."""
        return self.c.shape[1]

    @property
    def work(self) -> int:
        """Multiplications of one sequence in one step."""
        return self.packed.weight_ih.size + self.packed.weight_hh.size

    def room(self, rows: int) -> _Room:
        """Make room for the gates and cells of some rows."""
        # one piece of memory: of many large ones, the C library gives some back to the system after each call
        both, gates = aligned_empty((rows * 5 * self.panels,), self.c.dtype), rows * 4 * self.panels
        return both[:gates].reshape(rows, 4 * self.panels), both[gates:].reshape(rows, self.panels)

    def tasks(self, reverse: bool, room: _Room | None, threads: int) -> list[Task]:
        """Cut the steps among threads; without room for the gates of all rows they are not kept."""
        B, Hp = self.c.shape
        parts = shares(self.steps, Hp, self.c.itemsize, threads, self.work)
        block = max(_BLOCK_ROWS, _SCRATCH_BYTES * len(parts) // (4 * Hp * self.c.itemsize)) // max(1, B)
        block = min(max(1, block), len(self.steps))
        rooms = self._work_spaces(parts, block) if room is None else [room] * len(parts)
        span, progress = Span(reverse, block, room is not None), progress_of(len(parts))
        arrays, rest = (self.x, *self.packed, self.h_0, self.c, self.out), (self.steps.offsets, progress, *span)
        forward = kernels(self.c.dtype).forward
        return [Task(forward, (*arrays, *own, *rest, *share)) for own, share in zip(rooms, parts, strict=True)]

    def _work_spaces(self, parts: list[Share], block: int) -> list[_Room]:
        """Make room for the gates of a block of steps: shares by sequences do not wait for each other."""
        if parts[0].members > 1:
            return [(aligned_empty((block * parts[0].last, 4 * self.panels), self.c.dtype), self.c)] * len(parts)
        widths = [share.last - share.first for share in parts]
        return [(aligned_empty((block * n, 4 * self.panels), self.c.dtype), self.c) for n in widths]

    def final_c(self, H: int) -> Array:
        """Return c without the cells that fill up the last panel."""
        return self.c if self.panels == H else self.c[:, :H].copy()


def compiled_forward(lanes: list[Lane], steps: Steps, *, record: bool) -> list[tuple[State, CompiledTape | None]]:
    """Run the lanes; see ``Engine.forward``."""
    walks = [_walk(lane, steps, record=record) for lane in lanes]
    starts = [walk.c.copy() if record else walk.c for walk in walks]
    rooms = [walk.room(steps.total) if record else None for walk in walks]
    if steps.total:
        cuts = [partial(w.tasks, lane.reverse, r) for w, lane, r in zip(walks, lanes, rooms, strict=True)]
        run_lanes(cuts, steps.total * sum(walk.work for walk in walks))
    results: list[tuple[State, CompiledTape | None]] = []
    for lane, walk, room, c_0 in zip(lanes, walks, rooms, starts, strict=True):
        final = State(
            _last(walk.out, walk.h_0, steps, reverse=lane.reverse), walk.final_c(lane.initial.c.shape[1])
        )
        tape = None
        if room is not None:
            tape = CompiledTape(lane.recurrence, steps, lane.reverse, walk.x, walk.out, walk.h_0, c_0, *room)
        results.append((final, tape))
    return results


def run_lanes(lanes: list[Callable[[int], list[Task]]], work: int) -> None:
    """Run what each lane cuts its work into, side by side where that pays; ``work``: multiplications in all."""
    threads = min(get_num_threads(), MOST_THREADS) if work >= WORTH_A_THREAD else 1
    for group in [lanes] if len(lanes) <= threads else [[lane] for lane in lanes]:
        together = [task for cut in group for task in cut(threads // len(group))] if threads > 1 else []
        if not (together and TEAM.run(together)):
            for cut in group:
                for task in cut(1):
                    task.run()


def aligned_rows(array: Array) -> Array:
    """Return an array whose rows the kernels can walk: the array itself, or a copy."""
    itemsize = array.itemsize
    fits = array.strides[1] == itemsize and array.strides[0] % itemsize == 0 and array.flags.aligned
    return array if fits else np.array(array, order="C")


def _walk(lane: Lane, steps: Steps, *, record: bool) -> Walk:
    packed = lane.recurrence.prepared(pack)
    h_0 = lane.initial.h.copy() if record else aligned_rows(lane.initial.h)  # a tape shares nothing with the user
    return Walk(aligned_rows(lane.x), packed, h_0, padded_cells(lane.initial.c), lane.out, steps)


def _last(out: Array, h_0: Array, steps: Steps, *, reverse: bool) -> Array:
    """Return each sequence's h after its own last step, (B, P)."""
    h_n = np.array(h_0)
    T = len(steps)
    if T and reverse:
        h_n[: steps.size(0)] = out[: steps.size(0)]
    elif T and steps.size(T - 1) == steps.batch:
        h_n[...] = out[steps.bounds[T - 1] :]
    elif T:
        lengths = steps.lengths
        n = steps.size(0)
        h_n[:n] = out[steps.offsets[lengths[:n] - 1] + np.arange(n)]
    return h_n
