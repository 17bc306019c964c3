"""The tests of the kernels with AddressSanitizer and UndefinedBehaviorSanitizer in the library that Python loads.

    PYTHONPATH=tests python -m kernels.sanitized [options of pytest]

Threads share even the smallest work in this library, so that the sanitizers see all ways to share it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kernels.build import CHECKS_BY_CALL, EAGER, build_module, changed

ROOT = Path(__file__).parents[2]
TESTS = ["tests/test_compiled.py", "tests/test_kernel_arguments.py"]
FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", CHECKS_BY_CALL]
# what is installed may be found by a hook of its build system: the copy has to come first
START = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "mesonpy" not in f"{type(finder)} {finder}".lower()]
sys.path.insert(0, sys.argv.pop(1))
import nplstm.engines.compiled.library as loading
assert loading.library().module.__file__.startswith(sys.path[0]), "another library is loaded"
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy = folder / "nplstm"
        shutil.copytree(ROOT / "nplstm", copy, ignore=shutil.ignore_patterns("*.so", "__pycache__", "kernels"))
        library = build_module(folder, *FLAGS, sources=changed(folder / "sources", EAGER))
        library.rename(copy / "engines" / "compiled" / library.name)
        runtime = subprocess.run(
            ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        options = "detect_leaks=0:allocator_may_return_null=1"
        environment = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": options, "NPLSTM_REQUIRE": "kernels"}
        command = [sys.executable, "-c", START, str(folder), "-p", "no:cacheprovider", *TESTS, *sys.argv[1:]]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
