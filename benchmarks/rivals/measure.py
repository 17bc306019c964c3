"""Timing: libraries in turn, many calls a turn, medians over turns."""

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from .cases import Case
from .check import WrongResultError, check
from .others import QUIET, Others
from .worker import REFERENCE, Worker, WorkerError

__all__ = ["interleave", "measure", "summary"]

_SPAN = 0.02
"""Seconds that a turn lasts at least: many calls where they are short, so that the clock's steps do not matter."""

_LONG = 0.1
"""Seconds of a call from which on there is none before it that does not count: it warms itself."""

_LEAST_TURNS = 5

_TRIES = 3


def measure(case: Case, workers: Mapping[str, Worker], seconds: float) -> dict[str, Any]:
    """Check and time a case; return its record, in which those libraries that were refused have no figures.

    Parameters
    ----------
    workers : mapping of library to Worker
        With ``REFERENCE`` among them, which is not timed.
    seconds : float
        For each library, at least.
    """
    refused, notes, errors = _check(case, workers)
    others, samples = _time({name: workers[name] for name in errors}, seconds)
    return {
        "group": case.group,
        "task": case.task,
        "label": case.label,
        "case": case.as_dict(),
        "unit": "s",
        "values": {name: summary(column) for name, column in samples.items()},
        "notes": {name: note for name, note in notes.items() if note},
        "errors": errors,
        "refused": refused,
        "others": others,
    }


def _check(case: Case, workers: Mapping[str, Worker]) -> tuple[dict[str, str], dict[str, str], dict[str, float]]:
    """Return, by library, why it was refused; of the others how they run the case, and their largest error."""
    refused: dict[str, str] = {}
    notes: dict[str, str] = {}
    errors: dict[str, float] = {}
    workers[REFERENCE].ask("prepare", case.reference())
    reference = workers[REFERENCE].ask("results")
    workers[REFERENCE].ask("forget")
    for library in sorted(workers.keys() - {REFERENCE}):
        try:
            notes[library] = workers[library].ask("prepare", case)
            errors[library] = max(check(workers[library].ask("results"), reference).values())
        except (WorkerError, WrongResultError) as error:
            refused[library] = str(error)
    return refused, notes, errors


def _time(workers: Mapping[str, Worker], seconds: float) -> tuple[float, dict[str, list[float]]]:
    """Time again if the machine was busy with something else; return how busy it was at best, and the figures."""
    tries: list[tuple[float, dict[str, list[float]]]] = []
    while len(tries) < _TRIES:
        others = Others([worker.pid for worker in workers.values()])
        samples = interleave({name: _turn(worker) for name, worker in workers.items()}, seconds)
        tries.append((others.cores(), samples))
        if tries[-1][0] <= QUIET:
            break
    return min(tries, key=lambda one: one[0])


def _turn(worker: Worker) -> Callable[[int, int], float]:
    return lambda calls, warm: worker.ask("run", calls, warm)


def interleave(turns: Mapping[str, Callable[[int, int], float]], seconds: float) -> dict[str, list[float]]:
    """Return the seconds of a call, one figure for each turn of each library.

    Parameters
    ----------
    turns : mapping of name to function
        Given a number of calls, and of calls before them that do not count, it returns the seconds they took.
    seconds : float
        Turns go on until they have taken this long, times the number of libraries.
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
