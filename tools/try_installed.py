"""Run trained models on an installed nplstm, with NumPy alone: what ``tools/wheels.py`` does with each wheel.

python -I tools/try_installed.py FOLDER ENGINE

FOLDER is where nplstm has to be installed, ENGINE what has to run a standard LSTM.
"""

import sys
import time
from pathlib import Path

start = time.perf_counter()
import numpy as np  # noqa: E402  timed

after_numpy = time.perf_counter()
import nplstm  # noqa: E402

after_ours = time.perf_counter()

ROOT = Path(__file__).parent.parent
STANDARD = "padded, float64, num_layers=2, bidirectional=True, proj_size=0/"
"""Of torch's saved results."""


def try_file() -> None:
    """Compare a model that torch saved with what torch computed: two layers, both directions, proj_size."""
    saved = np.load(ROOT / "tests" / "files" / "pt" / "zip.npz")
    layer = nplstm.load(ROOT / "tests" / "files" / "pt" / "zip.pt", prefix="encoder")
    output, _ = layer(saved["run/x"], (saved["run/h_0"], saved["run/c_0"]))
    tell("zip.pt, torch", output, saved["run/output"], 1e-6)


def try_standard(engine: str) -> None:
    """Compare a standard LSTM with what torch computed, forward and back, on the engine expected."""
    with np.load(ROOT / "tests" / "golden" / "lstm.npz") as saved:
        arrays = {name.removeprefix(STANDARD): saved[name] for name in saved.files if name.startswith(STANDARD)}
    weights = {name.removeprefix("parameter."): w for name, w in arrays.items() if name.startswith("parameter.")}
    lstm = nplstm.LSTM(11, 5, num_layers=2, bidirectional=True, dtype="float64")
    lstm.load_state_dict(weights)
    tape = lstm.record(arrays["input"], (arrays["h_0"], arrays["c_0"]))
    grads = tape.backward(arrays["grad_output"], (arrays["grad_h_n"], arrays["grad_c_n"]))
    tell("standard, torch", tape.output, arrays["output"], 1e-12)
    for name, grad in grads.parameters.items():
        expected = arrays[f"grad_parameter.{name}"]
        assert np.abs(grad - expected).max() < 1e-12 * max(1, np.abs(expected).max()), name
    assert lstm.engine_for().name == engine, lstm.engine_for()


def try_classifier(engine: str) -> None:
    """Compare what a classifier trained in torch computes on the engine expected with the plain loop."""
    lstm = nplstm.load(ROOT / "examples" / "models" / "digits.pt")
    x = np.random.default_rng(0).random((50, 8, 8), dtype=np.float32)  # as many pictures, 8 x 8
    output, _ = lstm(x)
    with nplstm.use_engines("plain"):
        expected, _ = lstm(x)
    tell("digits.pt, plain loop", output, expected, 3e-5)  # float32, and the training has made its gates steep
    choice = lstm.engine_for()
    assert choice.name == engine, choice
    print(f"  engine: {choice}")


def tell(what: str, found: np.ndarray, expected: np.ndarray, most: float) -> None:
    """Print the greatest difference."""
    difference = np.abs(found - expected).max()
    print(f"  {what}: difference {difference:.1e}")
    assert difference < most


folder, engine = sys.argv[1:]
assert Path(nplstm.__file__).is_relative_to(Path(folder).resolve()), nplstm.__file__
of_numpy, of_ours = 1e3 * (after_numpy - start), 1e3 * (after_ours - after_numpy)
print(f"  import numpy {of_numpy:.0f} ms, nplstm {of_ours:.0f} ms more")
try_file()
try_standard(engine)
try_classifier(engine)
