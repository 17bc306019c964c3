"""Import time and first call of each library, in fresh interpreters, and its installed size."""

import compileall
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..common.cases import Case
from ..common.timing import summary
from .worker import OURS, RIVALS, environment

__all__ = ["measure_imports", "measure_sizes", "size_of"]

CASE = Case("import", "inference", 1, 32, 20)

_TIMER = """\
from time import perf_counter
start = perf_counter()
{imports}
imported = perf_counter()
{makes}
made = perf_counter()
{calls}
first = perf_counter()
{calls}
second = perf_counter()
print(imported - start, first - start, first - made, second - first)
"""

_TASKS = (
    ("import", "import"),
    ("import", "import and first call"),
    ("first", "first call"),
    ("first", "second call"),
)
"""Group and task of each figure that is printed."""

_NPLSTM = (
    "import nplstm, numpy",
    "lstm, x = nplstm.LSTM(32, 32, rng=0), numpy.ones((20, 1, 32), numpy.float32)",
    "lstm(x)",
)

_CODE = {
    "torch": (
        "import torch",
        "layer, x = torch.nn.LSTM(32, 32), torch.ones(20, 1, 32)\ncall = torch.inference_mode()(lambda: layer(x))",
        "call()",
    ),
    "onnxruntime": (
        "import onnxruntime, numpy",
        "session = onnxruntime.InferenceSession({model!r}, providers=['CPUExecutionProvider'])\n"
        "x = {{'x': numpy.ones((20, 1, 32), numpy.float32)}}",
        "session.run(None, x)",
    ),
} | dict.fromkeys(OURS, _NPLSTM)
"""Imports; what makes the layer and its input; the call."""


def measure_imports(
    libraries: Sequence[str], threads: int, settings: Mapping[str, str], runs: int
) -> list[dict[str, Any]]:
    """Return the records of the groups "import" and "first", in seconds."""
    # what an installed package has: compiled files. Python may be told not to write them as it goes
    compileall.compile_dir(_folder("nplstm"), quiet=1)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "lstm.onnx"
        if "onnxruntime" in libraries:
            from .run_onnxruntime import model as build

            model.write_bytes(build(CASE))
        samples: dict[str, list[list[float]]] = {name: [] for name in libraries}
        for count in tqdm(range(-1, runs), desc="import", leave=False):
            for name in libraries:
                imports, makes, calls = _CODE[name]
                code = _TIMER.format(imports=imports, makes=makes.format(model=str(model)), calls=calls)
                spent = _run(code, environment(name, threads, settings))
                samples[name] += [spent] if count >= 0 else []  # the first fills the disk's cache
    label = "NumPy's own import is in all of them"
    return [
        _record(group, task, label if task == "import" else CASE.label, "s", samples, k)
        for k, (group, task) in enumerate(_TASKS)
    ]


def _run(code: str, env: dict[str, str]) -> list[float]:
    printed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return [float(figure) for figure in printed.stdout.split()]


def _record(
    group: str, task: str, label: str, unit: str, samples: dict[str, list[list[float]]], k: int
) -> dict[str, Any]:
    values = {name: summary([figures[k] for figures in found]) for name, found in samples.items()}
    return {"group": group, "task": task, "label": label, "unit": unit, "values": values}


def measure_sizes(libraries: Sequence[str]) -> list[dict[str, Any]]:
    """Return two records, in bytes: each package's folder, and the compiled libraries in it."""
    sizes = {name: [size_of(_folder(name if name in RIVALS else "nplstm"))] for name in libraries}
    labels = ("the package's folder, without the packages it needs", "the compiled libraries in it")
    return [_record("size", "installed size", label, "B", sizes, k) for k, label in enumerate(labels)]


def size_of(folder: Path) -> list[float]:
    """Return the bytes of a folder's files, without Python's caches, and of the shared libraries among them."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    shared = [path for path in files if {".so", ".dll", ".dylib", ".pyd"} & set(path.suffixes)]
    return [float(sum(path.stat().st_size for path in some)) for some in (files, shared)]


def _folder(package: str) -> Path:
    (location,) = importlib.util.find_spec(package).submodule_search_locations
    return Path(location)
