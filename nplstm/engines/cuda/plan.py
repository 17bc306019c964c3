"""Division of a persistent launch into blocks, and a model of the time of a step.

A block has ``units`` cells of one direction for ``rows`` sequences. The weights of its cells have to fit into its
registers and its shared memory, and all blocks have to run at once, one on each multiprocessor. Among the tiles
that fit, the plan takes the one with the shortest step by the model below, which docs/performance.md states beside
what was measured.

The numbers here have their counterparts in ``kernels/persistent.cuh`` and ``kernels/arithmetic.cuh``.
"""

from functools import lru_cache
from itertools import product
from typing import Any, Literal, NamedTuple

from nplstm.backends._cuda import Device

__all__ = [
    "ARITHMETIC",
    "MAX_DIRECTIONS",
    "THREADS",
    "Phase",
    "Plan",
    "Problem",
    "Tile",
    "arithmetic_of",
    "find_plan",
    "instantiations",
]

Phase = Literal["forward", "backward"]

ARITHMETIC = {"float32": 0, "tf32": 1, "float16": 2, "bfloat16": 3}
"""By the name of a precision, the value of ARITHMETIC in the kernels."""

WARPS, THREADS, MAX_DIRECTIONS = 8, 256, 8


class Tile(NamedTuple):
    """Size of a block, in units of the matrix instructions; a kernel is compiled for each."""

    m: int  # tiles of 16 rows of weights
    n: int  # tiles of 8 sequences, multiplied at once
    passes: int  # passes over the sequences in a step
    kept: int  # groups of weights that a warp keeps in registers

    @property
    def rows(self) -> int:
        """Sequences of a block."""
        return 8 * self.n * self.passes

    def units(self, phase: Phase) -> int:
        """Return the cells of a block: a cell has four rows of weights forward, one backward."""
        return 4 * self.m if phase == "forward" else 16 * self.m


# The most groups that a warp can keep without registers spilling into memory, by the tile's m, n and passes:
# found by compiling for sm_80 and sm_90, and tested so. Products that are exact take more registers besides.
_KEPT: dict[tuple[Phase, bool], dict[tuple[int, int, int], int]] = {
    ("forward", True): {
        (2, 1, 1): 7, (2, 2, 1): 6, (2, 2, 4): 4,
        (4, 1, 1): 3, (4, 2, 1): 1, (4, 2, 2): 1, (4, 2, 4): 1,
    },
    ("forward", False): {
        (2, 1, 1): 8, (2, 2, 1): 8,
        (4, 1, 1): 4, (4, 2, 1): 3, (4, 2, 2): 3, (4, 4, 1): 1, (4, 4, 2): 1,
    },
    ("backward", True): {(1, 1, 1): 13, (1, 2, 1): 10, (1, 2, 2): 10, (1, 2, 4): 8},
    ("backward", False): {(1, 1, 1): 14, (1, 2, 1): 13, (1, 4, 1): 10, (1, 4, 2): 8},
}  # fmt: skip


