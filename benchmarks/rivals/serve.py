"""What runs in a worker's process: it reads commands from stdin and answers them on stdout.

python -m benchmarks.rivals.serve LIBRARY THREADS
"""

import ctypes
import gc
import os
import pickle
import signal
import sys
import time
from importlib import import_module
from typing import Any

from .cases import Case
from .memory import Peak
from .prepared import Prepared, choose, rate_of, seconds_of
from .worker import RIVALS

__all__ = ["Server", "module_of"]

_PR_SET_PDEATHSIG = 1


def module_of(library: str) -> Any:
    """Return the module that runs a library's cases."""
    return import_module(f"benchmarks.rivals.with_{library if library in RIVALS else 'nplstm'}")


class Server:
    """Its public methods are the commands."""

    def __init__(self, library: str, threads: int) -> None:
        self._library, self._threads = module_of(library), threads
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
        """Let go of the case."""
        self._case = None
        gc.collect()

    def memory(self, case: Case, small: Case) -> int:
        """Return by how many bytes a run of the case raises the memory in use at its peak.

        A small case is run before, so that what a library makes once for all, such as threads, is there.
        """
        next(iter(self._library.prepare(small).values())).call()
        way = next(iter(self._library.prepare(case).values()))
        gc.collect()
        with Peak() as peak:
            way.call()
        return peak.risen


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
