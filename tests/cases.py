"""The one table of configurations: every layer option, layout and element type, in combinations.

A new variant is one row. Sizes are pairwise different primes, so that no two axes can be mixed up unseen.
"""

from dataclasses import dataclass, field
from typing import Any

T, B, I, H, P = 7, 3, 11, 5, 2

LAYOUTS = ("padded", "lengths", "packed", "packed_unsorted", "unbatched")

SORTED_LENGTHS = [7, 4, 1]
UNSORTED_LENGTHS = [4, 1, 7]  # sorted by a permutation that is not its own inverse


@dataclass(frozen=True)
class Case:
    """One configuration of an LSTM and of what is fed to it."""

    options: dict[str, Any] = field(default_factory=dict)
    layout: str = "padded"
    dtype: str = "float64"
    steps: int = T
    states: bool = True  # whether hx is given

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in self.options.items()]
        rest = [f"T={self.steps}"] * (self.steps != T) + ["no hx"] * (not self.states)
        return ", ".join([self.layout, self.dtype, *options, *rest])

    @property
    def batch_first(self) -> bool:
        return self.options.get("batch_first", False)

    @property
    def lengths(self) -> list[int] | None:
        if self.layout in {"lengths", "packed_unsorted"}:
            return UNSORTED_LENGTHS
        return SORTED_LENGTHS if self.layout == "packed" else None


def _grid() -> list[Case]:
    cases = []
    for dtype in ("float64", "float32"):
        for num_layers in (1, 2, 3):
            for bidirectional in (False, True):
                for proj_size in (0, P):
                    options = dict(num_layers=num_layers, bidirectional=bidirectional, proj_size=proj_size)
                    cases.append(Case(options, dtype=dtype))
        everything = dict(num_layers=2, bidirectional=True, proj_size=P)
        for layout in LAYOUTS:
            for options in ({"batch_first": True}, everything, everything | {"batch_first": True, "bias": False}):
                cases.append(Case(options, layout, dtype))
        cases.append(Case({"bias": False}, dtype=dtype))
        cases.append(Case({"bidirectional": True}, dtype=dtype, steps=1))
        cases.append(Case({"num_layers": 2}, dtype=dtype, states=False))
        cases.append(Case({"bidirectional": True}, "packed_unsorted", dtype, states=False))
    return list({str(case): case for case in cases}.values())


CASES = _grid()
RTOL = {
    "float64": 1e-12,
    # float32 rounds at 6e-8; sums over up to a hundred terms in another order than torch's differ by some of it
    "float32": 1e-5,
}
