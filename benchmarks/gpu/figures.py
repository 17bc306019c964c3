"""What is calculated from the records of a run: ratios, means, targets, and where an engine overtakes another."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..rivals.figures import geometric_mean
from .cases import PRECISIONS, Case, cases_of

__all__ = [
    "FLOOR",
    "OURS",
    "RIVAL",
    "Summary",
    "Target",
    "by_engine",
    "fastest",
    "losses",
    "memory_ratio",
    "microseconds",
    "overtaken",
    "ratio",
    "share",
    "spread",
    "summaries",
    "targets",
]

RIVAL, OURS = "torch", "nplstm"

FLOOR = 0.5
"""No row is to be below this."""


def microseconds(record: dict[str, Any], name: str) -> float | None:
    """Return the median of a step of the whole call; None where it was not timed."""
    found = record["values"].get(name)
    return found["median"] / record["steps"] * 1e6 if found else None


def ratio(record: dict[str, Any], rival: str = RIVAL, own: str = OURS) -> float | None:
    """Return the rival's time over ours, above 1 where we are faster; None where one of them is missing."""
    theirs, ours = microseconds(record, rival), microseconds(record, own)
    return theirs / ours if theirs and ours else None


def share(record: dict[str, Any], own: str = OURS) -> float | None:
    """Return the modelled time over ours: 1 where a call takes what the model says."""
    ours = microseconds(record, own)
    return record["model_us"] / ours if ours and record["model_us"] else None


def spread(record: dict[str, Any]) -> float | None:
    """Return the range between the quartiles over the median, of the library in which it is greater."""
    values = record["values"].values()
    return max(((v["q3"] - v["q1"]) / v["median"] for v in values if v["median"]), default=None)


def memory_ratio(record: dict[str, Any]) -> float | None:
    """Return our peak over torch's."""
    memory = record["memory"]
    return memory[OURS] / memory[RIVAL] if memory.get(OURS) and memory.get(RIVAL) else None


class Summary(NamedTuple):
    """Rows of a precision, task and kind."""

    precision: str
    task: str
    kind: str
    ratios: list[float]

    @property
    def mean(self) -> float:
        """The geometric mean."""
        return geometric_mean(self.ratios)

    def below(self, bound: float) -> int:
        """Count the rows below a bound."""
        return sum(r < bound for r in self.ratios)


def summaries(records: Sequence[dict[str, Any]]) -> Iterator[Summary]:
    """Summarise the table by precision and task: all kinds together, then each."""
    timed = [(Case(**r["case"]), found) for r in _table(records) if (found := ratio(r)) is not None]
    for precision, task in dict.fromkeys((case.precision, case.task) for case, _ in timed):
        here = [(case, found) for case, found in timed if (case.precision, case.task) == (precision, task)]
        yield Summary(precision, task, "all", [found for _, found in here])
        kinds = dict.fromkeys(case.kind for case, _ in here)
        for kind in kinds if len(kinds) > 1 else ():
            yield Summary(precision, task, kind, [found for case, found in here if case.kind == kind])


def losses(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table in which torch is faster, the worst first."""
    lost = [(found, r) for r in _table(records) if (found := ratio(r)) is not None and found < 1]
    return [r for _, r in sorted(lost, key=lambda one: one[0])]


class Target(NamedTuple):
    """What was asked for, and what is there."""

    words: str
    wanted: str
    value: float | None
    met: bool | None  # None where nothing of it was measured
    rows: int
    of: int  # rows that there would be in a whole run


def targets(records: Sequence[dict[str, Any]]) -> list[Target]:
    """Compare the table with what was asked for."""
    rows = [(Case(**r["case"]), r) for r in _table(records)]
    every = [case for case in cases_of("table", list(PRECISIONS)) if case.precision != "bfloat16"]

    def mean(words: str, least: float, belongs: Callable[[Case], bool]) -> Target:
        found = [value for case, r in rows if belongs(case) and (value := ratio(r)) is not None]
        value = geometric_mean(found) if found else None
        met = None if value is None else value >= least
        return Target(words, f"geometric mean >= {least}", value, met, len(found), sum(map(belongs, every)))

    def least(words: str, wanted: str, values: Iterable[float | None], bound: float) -> Target:
        found = [value for value in values if value is not None]
        value = min(found, default=None)
        return Target(words, wanted, value, None if value is None else value >= bound, len(found), len(every))

    made: list[Target] = []
    for task, said in (("forward", "forward"), ("training", "forward + backward")):
        made += [mean(f"{each}, {said}", 1.0, _of(task, each)) for each in ("float32", "tf32")]
        made.append(mean(f"float16 where cuDNN persists, {said}", 0.8, _of(task, "float16", persists=True)))
        made.append(mean(f"float16 elsewhere, {said}", 1.0, _of(task, "float16", persists=False)))
    asked = [r for case, r in rows if case.precision != "bfloat16"]
    made.append(least("the worst row", f"ratio >= {FLOOR}", map(ratio, asked), FLOOR))
    saved = least(
        "peak memory", "<= torch's", (1 / found if (found := memory_ratio(r)) else None for r in asked), 1.0
    )
    made.append(saved._replace(value=None if saved.value is None else 1 / saved.value))
    return made


def _of(task: str, precision: str, *, persists: bool | None = None) -> Callable[[Case], bool]:
    def belongs(case: Case) -> bool:
        here = (case.task, case.precision) == (task, precision)
        return here and persists in (None, case.cudnn_persists)

    return belongs


def by_engine(records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield precision, task and records of the part that compares engines."""
    compared = [r for r in records if r["part"] == "engines" and r["values"]]
    for precision, task in dict.fromkeys((r["case"]["precision"], r["task"]) for r in compared):
        yield precision, task, [r for r in compared if (r["case"]["precision"], r["task"]) == (precision, task)]


def overtaken(records: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int | None, int | None]]:
    """Yield for each H the least B at which "persistent" is not the fastest engine, measured and as chosen.

    None where it is the fastest, or the chosen one, at all that were measured.
    """
    for H in sorted({r["case"]["H"] for r in records}):
        rows = sorted((r for r in records if r["case"]["H"] == H), key=lambda r: r["case"]["B"])
        measured = next((r["case"]["B"] for r in rows if fastest(r) != "persistent"), None)
        chosen = next((r["case"]["B"] for r in rows if r["chosen"] != "persistent"), None)
        yield H, measured, chosen


def fastest(record: dict[str, Any]) -> str:
    """Return the name of our fastest engine in a record of the part that compares them."""
    ours = {name: value["median"] for name, value in record["values"].items() if not name.startswith(RIVAL)}
    return min(ours, key=ours.__getitem__, default="")


def _table(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["part"] == "table"]
