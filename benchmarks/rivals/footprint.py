"""Import time and first call of each library, in fresh interpreters, and its installed size."""

import compileall
import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.cases import Case
from ..common.timing import summary
from .worker import RIVALS, environment

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

_FIGURES = [
    ("import", "import"),
    ("import", "import and first call"),
    ("first", "first call"),
    ("first", "second call"),
]
"""Group and task of each figure that is printed."""


def _code(library: str) -> dict[str, str]:
    """Return what imports a library, what makes the layer and its input, and the call."""
    ones = "numpy.ones((20, 1, 32), numpy.float32)"
    if library == "torch":
        makes = "layer, x = torch.nn.LSTM(32, 32), torch.ones(20, 1, 32)"
        return {
            "imports": "import torch",
            "makes": f"{makes}\ncall = torch.inference_mode()(lambda: layer(x))",
            "calls": "call()",
        }
    if library == "onnxruntime":
        from .run_onnxruntime import model

        session = f"onnxruntime.InferenceSession({model(CASE)!r}, providers=['CPUExecutionProvider'])"
        return {
            "imports": "import onnxruntime, numpy",
            "makes": f"session, x = {session}, {ones}",
            "calls": "session.run(None, {'x': x})",
        }
    return {
        "imports": "import nplstm, numpy",
        "makes": f"lstm, x = nplstm.LSTM(32, 32, rng=0), {ones}",
        "calls": "lstm(x)",
    }


def measure_imports(
    libraries: Sequence[str], threads: int, settings: Mapping[str, str], runs: int
) -> list[dict[str, Any]]:
    """Return the records of the groups "import" and "first", in seconds."""
    # what an installed package has: compiled files. Python may be told not to write them as it goes
    compileall.compile_dir(_folder("nplstm"), quiet=1)
    samples: dict[str, list[list[float]]] = {name: [] for name in libraries}
    for count in range(-1, runs):
        for name in libraries:
            code, env = _TIMER.format(**_code(name)), environment(name, threads, settings)
            done = subprocess.run([sys.executable, "-"], input=code, env=env, stdout=-1, text=True, check=True)
            if count >= 0:  # the first fills the disk's cache
                samples[name].append([float(figure) for figure in done.stdout.split()])
    labels = {"import": "NumPy's own import is in all of them"}
    return [
        _record(group, task, labels.get(task, CASE.label), "s", samples, k)
        for k, (group, task) in enumerate(_FIGURES)
    ]


def measure_sizes(libraries: Sequence[str]) -> list[dict[str, Any]]:
    """Return two records, in bytes: each package's folder, and the compiled libraries in it."""
    sizes: dict[str, list[list[float]]] = {}
    for name in libraries:
        folder = _folder(name if name in RIVALS else "nplstm")
        files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        shared = [path for path in files if {".so", ".dll", ".dylib", ".pyd"} & set(path.suffixes)]
        sizes[name] = [[float(sum(path.stat().st_size for path in some)) for some in (files, shared)]]
    labels = ("the package's folder, without the packages it needs", "the compiled libraries in it")
    return [_record("size", "installed size", label, "B", sizes, k) for k, label in enumerate(labels)]


def _record(
    group: str, task: str, label: str, unit: str, samples: dict[str, list[list[float]]], k: int
) -> dict[str, Any]:
    values = {name: summary([figures[k] for figures in found]) for name, found in samples.items()}
    return {"group": group, "task": task, "label": label, "unit": unit, "values": values}


def _folder(package: str) -> Path:
    (location,) = importlib.util.find_spec(package).submodule_search_locations
    return Path(location)
