"""The peak of one core, measured by a small program in C that a compiler of the machine makes at run time."""

import shutil
import subprocess
from pathlib import Path

_FLAGS = {
    "avx512": ["-mavx512f", "-DLANES=16"],
    "avx2": ["-mavx2", "-mfma", "-DLANES=8"],
    "neon": ["-DLANES=4"],
}
"""By instruction set; those that are not here have no fused multiply-add."""

_SOURCE = Path(__file__).with_name("peak.c")


def build_peak(name: str, folder: Path) -> Path:
    """Compile the program for an instruction set; return where it is, or raise OSError that says why not."""
    if name not in _FLAGS:
        raise OSError(f"the program for the peak has no variant for {name}")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise OSError("there is no C compiler, such as gcc")
    program = folder / f"peak-{name}"
    command = [compiler, "-O3", "-ffp-contract=fast", *_FLAGS[name], str(_SOURCE), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{compiler} failed: {done.stderr.strip()}")
    return program


def measure_peak(program: Path) -> float:
    """Return the operations per second of one core."""
    return float(subprocess.run([program], capture_output=True, text=True, check=True).stdout)
