"""Groups of cases that are measured on a CPU."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from ..common.cases import Case

_BATCHES, _SIZES, _STEPS = (1, 8, 32, 128), (32, 128, 512, 1024), (20, 100, 1000)

_CASES = {
    "streaming": [Case("streaming", "step", 1, H, 5) for H in (32, 128, 512)],
    "small": [Case("small", "inference", B, H, 20) for B, H in product((1, 8), (32, 128))],
    "grid": [Case("grid", "", B, H, T) for T, B, H in product(_STEPS, _BATCHES, _SIZES)],
    "stacks": [
        Case("stacks", "", B, 128, 100, layers, bidirectional)
        for B, (layers, bidirectional) in product((1, 32), ((2, True), (4, False)))
    ],
    "lengths": [Case("lengths", "", 32, 128, 100, padded=True)],
    "peak": [Case("peak", "inference", B, H, 20) for B, H in product((8, 32, 128), (128, 512, 1024))],
    "memory": [Case("memory", "", 32, 512, 100), Case("memory", "", 32, 128, 1000)],
}
"""Where no task is said, inference and training."""

TIMED = ("streaming", "small", "grid", "stacks", "lengths")
"""Groups that are timed with all threads."""

GROUPS = (*_CASES, "import", "first", "size")

_LIMIT = 3.4e9
"""Cases with more work than that are left out: they would take too long."""

QUICK = {"T": 50, "B": 4, "H": 64}
"""The largest sizes of a run that shows that everything works."""


def cases_of(group: str, *, quick: bool = False) -> list[Case]:
    """Return the cases of a group; quick ones are cut down to small sizes."""
    made: Iterable[Case] = _CASES[group]
    if quick:
        made = (replace(c, **{axis: min(getattr(c, axis), most) for axis, most in QUICK.items()}) for c in made)
    found = [case for case in dict.fromkeys(made) if case.work <= _LIMIT]
    tasks = ("inference", "training") if not found[0].task else (found[0].task,)
    return [replace(case, task=task) for task in tasks for case in found]
