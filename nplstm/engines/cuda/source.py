"""Source text and compiler options of the kernels, which are compiled at run time."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from nplstm.backends._cuda import Cuda, Kernel
from nplstm.engines.cuda.plan import ARITHMETIC, Phase, Tile

__all__ = [
    "KERNELS",
    "STORED",
    "kernel_options",
    "persistent",
    "persistent_options",
    "pointwise",
    "read_source",
    "stream",
]

KERNELS = Path(__file__).parent / "kernels"

_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)


@cache
def read_source(name: str) -> str:
    """Return the kernel file with each file that it includes in its place, once."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (KERNELS / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda found: expand(found[1]), text)

    return expand(name)


STORED = {"float16": "float16", "float32": "float", "float64": "double"}
"""By element type, its name in the kernels."""


def kernel_options(dtype: Any, **choices: int) -> tuple[str, ...]:
    """Return the compiler's options: the element type of the arrays, and the macros of a kernel."""
    chosen = (f"-D{name}={value}" for name, value in choices.items())
    return ("--std=c++17", f"-DSTORED={STORED[str(dtype)]}", *chosen)


def persistent_options(dtype: Any, precision: str, tile: Tile) -> tuple[str, ...]:
    """Return the compiler's options of a persistent kernel."""
    sizes = {"M_TILES": tile.m, "N_TILES": tile.n, "PASSES": tile.passes, "KEPT": tile.kept}
    return kernel_options(dtype, ARITHMETIC=ARITHMETIC[precision], **sizes)


def pointwise(cuda: Cuda, name: str, dtype: Any) -> Kernel:
    """Return ``forward_step`` or ``backward_step``."""
    return cuda.kernel(read_source("pointwise.cu"), name, kernel_options(dtype))


def persistent(cuda: Cuda, phase: Phase, dtype: Any, precision: str, tile: Tile) -> Kernel:
    """Return the kernel of whole sequences."""
    name = f"persistent_{phase}"
    return cuda.kernel(read_source(f"{name}.cu"), name, persistent_options(dtype, precision, tile))


def stream(cuda: Cuda, dtype: Any) -> Kernel:
    """Return the step of a stream."""
    return cuda.kernel(read_source("stream.cu"), "stream_step", kernel_options(dtype))
