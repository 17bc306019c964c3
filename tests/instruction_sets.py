"""The compiled engine with the kernels of one instruction set, whatever NPLSTM_KERNELS says."""

from collections.abc import Iterator

import numpy as np
import pytest

import nplstm
from nplstm.engines.compiled import library as loading
from nplstm.engines.compiled.library import Library


def available() -> dict[str, Library]:
    """The instruction sets that this machine runs, by name; none where there is no library."""
    if loading.problem():
        return {}
    module = loading.library().module
    return {name: Library(module, index, name, lanes) for index, (name, lanes) in enumerate(module.sets())}


AVAILABLE = available()

if __name__ == "__main__":  # what the Makefile runs the engine's tests with once more
    print(*[name for name in AVAILABLE if name != loading.library().instruction_set])


@pytest.fixture(params=AVAILABLE or ["none"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Each instruction set of this machine in turn.

    Packed weights are kept by the layer that they were packed for: a layer has to be made within the test.
    """
    if request.param == "none":
        from conftest import require

        require("kernels", f"the compiled engine: {loading.problem()}")
    found = AVAILABLE[request.param]
    monkeypatch.setattr(loading, "_found", lambda: found)
    return found


@pytest.fixture
def exact_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give kernels arrays with nothing before or behind them: AddressSanitizer sees where one reads too far."""
    for module in ("forward", "backward"):
        monkeypatch.setattr(f"nplstm.engines.compiled.{module}.work_space", np.empty)
    monkeypatch.setattr("nplstm.engines.compiled.kernel_weights.aligned_empty", np.empty)
    for name, made in (("aligned_zeros", np.zeros), ("aligned_copy", np.array)):
        monkeypatch.setattr(f"nplstm.engines.compiled.stepper.{name}", made)


@pytest.fixture
def threads() -> Iterator[object]:
    """Put the number of threads back after the test."""
    before = nplstm.get_num_threads()
    yield nplstm.set_num_threads
    nplstm.set_num_threads(before)
