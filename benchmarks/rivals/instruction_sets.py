"""Instruction sets of this machine, and how libraries are told to use one of them."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nplstm.commands.doctor.machine import find_processor


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
    """Return the instruction sets that are measured, the best first, among those of a processor.

    ``numpy_found`` are those that NumPy has faster loops for, and uses: it is told by name which to leave unused.
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
