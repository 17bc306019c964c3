"""What importing a library costs, and the first call: fresh interpreters, in turn."""

import compileall
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .cases import Case
from .measure import summary
from .worker import OURS, environment

__all__ = ["measure_imports"]

CASE = Case("import", "inference", 1, 32, 20)

_TIMER = "import time; start = time.perf_counter()\n{}\nprint(time.perf_counter() - start)"

_NPLSTM = "import nplstm", "import numpy; nplstm.LSTM(32, 32, rng=0)(numpy.ones((20, 1, 32), numpy.float32))"

_CODE = {
    "torch": (
        "import torch",
        "with torch.inference_mode(): torch.nn.LSTM(32, 32)(torch.ones(20, 1, 32))",
    ),
    "onnxruntime": (
        "import onnxruntime",
        "import numpy; onnxruntime.InferenceSession({model!r}, providers=['CPUExecutionProvider']).run("
        "None, {{'x': numpy.ones((20, 1, 32), numpy.float32)}})",
    ),
} | dict.fromkeys(OURS, _NPLSTM)


def measure_imports(libraries: list[str], threads: int, runs: int) -> list[dict[str, Any]]:
    """Return two records: seconds of an import, and of an import with a first call after it."""
    _compile_ours()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "lstm.onnx"
        if "onnxruntime" in libraries:
            from .with_onnxruntime import model as build

            model.write_bytes(build(CASE))
        codes = {
            task: {name: _code(name, model=str(model), called=called) for name in libraries}
            for task, called in (("import", False), ("import and first call", True))
        }
        samples: dict[str, dict[str, list[float]]] = {t: {name: [] for name in libraries} for t in codes}
        for count in tqdm(range(-1, runs), desc="import", leave=False):
            for task, by_library in codes.items():
                for name, code in by_library.items():
                    spent = _run(code, environment(name, threads))
                    samples[task][name] += [spent] if count >= 0 else []  # the first fills the disk's cache
    return [
        {
            "group": "import",
            "task": task,
            "label": "NumPy's own import is in all of them" if task == "import" else CASE.label,
            "unit": "s",
            "values": {name: summary(values) for name, values in by_library.items()},
        }
        for task, by_library in samples.items()
    ]


def _compile_ours() -> None:
    """Make what an installed package has: compiled files. Python may be told not to write them as it goes."""
    (location,) = importlib.util.find_spec("nplstm").submodule_search_locations
    compileall.compile_dir(location, quiet=1)


def _code(library: str, *, model: str, called: bool) -> str:
    imported, call = _CODE[library]
    return _TIMER.format(f"{imported}\n{call.format(model=model)}" if called else imported)


def _run(code: str, env: dict[str, str]) -> float:
    return float(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout)
