"""A whole run: a pass for each instruction set, and in each of them the groups of cases."""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..common.machine import describe
from .cases import TIMED, cases_of
from .footprint import measure_imports, measure_sizes
from .instruction_sets import InstructionSet, find_sets, not_as_asked
from .measure import measure, measure_memory
from .peak import build_peak, measure_peak
from .worker import REFERENCE, Worker, WorkerError

_CANNOT_BE_TOLD = "it always uses the best instruction set, and cannot be told to use another"


Keep = Callable[[dict[str, Any]], None]
"""Adds a record to a pass, and saves the run."""


def measure_all(options: Namespace, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure by the command's options with each instruction set; what does not depend on it, in the first alone.

    Returns all that is known of the run, for JSON; ``save`` gets it after each record: an interrupted run is kept.
    """
    run = {"machine": describe(), "threads": options.threads, "seconds": options.seconds, "passes": []}
    for one in find_sets():
        if one.name not in options.instructions:
            continue
        shown = {"name": one.name, "settings": one.settings}
        shown |= {"libraries": {}, "unavailable": {}, "remarks": [], "records": []}
        run["passes"].append(shown)

        def keep(record: dict[str, Any], shown: dict[str, Any] = shown) -> None:
            shown["records"].append(record)
            save(run)

        _measure_timed(one, options, shown, keep)
        _measure_peaks(one, options, shown, keep)
        if len(run["passes"]) == 1:
            _measure_untimed(one, options, list(shown["libraries"]), keep)
    save(run)
    return run


def _cases(options: Namespace, *groups: str) -> list[Any]:
    """Return the cases of those groups that are asked for."""
    return [c for g in groups if g in options.only for c in cases_of(g, quick=options.quick)]


@contextmanager
def _workers(one: InstructionSet, libraries: Sequence[str], threads: int) -> Iterator[dict[str, Worker]]:
    """Yield a process for each library, and one for the reference."""
    with ExitStack() as stack:
        names = (REFERENCE, *libraries)
        yield {name: stack.enter_context(Worker(name, threads, one.settings)) for name in names}


def _measure_timed(one: InstructionSet, options: Namespace, shown: dict[str, Any], keep: Keep) -> None:
    """Find out which libraries there are, and time the groups that use all threads."""
    libraries = list(options.libraries)
    if "onnxruntime" in libraries and not one.best:
        libraries.remove("onnxruntime")
        shown["unavailable"]["onnxruntime"] = _CANNOT_BE_TOLD
    with _workers(one, libraries, options.threads) as workers:
        for library in libraries:
            _start(one, library, workers, shown)
        workers[REFERENCE].ask("start")
        for case in tqdm(_cases(options, *TIMED), desc=one.name):
            keep(measure(case, workers, options.seconds))


def _start(one: InstructionSet, library: str, workers: dict[str, Worker], shown: dict[str, Any]) -> None:
    """Keep what a library says of itself; end its process if it cannot run as it should."""
    try:
        versions, said = workers[library].ask("start"), workers[library].ask("instructions")
        reason = not_as_asked(one.name, said)
    except WorkerError as error:
        reason = str(error)
    if reason:
        shown["unavailable"][library] = reason
        workers.pop(library).close()
    else:
        shown["libraries"][library] = {"versions": versions, "instructions": said}


def _measure_peaks(one: InstructionSet, options: Namespace, shown: dict[str, Any], keep: Keep) -> None:
    """Time inference on one thread, and after each case the peak of a core, whose frequency varies."""
    cases = _cases(options, "peak")
    if not cases:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = build_peak(one.name, Path(folder))
        except OSError as error:
            shown["remarks"].append(f"the share of the peak is not measured: {error}")
            return
        with _workers(one, list(shown["libraries"]), 1) as workers:
            for worker in workers.values():
                worker.ask("start")
            for case in tqdm(cases, desc="peak"):
                record = measure(case, workers, options.seconds)
                keep(record | {"operations": case.operations, "peak": measure_peak(program)})


def _measure_untimed(one: InstructionSet, options: Namespace, libraries: Sequence[str], keep: Keep) -> None:
    """Measure memory, import, the first call and the size."""
    for case in tqdm(_cases(options, "memory"), desc="memory"):
        keep(measure_memory(case, libraries, options.threads, one.settings, 1 if options.quick else 3))
    records = []
    if {"import", "first"} & set(options.only):
        records += measure_imports(libraries, options.threads, one.settings, 2 if options.quick else 11)
    if "size" in options.only:
        records += measure_sizes(libraries)
    for record in records:
        if record["group"] in options.only:
            keep(record)
