"""One case on a CPU: results checked beside a float64 run, libraries timed in turns, memory in fresh processes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..common.cases import Case
from ..common.checks import WrongResultError, differences, relative_maximum
from ..common.timing import interleave, summary
from .system import QUIET, OtherPrograms
from .worker import REFERENCE, Worker, WorkerError

_TRIES = 3


def tolerance(name: str) -> float:
    """Return the largest difference of a result in float32, whose rounding unit is 6e-8.

    Outputs and states are sums of 2H <= 2048 products; a cell forgets, so that errors do not pile up over steps.
    Gradients are, beside that, sums of up to T * B = 128,000 terms of both signs, in an order of each library's
    own. Both are some ten times what was seen at H = 1024 and T = 1000; a mistake in the mathematics is far above.
    """
    return 5e-5 if name.startswith("grad_") else 1e-5


def measure(case: Case, workers: Mapping[str, Worker], seconds: float) -> dict[str, Any]:
    """Check and time a case, each library for so many seconds at least; return its record.

    ``REFERENCE`` is among the workers and is not timed. Libraries that were refused have no figures.
    """
    record = case.described() | {"unit": "s", "values": {}, "notes": {}, "errors": {}, "refused": {}}
    workers[REFERENCE].ask("prepare", case.reference())
    expected = workers[REFERENCE].ask("results")
    workers[REFERENCE].ask("forget")
    for library in sorted(workers.keys() - {REFERENCE}):
        try:
            note = workers[library].ask("prepare", case)
            found = differences(workers[library].ask("results"), expected, tolerance, relative_maximum)
        except (WorkerError, WrongResultError) as error:
            record["refused"][library] = str(error)
        else:
            record["errors"][library] = max(found.values())
            record["notes"] |= {library: note} if note else {}
    record["others"], samples = _time({name: workers[name] for name in record["errors"]}, seconds)
    record["values"] = {name: summary(column) for name, column in samples.items()}
    return record


def _time(workers: Mapping[str, Worker], seconds: float) -> tuple[float, dict[str, list[float]]]:
    """Time again if the machine was busy with something else; return how busy it was at best, and the figures."""
    tries: list[tuple[float, dict[str, list[float]]]] = []
    while not tries or (tries[-1][0] > QUIET and len(tries) < _TRIES):
        others = OtherPrograms([worker.pid for worker in workers.values()])
        turns = {name: lambda calls, warm, of=w: of.ask("run", calls, warm) for name, w in workers.items()}
        samples = interleave(turns, seconds)
        tries.append((others.cores(), samples))
    return min(tries, key=lambda one: one[0])


def measure_memory(
    case: Case, libraries: Sequence[str], threads: int, settings: Mapping[str, str], processes: int
) -> dict[str, Any]:
    """Measure by how much a case raises the peak memory, once in each of so many fresh processes."""
    record = case.described() | {"unit": "B", "values": {}, "refused": {}}
    for library in libraries:
        samples: list[float] = []
        try:
            for _ in range(processes):
                with Worker(library, threads, settings) as worker:
                    worker.ask("start")
                    samples.append(worker.ask("memory", case, replace(case, B=1, T=2)))
        except WorkerError as error:
            record["refused"][library] = str(error)
        else:
            record["values"][library] = summary(samples)
    return record
