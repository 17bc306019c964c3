"""Threads that run compiled code together.

A call that needs several threads takes the whole team for as long as it runs; a call that comes meanwhile, from
another Python thread, does its work alone. What is computed does not depend on how many threads do it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock, Thread

__all__ = ["Team"]

Task = Callable[[], object]


class Team:
    """A few threads that wait for work; they are started when first needed, and end with the process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tasks: list[SimpleQueue[Task]] = []
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock, self._tasks, self._done = Lock(), [], SimpleQueue()

    @contextmanager
    def take(self, threads: int) -> Iterator[int]:
        """Have the team for as long as the context lasts: yields how many threads there are, 1 if it is busy."""
        if threads == 1 or not self._lock.acquire(blocking=False):
            yield 1
            return
        try:
            while len(self._tasks) < threads - 1:
                self._tasks.append(SimpleQueue())
                Thread(target=self._work, args=(self._tasks[-1], self._done), daemon=True).start()
            yield threads
        finally:
            self._lock.release()

    def run(self, tasks: list[Task]) -> None:
        """Run all tasks at the same time, the first in the calling thread; for who has taken the team."""
        for queue, task in zip(self._tasks, tasks[1:], strict=False):
            queue.put(task)
        failures: list[BaseException | None] = []
        try:
            tasks[0]()
        finally:
            failures += [self._done.get() for _ in tasks[1:]]
        for failure in failures:
            if failure is not None:
                raise failure

    @staticmethod
    def _work(tasks: "SimpleQueue[Task]", done: "SimpleQueue[BaseException | None]") -> None:
        while True:
            task = tasks.get()
            try:
                task()
                failure = None
            except BaseException as error:  # noqa: BLE001  raised again by the thread that waits
                failure = error
            done.put(failure)
