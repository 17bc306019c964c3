"""Threads that serve one stream: each stays in compiled code while steps come one after the other."""

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from weakref import WeakSet, finalize

from nplstm._typing import HostIndices
from nplstm.engines.compiled.waiting import LINE, wait_for

__all__ = ["Servers"]


class Servers:
    """The threads beside the one that leads; started when first needed, and gone with their stream.

    Parameters
    ----------
    tasks : list of callables
        One for each thread: serve until no step has come for a while.
    signals : HostIndices
        See ``step_kernel``.
    """

    def __init__(self, tasks: list[Callable[[], object]], signals: HostIndices) -> None:
        self._tasks = tasks
        self._signals = signals
        self._queues: list[SimpleQueue[bool]] = []
        _ALL.add(self)

    def wake(self) -> None:
        """Let all serve who do not, and wait until they do."""
        if not self._queues:
            self._queues = [SimpleQueue() for _ in self._tasks]
            finalize(self, _dismiss, self._queues)
            for queue, task in zip(self._queues, self._tasks, strict=True):
                Thread(target=_serve, args=(queue, task), daemon=True).start()
        for queue in self._queues:
            queue.put(True)
        for member in range(1, len(self._tasks) + 1):
            wait_for(self._signals, member, 1)

    def forget(self) -> None:
        """Be as if no step had been shared: a child process has none of the threads."""
        members = len(self._tasks) + 1
        self._queues = []
        self._signals[LINE : members * LINE : LINE] = 0
        self._signals[(members + 1) * LINE :: LINE] = self._signals[0]


_ALL: WeakSet[Servers] = WeakSet()


def _forget_all() -> None:
    for servers in _ALL:
        servers.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _serve(queue: "SimpleQueue[bool]", task: Callable[[], object]) -> None:
    while queue.get():
        task()


def _dismiss(queues: "list[SimpleQueue[bool]]") -> None:
    for queue in queues:
        queue.put(False)
