"""Threads for one call at a time: they share what a layer computes, and then wait for the next.

They wait in compiled code, where a call reaches them within a microsecond; after a while without one they sleep.
"""

import os
from contextlib import suppress
from itertools import count
from queue import SimpleQueue
from threading import Lock, Thread

import numpy as np

from nplstm._typing import HostIndices
from nplstm.engines._numpy.memory import aligned_zeros
from nplstm.engines.compiled.calls import Calls, Task
from nplstm.engines.compiled.serving import DONE, SOME_ASLEEP, has_to_be_woken, let_go, mail_size, run_calls, serve
from nplstm.engines.compiled.waiting import PATIENCE

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
        self._starting = Lock()
        self._workers: list[_Worker] = []
        self._mail: HostIndices = aligned_zeros((mail_size(MOST_THREADS),), np.dtype(np.int64))
        self._tokens = count(1)

    def run(self, tasks: list[Task]) -> bool:
        """Run all tasks at the same time, the first in the calling thread; who sleeps is woken.

        False, with nothing done, if someone else has the team, or there are too few threads.
        """
        if len(tasks) == 1:
            tasks[0].run()
            return True
        calls = Calls(tasks)
        workers, token = len(tasks) - 1, next(self._tokens)
        if not self._are_there(workers):
            return False
        try:
            outcome = run_calls(self._mail, calls.addresses, token, False)
            if outcome == SOME_ASLEEP:
                self._wake(self._asleep(workers))
                outcome = run_calls(self._mail, calls.addresses, token, True)
        except BaseException:  # Ctrl-C, between the two: no one may be left waiting for a call
            let_go(self._mail, workers, token)
            raise
        return outcome == DONE

    def run_if_awake(self, calls: Calls, *, wake: bool) -> bool:
        """Run calls at the same time if all threads are awake; else, with ``wake``, have them so the next time."""
        workers, token = len(calls.addresses) - 1, next(self._tokens)
        if not self._are_there(workers):
            return False
        asleep: list[int] = []
        try:
            outcome = run_calls(self._mail, calls.addresses, token, False)
            if outcome == SOME_ASLEEP:
                asleep = self._asleep(workers)
        finally:
            let_go(self._mail, workers, token)
        if wake:
            self._wake(asleep)
        return outcome == DONE

    def _asleep(self, workers: int) -> list[int]:
        return [number for number in range(workers) if has_to_be_woken(self._mail, number)]

    def _wake(self, numbers: list[int]) -> None:
        for number in numbers:
            self._workers[number].wake()

    def _are_there(self, workers: int) -> bool:
        return len(self._workers) >= workers or self._start(workers)

    def _start(self, workers: int) -> bool:
        """Start so many workers, or as many as the system lets; tell whether all are there."""
        with self._starting, suppress(RuntimeError):
            while len(self._workers) < workers:
                self._workers.append(_Worker(self._mail, len(self._workers)))
        return len(self._workers) >= workers


TEAM = Team()
"""Of the process."""
