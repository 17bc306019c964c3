"""Groups of cases that are measured on a GPU, and the precisions with their tolerances."""

from collections.abc import Sequence
from itertools import product

from ..common.cases import Case

GROUPS = ("table", "streaming", "engines")

PRECISIONS = {
    "float32": "float32, TF32 off on both sides",
    "tf32": "float32, TF32 on on both sides",
    "float16": "float16 layers on both sides",
    "bfloat16": "not the same storage: torch keeps bfloat16, nplstm float32 that is rounded to it for recurrent"
    " products",
}

TOLERANCES = {"float32": 1e-5, "tf32": 2e-3, "float16": 2e-2, "bfloat16": 2e-2}
"""Of norms, by precision. Two correct libraries differ by some units of rounding (6e-8, 5e-4, 5e-4, 4e-3), since a
cell forgets and errors do not pile up over steps; a mistake in the mathematics, or TF32 on one side alone where
there should be none, is far above."""

_STACKS = ((1, False), (2, True), (4, False))
"""Layers, and whether they run both ways. Single layers come first: what a budget leaves out are stacks."""

_T, _BATCHES, _SIZES = 512, (1, 16, 64, 256), (64, 128, 256, 512, 1024, 2048)

_MORE_BATCHES = (1, 8, 16, 32, 64, 128, 256)  # where engines are compared: to see where one overtakes the other

_QUICK = {
    "table": {(1, 1, 128), (1, 16, 256), (1, 64, 512), (1, 256, 1024), (2, 16, 256), (4, 16, 256)},
    "streaming": {(1, 1, 128), (1, 1, 512)},
    "engines": {(1, 1, 256), (1, 64, 256), (1, 256, 1024)},
}
"""Layers, B and H."""


def cases_of(group: str, precisions: Sequence[str], *, quick: bool = False) -> list[Case]:
    """Return the cases of a group; the quick ones are some of them."""
    tasks = ("inference", "training")
    if group == "streaming":  # in float32: what a stream computes in is as exact as its layer in any precision
        made = [Case(group, task, 1, H, 5) for H, task in product((64, 128, 256, 512), ("step", "latency"))]
    else:
        stacks, batches = (_STACKS, _BATCHES) if group == "table" else (_STACKS[:1], _MORE_BATCHES)
        made = [
            Case(group, task, B, H, _T, layers, bidirectional, precision=precision)
            for (layers, bidirectional), H, precision, B, task in product(
                stacks, _SIZES, precisions, batches, tasks
            )
        ]
    return [case for case in made if not quick or (case.layers, case.B, case.H) in _QUICK[group]]


def cudnn_persists(case: Case) -> bool:
    """Tell whether torch has cuDNN run its persistent kernel."""
    single = case.precision == "float16" and case.layers == case.directions == 1
    return single and case.H <= 1024 and case.H % 128 == 0 and case.B % 8 == 0 and case.B <= 128
