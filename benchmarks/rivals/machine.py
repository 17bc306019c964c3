"""What a measurement belongs to: the machine, the date, the versions; and its instruction sets."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from nplstm.commands.doctor.machine import find_processor
from nplstm.engines.cpus import find_cpus

__all__ = ["InstructionSet", "describe", "find_sets", "instruction_sets", "not_as_asked", "parse_verbose"]


class InstructionSet(NamedTuple):
    """An instruction set, and how libraries are told to use it."""

    name: str
    """As NPLSTM_KERNELS has it."""
    settings: dict[str, str]
    """Environment of every library's process. A library ignores the variables of the others."""
    best: bool
    """Whether it is the machine's best one."""


_AVX512 = re.compile(r"avx-?512|X86_V4|SkylakeX|Cooperlake|SapphireRapids", re.IGNORECASE)
"""What libraries that run AVX-512 say of themselves. The names after X86_V4, which is NumPy's, are OpenBLAS's."""


def find_sets() -> list[InstructionSet]:
    """Return the instruction sets of this machine that are measured, the best first."""
    processor = find_processor()
    return instruction_sets(processor.instructions, processor.simd_found)


def instruction_sets(instructions: Sequence[str], numpy_found: Sequence[str]) -> list[InstructionSet]:
    """Return the instruction sets that are measured, the best first.

    Parameters
    ----------
    instructions : sequence of str
        Those of the processor that matter.
    numpy_found : sequence of str
        Those that NumPy has faster loops for, and uses: it is told by name which ones to leave unused.
    """
    if "avx512f" in instructions:
        # OpenBLAS runs its AVX2 kernels on processors with AVX-512 that it does not know
        best = InstructionSet("avx512", {"NPLSTM_KERNELS": "avx512", "OPENBLAS_CORETYPE": "SkylakeX"}, best=True)
        return [best, _avx2(numpy_found, best=False)]
    if "avx2" in instructions:
        return [_avx2(numpy_found, best=True)]
    name = "neon" if {"neon", "asimd"} & set(instructions) else "baseline"
    return [InstructionSet(name, {"NPLSTM_KERNELS": name}, best=True)]


def _avx2(numpy_found: Sequence[str], *, best: bool) -> InstructionSet:
    settings = {
        "NPLSTM_KERNELS": "avx2",
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # for Intel's processors; on a Zen 5 MKL ran AVX2 kernels without it
    }
    unused = [name for name in numpy_found if name == "X86_V4" or name.startswith("AVX512")]
    return InstructionSet(
        "avx2", settings | ({"NPY_DISABLE_CPU_FEATURES": ",".join(unused)} if unused else {}), best
    )


def not_as_asked(name: str, said: Mapping[str, str]) -> str:
    """Return what a library says that it runs beyond an instruction set; empty if there is nothing.

    Only AVX-512 is found, which is the one set that libraries are told not to use.
    """
    beyond = [f"{part} runs {found}" for part, found in said.items() if _AVX512.search(found)]
    return "" if name == "avx512" else ", ".join(beyond)


def parse_verbose(printed: str) -> dict[str, str]:
    """Return, from what torch's libraries print, how oneDNN runs an LSTM and which processor MKL sees."""
    rnn = re.search(r"^onednn_verbose,.*,exec,cpu,rnn,([^,]+),", printed, re.MULTILINE)
    mkl = re.search(r"^MKL_VERBOSE .*64 architecture (.*?) processors", printed, re.MULTILINE)
    found = {"oneDNN": rnn, "MKL": mkl}
    return {part: match[1] for part, match in found.items() if match}


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


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
