"""Compile the kernels with a test program in C, for any processor that there is a compiler for."""

import ast
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "CHECKS_BY_CALL",
    "EAGER",
    "FAMILIES",
    "HASTY",
    "KERNELS",
    "InstructionSet",
    "build",
    "build_module",
    "changed",
    "sets_of",
]

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "nplstm" / "engines" / "compiled" / "kernels"
CHECKS_BY_CALL = "--param=asan-instrumentation-with-call-threshold=0"
"""AddressSanitizer as a function that is called: unrolled kernels are compiled four times as fast."""
FAMILIES = {"x86_64": ("avx512", "avx2", "baseline"), "aarch64": ("neon", "baseline")}


EAGER = {
    "layer.c": {
        r"PARALLEL_MIN_WORK = [^,]*": "PARALLEL_MIN_WORK = 0",
        r"BARRIER_MIN_WORK = [^,]*": "BARRIER_MIN_WORK = 0",
    },
    "pool.c": {
        r"PENALTY = [^,]*": "PENALTY = 0",
        r"WAKE_NS = [^,]*": "WAKE_NS = 0",
        r"JOIN_NS = [^,]*": "JOIN_NS = 5 * 1000 * 1000",
        r"TOO_LONG_NS = [^,]*": "TOO_LONG_NS = 1000 * 1000 * 1000",
        r"int64_t join_ns = [^;]*;": "int64_t join_ns = JOIN_NS; (void)expected;",
    },
}
"""Changes with which threads share even the smallest work, and wait for each other as long as it takes."""

HASTY = {
    **EAGER,
    "pool.c": {
        **EAGER["pool.c"],
        r"time_waited > TOO_LONG_NS && loss_by_sharing\([^;]*\) > TOO_LONG_NS": "round % 5 == 4",
    },
}
"""The same, but member 0 of a barrier goes on alone after a few rounds."""


class InstructionSet(NamedTuple):
    """A row of the table in the kernels' meson.build."""

    name: str
    vector_bytes: str
    tile_vectors: str
    flags: list[str]


def sets_of(family: str) -> list[InstructionSet]:
    """The instruction sets that the package is built for on processors of a family."""
    rows = re.findall(r"\['\w+', '\d+', '\d+', \[.*?\]\]", (KERNELS / "meson.build").read_text(encoding="utf-8"))
    known = {row[0]: InstructionSet(*row) for row in map(ast.literal_eval, rows)}
    return [known[name] for name in FAMILIES[family]]


def changed(folder: Path, changes: dict[str, dict[str, str]]) -> Path:
    """Copy the kernels' sources with some passages, by regular expression, replaced."""
    shutil.copytree(KERNELS, folder)
    for name, passages in changes.items():
        text = (folder / name).read_text(encoding="utf-8")
        for pattern, replacement in passages.items():
            text, count = re.subn(pattern, replacement, text)
            if not count:
                raise ValueError(f"{name} has nothing like {pattern!r} any more: adapt the change to it")
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def build(
    program: str, of: InstructionSet, folder: Path, *flags: str, compiler: str = "gcc", sources: Path = KERNELS
) -> Path:
    """Compile a program of this folder with the kernels of one instruction set, from ``sources``."""
    units = [*_kernel_units(of), *_SHARED, _Unit(str(HERE / f"{program}.c"), program, ["-O1"])]
    units = [unit._replace(options=[*unit.options, f"-DINSTRUCTION_SET={of.name}"]) for unit in units]
    objects = _compile(units, sources, folder, [*flags, "-Werror"], compiler)
    made = folder / f"{program}-{of.name}"
    run(compiler, *flags, *objects, "-o", made, "-lpthread")
    return made


def build_module(folder: Path, *flags: str, sources: Path = KERNELS) -> Path:
    """Compile the Python module with the kernels of all instruction sets of x86-64."""
    units = [unit for of in sets_of("x86_64") for unit in _kernel_units(of)]
    include = f"-I{sysconfig.get_path('include')}"
    units += [*_SHARED, _Unit("module.c", "module", ["-O2", "-DHAVE_X86_SETS", include])]
    objects = _compile(units, sources, folder, ["-fPIC", "-fvisibility=hidden", *flags], "gcc")
    made = folder / "_kernels.abi3.so"
    run("gcc", "-shared", *flags, *objects, "-o", made, "-lpthread")
    return made


class _Unit(NamedTuple):
    source: str
    name: str
    options: list[str]


_SHARED = [_Unit(f"{name}.c", name, ["-O2"]) for name in ("stack", "layer", "pool")]


def _kernel_units(of: InstructionSet) -> list[_Unit]:
    sizes = [f"-DVECTOR_BYTES={of.vector_bytes}", f"-DTILE_VECTORS={of.tile_vectors}"]
    options = ["-O3", *of.flags, *sizes, f"-DINSTRUCTION_SET={of.name}"]
    return [_Unit("kernels.c", f"{of.name}-{bits}", [*options, f"-DREAL_BITS={bits}"]) for bits in (32, 64)]


def _compile(units: list[_Unit], sources: Path, folder: Path, flags: list[str], compiler: str) -> list[Path]:
    common = ["-std=gnu11", "-Wall", "-Wextra", "-g1", f"-I{sources}"]

    def compile_one(unit: _Unit) -> Path:
        made = folder / f"{unit.name}.o"
        run(compiler, *common, *unit.options, *flags, "-c", sources / unit.source, "-o", made)
        return made

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, units))


def run(*command: object) -> None:
    """Run a compiler; what it says is in the error."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
