"""What is calculated from the records of a run: ratios, geometric means, slopes."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .worker import OURS, RIVALS

__all__ = ["FAR", "Comparison", "compare", "geometric_mean", "ratio", "share", "slope", "slopes"]

FAR = 0.6
"""Ratios below this are far behind."""


def ratio(record: dict[str, Any], rival: str, own: str) -> float | None:
    """Return the rival's median over ours, above 1 where we need less; None where one of them is missing."""
    values = record["values"]
    if rival not in values or own not in values:
        return None
    return values[rival]["median"] / values[own]["median"]


def share(record: dict[str, Any], name: str) -> float | None:
    """Return which part of a core's peak a library reaches; None where it was not timed."""
    if name not in record["values"]:
        return None
    return record["operations"] / record["values"][name]["median"] / record["peak"]


def geometric_mean(ratios: Iterable[float]) -> float:
    """Return the mean that does not depend on which of the two is divided by the other."""
    return math.exp(statistics.fmean(math.log(r) for r in ratios))


class Comparison(NamedTuple):
    """An engine beside a rival in all cases of a group and task."""

    group: str
    task: str
    own: str
    rival: str
    ratios: list[float]

    @property
    def lost(self) -> int:
        """In how many cases the rival needs less."""
        return sum(r < 1 for r in self.ratios)

    @property
    def far_behind(self) -> int:
        """In how many cases it needs much less."""
        return sum(r < FAR for r in self.ratios)


def compare(records: list[dict[str, Any]]) -> Iterator[Comparison]:
    """Compare each engine with each rival, group by group; of the group "growth" slopes are what counts."""
    for group, task in dict.fromkeys((r["group"], r["task"]) for r in records if r["group"] != "growth"):
        chosen = [r for r in records if (r["group"], r["task"]) == (group, task)]
        for own in OURS:
            for rival in RIVALS:
                ratios = [found for r in chosen if (found := ratio(r, rival, own)) is not None]
                if ratios:
                    yield Comparison(group, task, own, rival, ratios)


def slope(points: list[tuple[float, float]]) -> float:
    """Fit log y = a + slope * log x by least squares; return the slope: 1 where y is proportional to x."""
    x, y = ([math.log(value) for value in column] for column in zip(*points, strict=True))
    return statistics.linear_regression(x, y).slope


def slopes(records: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[int], dict[str, float]]]:
    """Yield, for each axis and task of the group "growth", the sizes and the slope of each library."""
    grown = [r for r in records if r["group"] == "growth"]
    for axis in "TBH":
        for task in dict.fromkeys(r["task"] for r in grown):
            series = _longest_series([r for r in grown if r["task"] == task], axis)
            sizes = [r["case"][axis] for r in series]
            if len(sizes) < 2:
                continue
            common = [name for name in (*RIVALS, *OURS) if all(name in r["values"] for r in series)]
            medians = {name: [r["values"][name]["median"] for r in series] for name in common}
            yield axis, task, sizes, {n: slope(list(zip(sizes, m, strict=True))) for n, m in medians.items()}


def _longest_series(records: list[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """Return the records in which all other sizes are the same, by size."""
    series: dict[tuple[int, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        series[tuple(record["case"][other] for other in "TBH" if other != axis)].append(record)
    return sorted(max(series.values(), key=len, default=[]), key=lambda record: record["case"][axis])
