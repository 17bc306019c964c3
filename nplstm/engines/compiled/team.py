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
from nplstm.engines.compiled.waiting import LINE, PATIENCE, comes, wait_for

__all__ = ["Team"]

Task = Callable[[], object]


class _Worker:
    """A thread that runs one task after the other."""

    def __init__(self) -> None:
        self._task: Task | None = None
        self._given: HostIndices = np.zeros(LINE, np.int64)
        self._done: HostIndices = np.zeros(LINE, np.int64)
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._asleep = False
        self._failure: BaseException | None = None
        Thread(target=self._work, daemon=True).start()

    def give(self, task: Task) -> None:
        """Let it run a task; the one before is done."""
        self._task = task
        self._given[0] += 1
        if self._asleep:
            self._wake.put(None)

    def finish(self) -> None:
        """Wait until the task is done, and raise what it raised."""
        wait_for(self._done, 0, int(self._given[0]))  # looks for it, which is sooner than being woken
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _work(self) -> None:
        while True:
            following = int(self._done[0]) + 1
            if not comes(self._given, 0, following, PATIENCE):
                self._asleep = True  # from here on whoever gives a task says so
                while self._given[0] < following:
                    self._wake.get()
                self._asleep = False
            task, self._task = self._task, None
            try:
                if task is not None:
                    task()
            except BaseException as error:  # noqa: BLE001  raised again by the thread that waits
                self._failure = error
            del task  # and what it holds
            self._done[0] = following


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
