"""The program that a worker's process runs: it reads commands from stdin and answers them on stdout.

python -m benchmarks.rivals.serve LIBRARY THREADS
"""

import ctypes
import gc
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..common.cases import Case, Prepared
from .system import PeakMemory
from .worker import RIVALS

_PR_SET_PDEATHSIG = 1


class Server:
    """Its public methods are the commands."""

    def __init__(self, library: str, threads: int) -> None:
        self._library = import_module(f"benchmarks.rivals.run_{library if library in RIVALS else 'nplstm'}")
        self._threads = threads
        self._case: Prepared | None = None

    def start(self) -> dict[str, str]:
        """Load the library; return its versions."""
        return self._library.start(self._threads)

    def instructions(self) -> dict[str, str]:
        """Return which instruction sets the library says it uses, part by part."""
        return self._library.instructions()

    def prepare(self, case: Case) -> str:
        """Put a case in place; return which way the library runs it, where it has several."""
        self.forget()
        name, self._case = choose(self._library.prepare(case))
        return name

    def results(self) -> dict[str, Any]:
        """Run the case once; return its results."""
        return self._case.results()

    def run(self, calls: int, warm: int) -> float:
        """Return the seconds that so many calls take, after some that are not counted."""
        seconds_of(self._case.call, warm)
        return seconds_of(self._case.call, calls)

    def rate(self, seconds: float, warm: float) -> float:
        """Return calls per second over so many seconds, after some that are not counted."""
        rate_of(self._case.call, warm)
        return rate_of(self._case.call, seconds)

    def wait(self, seconds: float) -> float:
        """Return the CPU seconds that the process uses while it does nothing for so long after a call."""
        self._case.call()
        before = time.process_time()  # of all threads, in the system too
        time.sleep(seconds)
        return time.process_time() - before

    def forget(self) -> None:
        """Release the case."""
        self._case = None
        gc.collect()

    def memory(self, case: Case, small: Case) -> int:
        """Return by how many bytes a run of the case raises the memory in use at its peak.

        A small case is run before, so that what a library makes once for all, such as threads, is there.
        """
        next(iter(self._library.prepare(small).values())).call()
        way = next(iter(self._library.prepare(case).values()))
        gc.collect()
        with PeakMemory() as peak:
            way.call()
        return peak.risen


def choose(ways: dict[str, Prepared]) -> tuple[str, Prepared]:
    """Return the fastest way, with its name."""
    if len(ways) == 1:
        return next(iter(ways.items()))
    for way in ways.values():
        way.call()
    taken = {name: min(seconds_of(way.call, 3) for _ in range(5)) for name, way in ways.items()}
    name = min(taken, key=taken.__getitem__)
    return name, ways[name]


def seconds_of(call: Callable[[], Any], calls: int) -> float:
    """Return what so many calls take together."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def rate_of(call: Callable[[], Any], seconds: float) -> float:
    """Return the calls per second, by calls that together take so long: at least one."""
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or not calls:
        call()
        calls += 1
    return calls / spent


def _end_with_parent() -> None:
    """Have the system end this process with the one that started it; a stopped process could not do so itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(library: str, threads: int) -> None:
    """Answer commands until there are no more."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which then closes this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not to be taken for an answer
    server = Server(library, threads)
    while True:
        try:
            command, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = True, getattr(server, command)(*arguments)
        except Exception as error:  # noqa: BLE001  told to the process that asks
            answer = False, f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
