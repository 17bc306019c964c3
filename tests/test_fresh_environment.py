"""Someone with a model and no framework: each format in an environment with NumPy, nplstm and its own library.

It takes packages from the network and half a minute: ``NPLSTM_REQUIRE=fresh`` asks for it, as CI does.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from conftest import require

import nplstm

ROOT = Path(__file__).parent.parent
FILES = ROOT / "tests" / "files"

# What runs there: from a file to outputs, and a look at what was imported.
PROGRAM = """
import json, sys
import nplstm
assert "nplstm.io.pt" not in sys.modules and "zipfile" not in sys.modules
import numpy as np
path, prefix, given = sys.argv[1:]
arrays = np.load(given)
layer = nplstm.load(path, prefix=prefix or None)
states = (arrays["h_0"], arrays["c_0"]) if "h_0" in arrays else None
output, _ = layer(arrays["x"], states)
known = {"torch", "tensorflow", "keras", "jax", "safetensors", "onnx", "onnxruntime", "h5py", "hypothesis"}
print(json.dumps({
    "layer": repr(layer),
    "difference": float(np.abs(output - arrays["output"]).max()),
    "size": float(np.abs(arrays["output"]).max()),
    "imported": sorted(known & set(sys.modules)),
}))
"""


def torch_numbers(tmp_path):
    """Return input and output of torch's LSTM in a committed file, as plain arrays."""
    with np.load(FILES / "pt" / "zip.npz") as saved:
        part = {name.removeprefix("run/"): saved[name] for name in saved.files if name.startswith("run/")}
    np.savez(tmp_path / "numbers.npz", **part)
    return tmp_path / "numbers.npz"


def pt(tmp_path):
    return FILES / "pt" / "zip.pt", "encoder", torch_numbers(tmp_path)


def converted(suffix):
    """The same LSTM in another format."""

    def make(tmp_path):
        nplstm.save(nplstm.load(FILES / "pt" / "zip.pt", prefix="encoder"), tmp_path / f"model.{suffix}")
        return tmp_path / f"model.{suffix}", "", torch_numbers(tmp_path)

    return make


def onnx(tmp_path):
    return FILES / "onnx" / "torch_two.onnx", "", FILES / "onnx" / "torch_two.npz"


def keras(tmp_path):
    with np.load(FILES / "keras" / "both_3_15.npz") as saved:
        np.savez(tmp_path / "numbers.npz", x=saved["x"], output=saved["output/both"])
    return FILES / "keras" / "both_3_15.keras", "", tmp_path / "numbers.npz"


FORMATS = {
    # format: (the extra that it needs, what that imports, the files)
    "PyTorch": ("", [], pt),
    "npz": ("", [], converted("npz")),
    "safetensors": ("safetensors", ["safetensors"], converted("safetensors")),
    "ONNX": ("onnx", ["onnx"], onnx),
    "Keras": ("", [], keras),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package, built as it is published."""
    if "fresh" not in os.environ.get("NPLSTM_REQUIRE", "").split(","):
        require("fresh", "installs packages in environments of their own: NPLSTM_REQUIRE=fresh asks for it")
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


def pip(python, *arguments):
    command = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    subprocess.run([*map(str, [*command, *arguments])], check=True)


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Makes an environment with the package and one of its extras; one for each extra."""
    made = {}

    def make(extra):
        if extra not in made:
            folder = tmp_path_factory.mktemp("environment")
            venv.create(folder, symlinks=True)
            made[extra] = folder / "bin" / "python"
            pip(made[extra], "install", f"{wheel}[{extra}]" if extra else wheel)
        return made[extra]

    return make


@pytest.mark.parametrize("format", FORMATS)
def test_from_a_file_to_outputs(format, environment, tmp_path):
    extra, imported, files = FORMATS[format]
    path, prefix, numbers = files(tmp_path)
    python = environment(extra)
    result = subprocess.run(
        [python, "-I", "-c", PROGRAM, path, prefix, numbers],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    found = json.loads(result.stdout)
    assert found["imported"] == imported
    assert found["size"] > 0.01
    assert found["difference"] < (1e-12 if "float64" in found["layer"] else 1e-6)
    shown = subprocess.run(
        [python, "-I", "-m", "nplstm", "inspect", path], capture_output=True, text=True, check=True
    ).stdout
    assert "LSTM(" in shown


def test_what_is_missing_is_named(environment, tmp_path):
    """Without its library a file ends in the line that installs it."""
    python = environment("")
    for format, (extra, _, files) in FORMATS.items():
        if extra:
            path, _, _ = files(tmp_path)
            result = subprocess.run(
                [python, "-I", "-m", "nplstm", "inspect", path], capture_output=True, text=True, check=False
            )
            assert result.returncode == 2, format
            assert f"pip install 'nplstm[{extra}]'" in result.stderr
