"""The examples run, and reach what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *arguments, backend="numpy"):
    command = [sys.executable, EXAMPLES / name, "--backend", backend, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "%|" in result.stderr, "no progress bar"
    return result.stdout


@pytest.fixture
def backend(be):
    if be.name == "strict":
        pytest.skip("the examples know the users' backends alone; strict is a stand-in inside the tests")
    return be.name


def test_six_equations(backend):
    printed = run("six_equations.py", "--steps", "200", backend=backend)
    assert float(re.search(r"all steps: (\S+)", printed)[1]) < 1e-14
    analytic, numerical = map(float, re.search(r"analytic (\S+), finite difference (\S+)", printed).groups())
    assert abs(analytic - numerical) < 1e-6 * abs(analytic)


def test_digits(backend):
    printed = run("digits.py", backend=backend)
    assert float(re.search(r"test accuracy (\S+)", printed)[1]) >= 0.96


def test_matching_networks(backend):
    printed = run("matching_networks.py", "--seeds", "2", "--episodes", "640", backend=backend)
    assert float(re.search(r"finite differences: (\S+)", printed)[1]) < 1e-8
    rows = {
        name: [float(value) for value in values.split()]
        for name, values in re.findall(r"^(mean|trained digits) (.*)", printed, flags=re.MULTILINE)
    }
    assert min(rows["mean"]) > 0.5  # twice chance
    pixels, *models = rows["trained digits"]
    assert min(models) > pixels  # trained: from random weights they start below
    assert re.search(r"with f: .* of 2: (helps|hurts|makes no clear difference)", printed)


def test_language_model(backend, tmp_path):
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
    printed = run("language_model.py", str(text), "--updates", "60", "--hidden", "32", backend=backend)
    assert float(re.search(r"(\S+) bits per character", printed)[1]) < 3


def test_trained_model(backend):
    printed = run("trained_model.py", backend=backend)
    assert "PyTorch: model.lstm." in printed
    assert float(re.search(r"test accuracy (\S+)", printed)[1]) == 0.9611  # what PyTorch printed
    assert (
        float(re.search(r"greatest difference from PyTorch's scores: (\S+)", printed)[1]) < 1e-5
    )  # scores up to 10


def test_trained_in_torch(torch_reference, tmp_path):
    command = [sys.executable, EXAMPLES / "trained_in_torch.py", "--out", tmp_path / "digits.pt"]
    subprocess.run(command, capture_output=True, check=True)
    printed = run("trained_model.py", "--model", str(tmp_path / "digits.pt"))
    assert float(re.search(r"test accuracy (\S+)", printed)[1]) > 0.94


def test_every_example_is_tested():
    tested = Path(__file__).read_text()
    assert all(path.name in tested for path in EXAMPLES.glob("*.py"))
