"""What ``import nplstm`` costs beyond ``import numpy``: medians over fresh interpreters, in turn.

python benchmarks/import_time.py
"""

import argparse
import compileall
import importlib.util
import statistics
import subprocess
import sys

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--runs", type=int, default=31)
arguments = parser.parse_args()

CODE = """
import time
start = time.perf_counter()
import numpy
middle = time.perf_counter()
import nplstm
print(middle - start, time.perf_counter() - middle)
"""


def run() -> tuple[float, float]:
    """Return the seconds for NumPy, and for nplstm after it."""
    printed = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    numpy_seconds, own_seconds = map(float, printed.split())
    return numpy_seconds, own_seconds


# What an installed package has: compiled files. Python may be told not to write them as it goes.
(location,) = importlib.util.find_spec("nplstm").submodule_search_locations
compileall.compile_dir(location, quiet=1)
run()  # fills the disk's cache
times = [run() for _ in range(arguments.runs)]
numpy_ms, own_ms = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
print(f"median of {arguments.runs}: import numpy {numpy_ms:.1f} ms, import nplstm after it {own_ms:.1f} ms")
