"""Timing in turns: interleaved rounds of all libraries, many calls a turn, medians over turns."""

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

_SPAN = 0.02
"""Seconds that a turn lasts at least: many calls where they are short, so that the clock's steps do not matter."""

_LONG = 0.1
"""Seconds of a call from which on there is none before it that does not count: it warms itself."""

_LEAST_TURNS = 5


def interleave(turns: Mapping[str, Callable[[int, int], float]], seconds: float) -> dict[str, list[float]]:
    """Return the seconds of a call, one figure for each turn of each library.

    A turn is given a number of calls, and of calls before them that do not count; it returns the seconds taken.
    Turns go on until they have taken ``seconds`` times the number of libraries.
    """
    plan = {name: _plan(turn) for name, turn in turns.items()}
    samples: dict[str, list[float]] = {name: [] for name in turns}
    taken, rounds = 0.0, 0
    while turns and (taken < seconds * len(turns) or rounds < _LEAST_TURNS):
        for name, turn in turns.items():
            calls, warm = plan[name]
            spent = turn(calls, warm)
            samples[name].append(spent / calls)
            taken += spent
        rounds += 1
    return samples


def _plan(turn: Callable[[int, int], float]) -> tuple[int, int]:
    """Return how many calls a turn has, and how many before them that do not count."""
    calls = 1
    while (spent := turn(calls, 1)) < _SPAN:
        calls = max(calls + 1, math.ceil(calls * min(10.0, _SPAN / spent)))
    return calls, calls // 10 + 1 if spent / calls < _LONG else 0


def summary(samples: list[float]) -> dict[str, Any]:
    """Return the median and the quartiles."""
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive") if samples[1:] else samples * 3
    return {"median": median, "q1": q1, "q3": q3, "runs": len(samples)}
