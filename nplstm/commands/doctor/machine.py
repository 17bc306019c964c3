"""The versions, the processor and the environment that a measurement belongs to."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nplstm import __version__

CPUINFO = Path("/proc/cpuinfo")

VARIABLES = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
)
"""What BLAS libraries and NumPy read when they are loaded; later changes have no effect."""

_INSTRUCTIONS = (
    *("sse42", "avx", "f16c", "fma", "avx2"),
    *("avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16", "avx512fp16", "amxtile", "amxbf16"),
    *("neon", "asimd", "asimdhp", "sve", "sve2"),
    *("vsx", "vsx3", "vx", "vxe", "rvv", "lsx"),
)


@dataclass(frozen=True)
class Versions:
    """What runs, and on what."""

    nplstm: str
    python: str
    numpy: str
    platform: str


@dataclass(frozen=True)
class Processor:
    """The processor, and what NumPy's own loops make of it."""

    model: str
    instructions: list[str]
    """Instruction sets that matter to linear algebra, in the order of their age."""
    simd_baseline: list[str]
    """What NumPy was built to need."""
    simd_found: list[str]
    """What it has faster loops for, and uses here."""
    simd_not_found: list[str]
    """What it has faster loops for, and cannot use here."""


def find_versions() -> Versions:
    """Return the versions of this process."""
    return Versions(__version__, platform.python_version(), np.__version__, platform.platform())


def find_processor() -> Processor:
    """Ask the system for the processor, and NumPy for its SIMD extensions."""
    cpuinfo = _first_cpu(CPUINFO.read_text(encoding="utf-8", errors="replace")) if CPUINFO.exists() else {}
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    config: Any = np.show_config(mode="dicts")
    simd = config.get("SIMD Extensions", {})
    return Processor(
        cpuinfo.get("model name") or _model(),
        instruction_sets(flags or _numpy_features()),
        *(list(simd.get(kind, ())) for kind in ("baseline", "found", "not found")),
    )


def instruction_sets(flags: Iterable[str]) -> list[str]:
    """Return those that matter, under one spelling: Linux writes sse4_2 and fma, NumPy SSE42 and FMA3."""
    known = {flag.lower().replace("_", "") for flag in flags}
    known |= {"fma"} if "fma3" in known else set()
    return [name for name in _INSTRUCTIONS if name in known]


def _first_cpu(cpuinfo: str) -> dict[str, str]:
    lines = cpuinfo.partition("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _model() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    else:
        name = platform.processor()
    return name or platform.machine() or "unknown"


def _numpy_features() -> list[str]:
    # not public, so it may go; other systems than Linux have no list that is as easy to read
    features: dict[str, bool] = getattr(_numpy_core(), "__cpu_features__", {})
    return [name for name, present in features.items() if present]


def _numpy_core() -> Any:
    return import_module("numpy._core._multiarray_umath")


def find_environment() -> dict[str, str]:
    """Return the variables that are set and act on speed, nplstm's own among them."""
    own = sorted(name for name in os.environ if name.startswith("NPLSTM_"))
    return {name: os.environ[name] for name in (*VARIABLES, *own) if name in os.environ}