class Problem(NamedTuple):
    """Sizes and precision of a launch: what a plan depends on, beside the device."""

    phase: Phase
    precision: str
    batch: int
    hidden: int
    directions: int  # side by side in one launch: of a layer, or the layers of a chain
    chained: bool  # whether each direction but the first reads what the one before it computes, a step behind it

    @property
    def group(self) -> int:
        """Numbers that a warp multiplies together: 64 bytes of a row."""
        return 64 // self.bytes

    @property
    def bytes(self) -> int:
        """Bytes of a number that blocks send each other."""
        return 2 if self.precision in ("float16", "bfloat16") else 4

    @property
    def numbers(self) -> int:
        """Numbers that a direction sends for a sequence and a step."""
        return self.hidden if self.phase == "forward" else 4 * self.hidden

    @property
    def groups(self) -> int:
        """Groups that a block multiplies, of its own direction and of its leader."""
        return -(-self.numbers // self.group) * (2 if self.chained else 1)

    def tiles(self) -> list[Tile]:
        """Return the tiles that there are kernels for."""
        kept = _KEPT[self.phase, self.precision == "float32"]
        return [Tile(*shape, kept=groups) for shape, groups in kept.items()]


class Plan(NamedTuple):
    """Division of a launch into blocks."""

    tile: Tile
    blocks: int  # that share the cells of a direction
    tiles: int  # that share its sequences
    block_memory: int  # bytes
    step: float  # microseconds, by the model

    def grid(self, directions: int) -> tuple[int, int]:
        """Return the grid of a launch of so many directions."""
        return self.blocks, self.tiles * directions


def arithmetic_of(phase: Phase, dtype: Any, precision: str) -> str:
    """Return the precision of the products for a layer of that element type.

    Arrays of float16 have float16 alone. Gradients of float32 arrays may be smaller than float16 has numbers for:
    where it is allowed, the backward pass takes TF32, which has as many bits.
    """
    if dtype == "float16":
        return "float16"
    return "tf32" if phase == "backward" and precision == "float16" else precision


def instantiations() -> list[tuple[Phase, str, str, Tile]]:
    """Return all kernels that the engine can compile: phase, element type, arithmetic, tile."""
    phases: tuple[Phase, Phase] = ("forward", "backward")
    return [
        (phase, dtype, arithmetic, tile)
        for phase, dtype in product(phases, ("float32", "float16"))
        for arithmetic in dict.fromkeys(arithmetic_of(phase, dtype, precision) for precision in ARITHMETIC)
        for tile in Problem(phase, arithmetic, 1, 1, 1, False).tiles()
    ]


@lru_cache(maxsize=256)
def find_plan(problem: Problem, device: Device) -> Plan | None:
    """Return the plan with the shortest step; None where none fits."""
    plans = [plan for tile in problem.tiles() if (plan := _plan(problem, tile, device))]
    return min(plans, key=lambda plan: plan.step, default=None)


def _plan(problem: Problem, tile: Tile, device: Device) -> Plan | None:
    """Return the plan with this tile, if it fits."""
    blocks = -(-problem.hidden // tile.units(problem.phase))
    tiles = -(-problem.batch // tile.rows)
    memory = _sums_bytes(tile) + _rest_bytes(problem, tile)
    if blocks * tiles * problem.directions > device.multiprocessors or memory > device.block_memory:
        return None
    return Plan(tile, blocks, tiles, memory, _step_time(problem, tile, blocks, tiles))


def _sums_bytes(tile: Tile) -> int:
    """Bytes of the warps' sums in a block's memory."""
    return WARPS * 8 * tile.n * (16 * tile.m + 4) * 4


def _rest_bytes(problem: Problem, tile: Tile) -> int:
    """Bytes of the weights that do not fit into registers, in a block's memory."""
    most = -(-problem.groups // WARPS)
    return WARPS * max(most - tile.kept, 0) * tile.m * 1024


def _step_time(problem: Problem, tile: Tile, blocks: int, tiles: int) -> float:
    """Model a step, in microseconds.

    The constants are those of an H100 by its data sheet and by others' measurements of its latencies, not fitted
    to this kernel: they rank tiles, and put a step at about what it takes.
    """
    rows = min(tile.rows, problem.batch)
    received = rows * problem.numbers * problem.bytes * (2 if problem.chained else 1)
    instructions = (
        2 * problem.groups * tile.m * tile.n * tile.passes * (6 if problem.precision == "float32" else 1)
    )
    block_memory = tile.passes * (2 * _sums_bytes(tile) + _rest_bytes(problem, tile))
    waiting = (
        1.0 + 0.002 * blocks
    )  # a flag and the numbers that it announces, through the second-level cache and back
    receiving = max(
        received / 60e3, received * blocks * tiles * problem.directions / 3500e3
    )  # bytes by bytes / us
    multiplying = instructions / 1000
    adding = block_memory / 200e3 + 0.15 * tile.passes  # and two barriers, and the cell
    return waiting + receiving + multiplying + adding
