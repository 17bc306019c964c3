"""What a measurement belongs to: the machine, the date, the versions; and whether its BLAS could be faster."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nplstm.doctor.machine import find_processor
from nplstm.engines.cpus import find_cpus

__all__ = ["best_kernels", "describe", "kernels_of"]

_BEST = "SkylakeX"

_AVX512 = {_BEST, "Cooperlake", "SapphireRapids"}
"""OpenBLAS's names for its kernels with AVX-512."""


def describe() -> dict[str, Any]:
    """Return what there is to know of the machine, at this time."""
    processor = find_processor()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD") + "+" * bool(_git("status", "--porcelain")),
        "processor": processor.model,
        "instructions": processor.instructions,
        "cpus": find_cpus().usable,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def kernels_of(library: dict[str, Any]) -> list[str]:
    """Return the names of the BLAS kernels that a library's process has loaded."""
    return sorted({blas["architecture"] for blas in library["blas"] if blas.get("architecture")})


def best_kernels(instructions: list[str], kernels: list[str]) -> tuple[dict[str, str], str]:
    """Return the settings with which OpenBLAS would run its best kernels, and in words what is so.

    OpenBLAS does not know every processor with AVX-512, and runs AVX2 kernels on those it does not know, at half
    the speed. There are no settings where there is nothing to gain.
    """
    shown = ", ".join(kernels) or "unknown"
    if "avx512f" not in instructions:
        return {}, f"the processor has no AVX-512: OpenBLAS's choice ({shown}) stays"
    if not kernels or _AVX512 & set(kernels):
        return {}, f"OpenBLAS's kernels are the best by default ({shown}): there is no second pass"
    return {"OPENBLAS_CORETYPE": _BEST}, f"by default OpenBLAS runs {shown} kernels here, though there is AVX-512"


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
