"""Threads that run compiled code together.

A call that needs several threads takes the whole team for as long as it runs; a call that comes meanwhile, from
another Python thread, does its work alone. What is computed does not depend on how many threads do it.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock, Thread

import numpy as np

from nplstm._typing import HostIndices
from nplstm.engines.compiled.waiting import LINE, wait_for

__all__ = ["Team"]

Task = Callable[[], object]


class _Worker:
    """A thread that runs what comes, in the order in which it comes."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Task] = SimpleQueue()
        self._given = 0
        self._done: HostIndices = np.zeros(LINE, np.int64)
        self._failure: BaseException | None = None
        Thread(target=self._work, daemon=True).start()

    def give(self, task: Task) -> None:
        self._given += 1
        self._tasks.put(task)

    def finish(self) -> None:
        """Wait until all that was given is done, and raise what it raised."""
        wait_for(self._done, 0, self._given)  # looks for it, which is sooner than being woken
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except BaseException as error:  # noqa: BLE001  raised again by the thread that waits
                self._failure = error
            del task  # and what it holds
            self._done[0] += 1


class Team:
    """A few threads that wait for work; they are started when first needed, and end with the process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._workers: list[_Worker] = []
        if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock, self._workers = Lock(), []

    @contextmanager
    def take(self, threads: int) -> Generator[int]:
        """Have the team for as long as the context lasts: yields how many threads there are, 1 if it is busy."""
        if threads == 1 or not self._lock.acquire(blocking=False):
            yield 1
            return
        try:
            while len(self._workers) < threads - 1:
                self._workers.append(_Worker())
            yield threads
        finally:
            self._lock.release()

    def run(self, tasks: list[Task]) -> None:
        """Run all tasks at the same time, the first in the calling thread; for who has taken the team."""
        if len(tasks) == 1:
            tasks[0]()
            return
        workers = self._workers[: len(tasks) - 1]
        for worker, task in zip(workers, tasks[1:], strict=True):
            worker.give(task)
        try:
            tasks[0]()
        finally:
            for worker in workers:
                worker.finish()
