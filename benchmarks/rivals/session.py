"""A whole run: a pass for each instruction set, and in each of them the groups of cases."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from .cases import TIMED, Case, cases_of
from .imports import measure_imports
from .machine import InstructionSet, describe, find_sets, not_as_asked
from .measure import measure, summary
from .peak import build_peak, measure_peak
from .sizes import measure_sizes
from .worker import REFERENCE, Worker, WorkerError

__all__ = ["Options", "measure_all"]

_PROCESSES = 3
"""In each of which the memory of a case is measured once."""

_IMPORTS = 11


class Options(NamedTuple):
    """What is measured, and how long."""

    groups: Sequence[str]
    libraries: Sequence[str]
    instructions: Sequence[str]
    seconds: float
    threads: int
    limit: float
    quick: bool


class _Pass(NamedTuple):
    """What an instruction set is measured with, and where its records go."""

    instructions: InstructionSet
    options: Options
    shown: dict[str, Any]
    """The part of the run's JSON."""
    save: Callable[[], None]

    def keep(self, record: dict[str, Any]) -> None:
        self.shown["records"].append(record)
        self.save()

    def cases(self, group: str) -> list[Case]:
        """Return the cases of a group, none if it is not asked for."""
        options = self.options
        return cases_of(group, options.limit, quick=options.quick) if group in options.groups else []


def measure_all(options: Options, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure with each instruction set; what does not depend on it, in the first pass alone.

    Returns
    -------
    dict
        All that is known of the run, for JSON; ``save`` gets it after each record, so that an interrupted run is
        not lost.
    """
    run = {"machine": describe(), **options._asdict(), "passes": []}
    for instructions in find_sets():
        if instructions.name in options.instructions:
            one = _Pass(instructions, options, _shown(instructions), lambda: save(run))
            run["passes"].append(one.shown)
            _measure_timed(one)
            _measure_peaks(one)
            if len(run["passes"]) == 1:
                _measure_untimed(one)
    save(run)
    return run


def _shown(instructions: InstructionSet) -> dict[str, Any]:
    told = {"name": instructions.name, "settings": instructions.settings}
    return told | {"libraries": {}, "unavailable": {}, "remarks": [], "records": []}


def _measure_timed(one: _Pass) -> None:
    """Find out which libraries there are, and time the groups that use all threads."""
    libraries = _told(one)
    with _workers(one, libraries, one.options.threads) as workers:
        for library in libraries:
            _ask_library(one, library, workers)
        workers[REFERENCE].ask("start")
        for case in tqdm([case for group in TIMED for case in one.cases(group)], desc=one.instructions.name):
            one.keep(measure(case, workers, one.options.seconds))


def _told(one: _Pass) -> list[str]:
    """Return the libraries without those that cannot be told to use this instruction set."""
    if one.instructions.best or "onnxruntime" not in one.options.libraries:
        return list(one.options.libraries)
    one.shown["unavailable"]["onnxruntime"] = (
        "it always uses the best instruction set, and cannot be told to use another"
    )
    return [library for library in one.options.libraries if library != "onnxruntime"]


@contextmanager
def _workers(one: _Pass, libraries: Sequence[str], threads: int) -> Iterator[dict[str, Worker]]:
    """Yield a process for each library, and one for the reference."""
    with ExitStack() as stack:
        yield {
            library: stack.enter_context(Worker(library, threads, one.instructions.settings))
            for library in (REFERENCE, *libraries)
        }


def _ask_library(one: _Pass, library: str, workers: dict[str, Worker]) -> None:
    """Keep what a library says of itself; end its process if it cannot run as it should."""
    try:
        versions, said = workers[library].ask("start"), workers[library].ask("instructions")
        reason = not_as_asked(one.instructions.name, said)
    except WorkerError as error:
        reason = str(error)
    if reason:
        one.shown["unavailable"][library] = reason
        workers.pop(library).close()
    else:
        one.shown["libraries"][library] = {"versions": versions, "instructions": said}


def _measure_peaks(one: _Pass) -> None:
    """Time inference on one thread, and after each case the peak of a core, whose frequency varies."""
    cases = one.cases("peak")
    if not cases:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = build_peak(one.instructions.name, Path(folder))
        except OSError as error:
            one.shown["remarks"].append(f"the share of the peak is not measured: {error}")
            return
        with _workers(one, list(one.shown["libraries"]), 1) as workers:
            for worker in workers.values():
                worker.ask("start")
            for case in tqdm(cases, desc="peak"):
                record = measure(case, workers, one.options.seconds)
                one.keep(record | {"operations": case.operations, "peak": measure_peak(program)})


def _measure_untimed(one: _Pass) -> None:
    """Measure memory, import, the first call and the size."""
    options, there = one.options, list(one.shown["libraries"])
    for case in tqdm(one.cases("memory"), desc="memory"):
        one.keep(_measure_memory(case, there, options, one.instructions.settings))
    records = []
    if {"import", "first"} & set(options.groups):
        runs = 2 if options.quick else _IMPORTS
        records += measure_imports(there, options.threads, one.instructions.settings, runs)
    if "size" in options.groups:
        records += measure_sizes(there)
    for record in records:
        if record["group"] in options.groups:
            one.keep(record)


def _measure_memory(
    case: Case, libraries: Sequence[str], options: Options, settings: Mapping[str, str]
) -> dict[str, Any]:
    """Measure the memory of a case, in fresh processes."""
    values: dict[str, Any] = {}
    refused: dict[str, str] = {}
    small = replace(case, B=1, T=2)
    for library in libraries:
        samples: list[float] = []
        try:
            for _ in range(1 if options.quick else _PROCESSES):
                with Worker(library, options.threads, settings) as worker:
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
