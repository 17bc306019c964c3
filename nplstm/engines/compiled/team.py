"""Threads for one call at a time: they share what a layer computes, and then wait for the next.

They wait in compiled code, where a call reaches them within a microsecond, for about as long as it takes to wake
them; then they sleep.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock, Thread

import numpy as np

from nplstm._typing import HostIndices
from nplstm.engines._numpy.memory import aligned_zeros
from nplstm.engines.compiled.calls import Calls, Task
from nplstm.engines.compiled.serving import LINES, has_to_be_woken, let_go, run_calls, serve
from nplstm.engines.compiled.waiting import LINE, PATIENCE

__all__ = ["MOST_THREADS", "TEAM", "Team"]

MOST_THREADS = 128
"""Of a team."""


class _Worker:
    """A thread that serves whenever it is woken."""

    def __init__(self, mail: HostIndices, number: int) -> None:
        self._wake: SimpleQueue[None] = SimpleQueue()
        Thread(target=self._work, args=(mail, number), daemon=True).start()

    def wake(self) -> None:
        """Let it serve for a while."""
        if self._wake.empty():
            self._wake.put(None)

    def _work(self, mail: HostIndices, number: int) -> None:
        while True:
            self._wake.get()
            serve(mail, number, PATIENCE)


class Team:
    """A few threads, started when first needed; they end with the process."""

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = Lock()
        self._workers: list[_Worker] = []
        self._mail: HostIndices = aligned_zeros((MOST_THREADS * LINES * LINE,), np.dtype(np.int64))

    @contextmanager
    def take(self, threads: int) -> Generator[int]:
        """Have the team for as long as the context lasts: yields how many threads there are, 1 if it is busy."""
        if threads == 1 or not self._lock.acquire(blocking=False):
            yield 1
            return
        try:
            yield min(threads, MOST_THREADS)
        finally:
            self._lock.release()

    def run(self, tasks: list[Task]) -> None:
        """Run all tasks at the same time, the first in the calling thread; for who has taken the team."""
        if len(tasks) == 1:
            tasks[0].kernel(*tasks[0].operands)
        elif tasks:
            self._run(Calls(tasks))

    def try_to_run(self, calls: Calls) -> bool:
        """Run calls at the same time, unless the team is busy; return whether they were."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._run(calls)
        finally:
            self._lock.release()
        return True

    def _run(self, calls: Calls) -> None:
        needed = range(len(calls.addresses) - 1)
        while len(self._workers) < len(needed):
            self._workers.append(_Worker(self._mail, len(self._workers)))
        try:
            if not run_calls(self._mail, calls.addresses, False):
                for number in needed:
                    if has_to_be_woken(self._mail, number):
                        self._workers[number].wake()
                run_calls(self._mail, calls.addresses, True)
        except BaseException:  # Ctrl-C, between the two: no one may be left waiting for a call
            let_go(self._mail, len(needed))
            raise


TEAM = Team()
"""Of the process."""
