"""Loading of the library of kernels, and choice of the instruction set."""

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from nplstm._shapes import check_choice
from nplstm.engines.compiled.elf import damage
from nplstm.engines.loading import load
from nplstm.errors import BackendError

__all__ = ["INSTRUCTION_SETS", "Library", "library", "problem"]

INSTRUCTION_SETS = ("avx512", "avx2", "neon", "baseline")
"""The kernels are compiled for the first three where the CPU's family has them, for the last everywhere."""


_PACKAGE, _MODULE = "nplstm.engines.compiled", "_kernels"
_COMPILE = (
    "pip install --force-reinstall --no-deps . in nplstm's source folder compiles them; "
    "it needs gcc or clang, and Python's headers"
)


@dataclass(frozen=True)
class Library:
    """The kernels, compiled for one instruction set."""

    module: Any
    choice: int
    """Index of the instruction set: the first argument of each function of the module."""
    instruction_set: str
    lanes_32: int
    """float32 numbers in a vector."""

    def lanes(self, itemsize: int) -> int:
        """Return how many elements of so many bytes a vector has."""
        return self.lanes_32 * 4 // itemsize


@cache
def _found() -> Library | str:
    """Return the library, or the reason why there is none."""
    wanted = os.environ.get("NPLSTM_KERNELS", "").strip()
    if wanted:
        check_choice("NPLSTM_KERNELS", wanted, (*INSTRUCTION_SETS, "none"))
    if wanted == "none":
        return "needs its library of kernels, which NPLSTM_KERNELS=none turns off"
    spec = find_spec(f"{_PACKAGE}.{_MODULE}")
    if spec is None or spec.origin is None:
        return f"{_why_none()}: {_COMPILE}"
    if reason := damage(spec.origin):
        return f"needs its library of kernels, and {spec.origin} {reason}: {_COMPILE}"
    try:
        (module,) = load(_PACKAGE, _MODULE)
    except (ImportError, OSError) as error:
        return f"needs its library of kernels, which cannot be loaded ({error}): {_COMPILE}"
    sets: tuple[tuple[str, int], ...] = module.sets()
    for choice, (name, lanes) in enumerate(sets):
        if wanted in ("", name):
            return Library(module, choice, name, lanes)
    names = ", ".join(name for name, _ in sets)
    return f"needs the instruction set of NPLSTM_KERNELS={wanted}, which is not available: there are {names}"


def _why_none() -> str:
    """Return why there is no library: a build without one leaves a note."""
    from pathlib import Path  # which takes longer to import than the kernels

    note = Path(__file__).with_name("why_pure.txt")
    if not note.exists():
        return "needs its library of kernels, which is missing"
    reason = note.read_text(encoding="utf-8").strip()
    return f"needs its library of kernels, without which nplstm was built ({reason})"


def problem() -> str:
    """Return why there are no kernels; empty if there are."""
    found = _found()
    return found if isinstance(found, str) else ""


def library() -> Library:
    """Return the library; BackendError where there is none, see ``problem``."""
    found = _found()
    if isinstance(found, str):
        raise BackendError(f"the compiled engine {found}")
    return found
