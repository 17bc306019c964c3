"""Options and fixtures of the whole suite.

``pytest --backend cupy`` runs every test that takes the fixture ``be`` on CuPy, and no other; ``strict`` is a
stand-in for it on machines without a GPU (see ``strict_backend.py``). A skip says why; with
``NPLSTM_REQUIRE=cupy,torch`` in the environment, skipping for want of one of these is a failure.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import strict_backend  # noqa: F401  registers itself
from cases import CELLS, LAYERS
from instruction_sets import exact_memory, kernels, threads  # noqa: F401  fixtures of all that tests the kernels

import nplstm
from nplstm.backends import get_backend
from nplstm.backends._base import Backend
from nplstm.engines.compiled.library import problem
from nplstm.errors import BackendUnavailableError

# Fixed seeds: a run in CI is the same each time. NPLSTM_HYPOTHESIS=thorough draws anew, and more.
# A failure is not shrunk: each try may be a gradient check, and the check names the element that is wrong.
PHASES = [hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate]
hypothesis.settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=30, print_blob=True, phases=PHASES
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("NPLSTM_HYPOTHESIS", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default="numpy", choices=("numpy", "cupy", "strict"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--backend") == "numpy":
        chosen = [item for item in items if item.get_closest_marker("other_backends") is None]
    else:
        chosen = [item for item in items if "be" in getattr(item, "fixturenames", ())]
    if config.getoption("--backend") == "strict":
        chosen = [item for item in chosen if _strict_runs(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _strict_runs(item: pytest.Item) -> bool:
    """Choose pairs of a cell and a layer, each cell and each layer several times.

    The stand-in finds calls that CuPy lacks, which depends on the lines that run, not on what they run beside; the
    numbers of all pairs are NumPy's business.
    """
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    cell, layer = params.get("cell"), params.get("layer")
    if cell not in CELLS or layer not in LAYERS or cell == "standard" or layer == "plain":
        return True
    return ([*CELLS].index(cell) + [*LAYERS].index(layer)) % 4 == 0


def require(name: str, reason: str) -> None:
    """Skip a test for want of something, unless the environment says that it has to be there."""
    if name in os.environ.get("NPLSTM_REQUIRE", "").split(","):
        pytest.fail(f"NPLSTM_REQUIRE names {name}, but: {reason}")
    pytest.skip(reason)


def needs_kernels() -> None:
    """Skip a test of the compiled engine where it has no kernels."""
    if reason := problem():
        require("kernels", reason)


@pytest.fixture(scope="session")
def be(request: pytest.FixtureRequest) -> Backend:
    """The backend under test."""
    name = request.config.getoption("--backend")
    try:
        return get_backend(name)
    except BackendUnavailableError as error:
        require(name, str(error))
        raise


@pytest.fixture
def plain_engine() -> Iterator[None]:
    """Run the plain loop: for tests that break it on purpose, or that compare it to the bit with its kin."""
    with nplstm.use_engines("plain"):
        yield


@pytest.fixture(scope="session")
def torch_reference() -> Any:
    """The module that computes torch's results, where torch is installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        require("torch", "torch is not installed: the live comparison needs it (the golden files do not)")
    import torch_reference

    return torch_reference


@pytest.fixture(scope="session")
def keras() -> Any:
    """Keras on its NumPy backend; where what that needs is missing, on torch."""
    plain = all(importlib.util.find_spec(name) for name in ("scipy", "jax"))
    os.environ.setdefault("KERAS_BACKEND", "numpy" if plain else "torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other packages, at their import
            module = importlib.import_module("keras")
    except ImportError as error:
        require("keras", f"keras with a backend is not installed, and the live comparison needs it: {error}")
        raise
    if tuple(int(n) for n in module.__version__.split(".")[:2]) < (3, 14):
        require("keras", f"Keras's NumPy backend loses masks before 3.14, and this is {module.__version__}")
    return module


@pytest.fixture(scope="session")
def golden() -> Callable[[str, str], dict[str, np.ndarray]]:
    """Read one part of a golden file: arrays by name."""
    folder = Path(__file__).parent / "golden"
    files = {path.stem: np.load(path, allow_pickle=False) for path in folder.glob("*.npz")}

    def part(file: str, name: str) -> dict[str, np.ndarray]:
        prefix = name + "/"
        found = {key.removeprefix(prefix): files[file][key] for key in files[file].files if key.startswith(prefix)}
        assert found, f"{file}.npz has no part {name!r}: run tests/make_golden.py"
        return found

    return part
