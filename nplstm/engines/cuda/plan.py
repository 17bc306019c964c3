"""How a persistent launch is cut into blocks: plain arithmetic, and a model of what a step takes.

A block has ``units`` cells of one lane for ``rows`` sequences. The weights of its cells have to fit into its
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
    "MAX_LANES",
    "THREADS",
    "Direction",
    "Plan",
    "Problem",
    "Tile",
    "arithmetic_of",
    "find_plan",
    "instantiations",
]

Direction = Literal["forward", "backward"]

ARITHMETIC = {"float32": 0, "tf32": 1, "float16": 2, "bfloat16": 3}
"""By the name of a precision, what the kernels call it."""

WARPS, THREADS, MAX_LANES = 8, 256, 8


class Tile(NamedTuple):
    """What a block has, in the units of the matrix instructions: what the kernel is compiled for."""

    m: int  # tiles of 16 rows of weights
    n: int  # tiles of 8 sequences, multiplied at once
    passes: int  # as many times in a step
    kept: int  # groups of weights that a warp has in registers

    @property
    def rows(self) -> int:
        """Sequences of a block."""
        return 8 * self.n * self.passes

    def units(self, direction: Direction) -> int:
        """Return the cells of a block: the way forward has four rows of weights for a cell, the way back one."""
        return 4 * self.m if direction == "forward" else 16 * self.m


# The most groups that a warp can keep without registers spilling into memory, by the tile's m, n and passes:
# found by compiling for sm_80 and sm_90, and tested so. Products that are exact take more registers besides.
_KEPT: dict[tuple[Direction, bool], dict[tuple[int, int, int], int]] = {
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
    """What is to be run."""

    direction: Direction
    precision: str
    batch: int
    hidden: int
    lanes: int  # side by side
    led: bool  # whether lanes read what another one computes, a step behind it

    @property
    def group(self) -> int:
        """Numbers that a warp multiplies together: 64 bytes of a row."""
        return 64 // self.bytes

    @property
    def bytes(self) -> int:
        """Of a number that blocks send each other."""
        return 2 if self.precision in ("float16", "bfloat16") else 4

    @property
    def numbers(self) -> int:
        """Numbers that a lane sends for a sequence and a step."""
        return self.hidden if self.direction == "forward" else 4 * self.hidden

    @property
    def groups(self) -> int:
        """Groups that a block multiplies, of its own lane and of one that leads it."""
        return -(-self.numbers // self.group) * (2 if self.led else 1)

    def tiles(self) -> list[Tile]:
        """Return the tiles that there are kernels for."""
        kept = _KEPT[self.direction, self.precision == "float32"]
        return [Tile(*shape, kept=groups) for shape, groups in kept.items()]


class Plan(NamedTuple):
    """One way to run it."""

    tile: Tile
    blocks: int  # that share the cells of a lane
    tiles: int  # that share its sequences
    block_memory: int  # bytes
    step: float  # microseconds, by the model

    def grid(self, lanes: int) -> tuple[int, int]:
        """Return the grid of a launch of so many lanes."""
        return self.blocks, self.tiles * lanes


def arithmetic_of(direction: Direction, dtype: Any, precision: str) -> str:
    """Return what the kernels multiply for a layer of that element type.

    Arrays of float16 have float16 alone. Gradients of float32 arrays may be smaller than float16 has numbers for:
    where it is allowed, the way back takes TF32, which has as many bits.
    """
    if dtype == "float16":
        return "float16"
    return "tf32" if direction == "backward" and precision == "float16" else precision


def instantiations() -> list[tuple[Direction, str, str, Tile]]:
    """Return all that the engine can ask a compiler for: direction, element type, arithmetic, tile."""
    directions: tuple[Direction, Direction] = ("forward", "backward")
    return [
        (direction, dtype, arithmetic, tile)
        for direction, dtype in product(directions, ("float32", "float16"))
        for arithmetic in dict.fromkeys(arithmetic_of(direction, dtype, precision) for precision in ARITHMETIC)
        for tile in Problem(direction, arithmetic, 1, 1, 1, False).tiles()
    ]


@lru_cache(maxsize=256)
def find_plan(problem: Problem, device: Device) -> Plan | None:
    """Return the plan with the shortest step; None where none fits."""
    plans = [plan for tile in problem.tiles() if (plan := _plan(problem, tile, device))]
    return min(plans, key=lambda plan: plan.step, default=None)


def _plan(problem: Problem, tile: Tile, device: Device) -> Plan | None:
    """Return the plan with this tile, if it fits."""
    blocks = -(-problem.hidden // tile.units(problem.direction))
    tiles = -(-problem.batch // tile.rows)
    memory = _sums_bytes(tile) + _rest_bytes(problem, tile)
    if blocks * tiles * problem.lanes > device.multiprocessors or memory > device.block_memory:
        return None
    return Plan(tile, blocks, tiles, memory, _step_time(problem, tile, blocks, tiles))


def _sums_bytes(tile: Tile) -> int:
    """Bytes of the warps' sums in a block's memory."""
    return WARPS * 8 * tile.n * (16 * tile.m + 4) * 4


def _rest_bytes(problem: Problem, tile: Tile) -> int:
    """Bytes of the weights that registers have no room for."""
    most = -(-problem.groups // WARPS)
    return WARPS * max(most - tile.kept, 0) * tile.m * 1024


def _step_time(problem: Problem, tile: Tile, blocks: int, tiles: int) -> float:
    """Model a step, in microseconds.

    The constants are those of an H100 by its data sheet and by others' measurements of its latencies, not fitted
    to this kernel: they rank tiles, and put a step at about what it takes.
    """
    rows = min(tile.rows, problem.batch)
    received = rows * problem.numbers * problem.bytes * (2 if problem.led else 1)
    instructions = (
        2 * problem.groups * tile.m * tile.n * tile.passes * (6 if problem.precision == "float32" else 1)
    )
    block_memory = tile.passes * (2 * _sums_bytes(tile) + _rest_bytes(problem, tile))
    waiting = 1.0 + 0.002 * blocks  # a flag and what it tells of, through the second-level cache, and back
    receiving = max(received / 60e3, received * blocks * tiles * problem.lanes / 3500e3)  # bytes by bytes / us
    multiplying = instructions / 1000
    adding = block_memory / 200e3 + 0.15 * tile.passes  # and two barriers, and the cell
    return waiting + receiving + multiplying + adding
