"""NVIDIA's compute-sanitizer over small launches, where it is installed: accesses outside of arrays, and races.

The launches are a program: ``python -m benchmarks.gpu.sanitize``.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .verify import SMALL, compare

TOOLS = ("memcheck", "racecheck")

_FOUND = 86
"""The status that we ask for where something was found: none that a program ends with by itself."""

_ROOT = Path(__file__).parents[2]


def sanitize(seconds: float = 240.0, program: str = "compute-sanitizer") -> list[dict[str, Any]]:
    """Return what each tool found: "right", "WRONG" with the end of its output, or "not run" and why."""
    path = shutil.which(program)
    if path is None:
        return [{"tool": tool, "outcome": "not run", "reason": f"{program} is not on the PATH"} for tool in TOOLS]
    return [{"tool": tool, **_run(path, tool, seconds)} for tool in TOOLS]


def _run(path: str, tool: str, seconds: float) -> dict[str, Any]:
    command = [
        path,
        "--tool",
        tool,
        "--error-exitcode",
        str(_FOUND),
        sys.executable,
        "-m",
        "benchmarks.gpu.sanitize",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=_ROOT, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": "not run", "reason": f"it took more than {seconds:.0f} s"}
    if done.returncode == 0:
        return {"outcome": "right"}
    end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
    if "not supported" in end.lower():  # on some virtual machines
        return {"outcome": "not run", "reason": end}
    what = "it found errors" if done.returncode == _FOUND else f"the program ended with status {done.returncode}"
    return {"outcome": "WRONG", "reason": f"{what}\n{end}"}


def main(backend: str = "cupy") -> int:
    """Run a few small launches; return 1 if one was wrong."""
    wrong = [found for found in compare(SMALL[:4], backend, runs=1) if found["outcome"] == "WRONG"]
    print(*wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
