"""Speed beside busy processes: calls per second where other programs use every CPU, with one thread and with two.

Threads of a library wait for each other at every step. Where one of them has lost its CPU to another program, the
others wait for it, and a call on two threads may take many times as long as on one. Each library and number of
threads has a process of its own; they take turns, and one that is not in turn is stopped.

python -m benchmarks.busy
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .common.cases import Case
from .common.machine import describe
from .common.tables import head, row, write
from .rivals.system import QUIET, OtherPrograms
from .rivals.worker import LIBRARIES, Worker, WorkerError

Workers = Mapping[tuple[str, int], Worker]
"""By library and number of threads."""

CASES = (
    Case("busy", "inference", 1, 512, 20),
    Case("busy", "inference", 32, 128, 50),
    Case("busy", "training", 32, 128, 50),
    Case("busy", "step", 1, 512, 5),
)

THREADS = (1, 2)

_WARM = 0.2
"""Seconds of a turn that do not count: a process that was stopped gets a CPU sooner than one that has worked."""

_WAITING = 3.0
"""Seconds after a call in which a process has nothing to do."""

_SPIN = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""
"""Ends with the process that started it, however that ends."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="busy", description=__doc__, formatter_class=form)
    some, names = ["torch", "onnxruntime", "compiled"], ", ".join(LIBRARIES)
    text = f"of {names} (default: {' '.join(some)})"
    parser.add_argument("--libraries", help=text, default=some, nargs="+", choices=LIBRARIES, metavar="NAME")
    parser.add_argument("--json", help="write all figures to this file", type=Path, metavar="FILE")
    parser.add_argument("--quick", help="short turns: to see that all works", action="store_true")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that workers are ended
    run = measure(arguments.libraries, 0.2 if arguments.quick else 1.0, 2 if arguments.quick else 5)
    print(write_table(run))
    if arguments.json:
        write(arguments.json, json.dumps(run, indent=1))


def measure(libraries: Sequence[str], seconds: float, turns: int) -> dict[str, Any]:
    """Return all figures, for JSON.

    ``rows`` has a dict for each case and library: in ``rates`` the calls per second by state and threads, such as
    "busy 2"; in ``others`` the cores that other programs kept busy while it was to be idle. ``waiting`` has, by
    library, the CPU seconds that its process used in ``waiting_seconds`` after a call.
    """
    run: dict[str, Any] = {"machine": describe(), "turn_seconds": seconds, "turns": turns}
    run |= {"versions": {}, "unavailable": {}, "rows": [], "waiting_seconds": _WAITING}
    with ExitStack() as stack:
        keys = [(library, threads) for library in libraries for threads in THREADS]
        workers = {key: stack.enter_context(Worker(*key)) for key in keys}
        for (library, _), worker in workers.items():
            try:
                run["versions"][library] = worker.ask("start")
            except WorkerError as error:
                run["unavailable"][library] = str(error)
        workers = {key: worker for key, worker in workers.items() if key[0] not in run["unavailable"]}
        for case in CASES:
            run["rows"] += _measure_case(case, _prepare(case, workers), run["machine"]["cpus"], seconds, turns)
        ready = _prepare(CASES[0], workers)
        run["waiting"] = {name: w.ask("wait", _WAITING) for (name, n), w in ready.items() if n == THREADS[-1]}
    return run


def _prepare(case: Case, workers: Workers) -> Workers:
    """Put a case in place; return the workers of the libraries that can do it."""
    ready: dict[tuple[str, int], Worker] = {}
    for key, worker in workers.items():
        try:
            worker.ask("prepare", case)
        except WorkerError as error:
            if "Unavailable" not in str(error):
                raise
        else:
            ready[key] = worker
    return ready


def _measure_case(case: Case, ready: Workers, cpus: int, seconds: float, turns: int) -> list[dict[str, Any]]:
    seen = OtherPrograms([worker.pid for worker in ready.values()])
    rates, others = {"idle": _measure_rates(ready, seconds, turns)}, seen.cores()
    with busy_processes(cpus):
        rates["busy"] = _measure_rates(ready, seconds, turns)
    return [
        {
            "task": case.task,
            "label": case.label,
            "library": library,
            "others": others,
            "rates": {f"{state} {n}": found[library, n] for state, found in rates.items() for n in THREADS},
        }
        for library in dict.fromkeys(library for library, _ in ready)
    ]


def _measure_rates(ready: Workers, seconds: float, turns: int) -> dict[tuple[str, int], float]:
    """Return each worker's calls per second, the median over turns."""
    rounds = [{key: worker.ask("rate", seconds, _WARM) for key, worker in ready.items()} for _ in range(turns)]
    return {key: statistics.median(found[key] for found in rounds) for key in ready}


@contextmanager
def busy_processes(count: int) -> Generator[list[subprocess.Popen[bytes]]]:
    """Keep so many CPUs busy within the context, by one Python loop each."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        started += (subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count))
        time.sleep(_WARM)
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def write_table(run: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    place, (one, two) = run["machine"], THREADS
    states = [f"{state} {n}" for state in ("idle", "busy") for n in THREADS]
    lines = [
        f"- {place['date']}, commit {place['commit'] or 'unknown'}, {place['processor']}, {place['cpus']} CPUs",
        *(f"- {name}: {', '.join(map(' '.join, v.items()))}" for name, v in run["versions"].items()),
        *(f"- {name}: not measured ({reason})" for name, reason in run["unavailable"].items()),
        "",
        f"Calls per second, by number of threads: medians of {run['turns']} turns of {run['turn_seconds']:g} s. "
        f"Idle: nothing else runs; busy: beside {place['cpus']} busy processes. † marks a case in which other "
        f"programs kept more than {QUIET} cores busy when it was to be idle.",
        "",
        *head(3, "task", "case", "library", *states, f"busy, {two} threads / {one}"),
    ]
    for found in run["rows"]:
        rates, label = found["rates"], found["label"] + " †" * (found["others"] > QUIET)
        figures = (f"{rates[state]:.3g}" if rates[state] < 100 else f"{rates[state]:.0f}" for state in states)
        shared = rates[f"busy {two}"] / rates[f"busy {one}"]
        lines.append(row(found["task"], label, found["library"], *figures, f"{shared:.0%}"))
    waiting = f"CPU time in the {run['waiting_seconds']:g} s after a call on {two} threads"
    lines += ["", *head(1, "library", waiting)]
    lines += [row(library, f"{1e3 * spent:.0f} ms") for library, spent in run["waiting"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
