"""What importing a library costs, and its first call beside the second: fresh interpreters, in turn."""

import compileall
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .cases import Case
from .measure import summary
from .worker import OURS, environment

__all__ = ["measure_imports"]

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
    libraries: list[str], threads: int, settings: Mapping[str, str], runs: int
) -> list[dict[str, Any]]:
    """Return the records of the groups "import" and "first", in seconds."""
    _compile_ours()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "lstm.onnx"
        if "onnxruntime" in libraries:
            from .with_onnxruntime import model as build

            model.write_bytes(build(CASE))
        samples: dict[str, list[list[float]]] = {name: [] for name in libraries}
        for count in tqdm(range(-1, runs), desc="import", leave=False):
            for name in libraries:
                spent = _run(_code(name, str(model)), environment(name, threads, settings))
                samples[name] += [spent] if count >= 0 else []  # the first fills the disk's cache
    return [
        {
            "group": group,
            "task": task,
            "label": "NumPy's own import is in all of them" if task == "import" else CASE.label,
            "unit": "s",
            "values": {name: summary([spent[k] for spent in runs]) for name, runs in samples.items()},
        }
        for k, (group, task) in enumerate(_TASKS)
    ]


def _compile_ours() -> None:
    """Make what an installed package has: compiled files. Python may be told not to write them as it goes."""
    (location,) = importlib.util.find_spec("nplstm").submodule_search_locations
    compileall.compile_dir(location, quiet=1)


def _code(library: str, model: str) -> str:
    imports, makes, calls = _CODE[library]
    return _TIMER.format(imports=imports, makes=makes.format(model=model), calls=calls)


def _run(code: str, env: dict[str, str]) -> list[float]:
    printed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return [float(figure) for figure in printed.stdout.split()]
