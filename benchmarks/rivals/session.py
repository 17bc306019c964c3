"""A whole run: its passes, and in each of them the groups of cases."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from tqdm import tqdm

from .cases import Case, cases_of
from .imports import measure_imports
from .machine import best_kernels, describe, kernels_of
from .measure import measure, summary
from .worker import OURS, REFERENCE, Worker, WorkerError

__all__ = ["Options", "measure_all"]

_PROCESSES = 3
"""In each of which the memory of a case is measured once."""

_IMPORTS = 11

_UNTIMED = ("memory", "import")


class Options(NamedTuple):
    """What is measured, and how long."""

    groups: Sequence[str]
    libraries: Sequence[str]
    seconds: float
    threads: int
    limit: float
    quick: bool


def measure_all(options: Options, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure with the libraries' defaults, and again with the best BLAS kernels if they are others.

    Returns
    -------
    dict
        All that is known of the run, for JSON; ``save`` gets it after each record, so that an interrupted run is
        not lost.
    """
    run = {"machine": describe(), **options._asdict(), "passes": []}
    first = _measure_pass("defaults", {}, options, run, save)
    own = next((library for name, library in first["libraries"].items() if name in OURS), {"blas": []})
    settings, remark = best_kernels(run["machine"]["instructions"], kernels_of(own))
    first["remarks"].append(remark)
    timed = [group for group in options.groups if group not in _UNTIMED]
    if settings and timed:
        _measure_pass("best BLAS kernels", settings, options._replace(groups=timed), run, save)
    save(run)
    return run


def _measure_pass(
    name: str,
    settings: Mapping[str, str],
    options: Options,
    run: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure all groups; ``settings`` are in the environment of nplstm's processes alone."""
    one = {"name": name, "settings": settings, "libraries": {}, "unavailable": {}, "remarks": [], "records": []}
    run["passes"].append(one)

    def keep(record: dict[str, Any]) -> None:
        one["records"].append(record)
        save(run)

    with ExitStack() as stack:
        workers = {
            library: stack.enter_context(Worker(library, options.threads, _settings(library, settings)))
            for library in (REFERENCE, *options.libraries)
        }
        for library in options.libraries:
            try:
                one["libraries"][library] = workers[library].ask("start")
            except WorkerError as error:
                one["unavailable"][library] = str(error)
                workers.pop(library).close()
        workers[REFERENCE].ask("start")
        timed = [c for group in options.groups if group not in _UNTIMED for c in _cases(group, options)]
        for case in tqdm(timed, desc=name):
            keep(measure(case, workers, options.seconds))
    there = list(one["libraries"])
    for case in tqdm(_cases("memory", options) if "memory" in options.groups else [], desc="memory"):
        keep(_measure_memory(case, there, options))
    if "import" in options.groups:
        for record in measure_imports(there, options.threads, 2 if options.quick else _IMPORTS):
            keep(record)
    return one


def _settings(library: str, settings: Mapping[str, str]) -> Mapping[str, str]:
    return settings if library in OURS else {}


def _cases(group: str, options: Options) -> list[Case]:
    return cases_of(group, options.limit, quick=options.quick)


def _measure_memory(case: Case, libraries: Sequence[str], options: Options) -> dict[str, Any]:
    """Measure the memory of a case, in fresh processes."""
    values: dict[str, Any] = {}
    refused: dict[str, str] = {}
    small = replace(case, B=1, T=2)
    for library in libraries:
        samples: list[float] = []
        try:
            for _ in range(1 if options.quick else _PROCESSES):
                with Worker(library, options.threads) as worker:
                    worker.ask("start")
                    samples.append(worker.ask("memory", case, small))
        except WorkerError as error:
            refused[library] = str(error)
        else:
            values[library] = summary(samples)
    return {
        "group": case.group,
        "task": case.task,
        "label": case.label,
        "case": case.as_dict(),
        "unit": "B",
        "values": values,
        "refused": refused,
    }
