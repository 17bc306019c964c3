"""How busy the machine was with something else, while a case was timed.

Threads that wait for each other at each step of an LSTM are slowed down out of all proportion by another program
on their cores: torch's training was seen to take 500 times as long. Such figures say nothing about a library.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["QUIET", "Others"]

QUIET = 0.1
"""Cores that others may be using while figures still count."""

_USER_TO_STEAL = [0, 1, 2, 5, 6, 7]  # all but idle and iowait


class Others:
    """Counts from now on what CPUs do for others than this process and some that it started."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids, self._start = pids, time.perf_counter()
        self._before = self._others()

    def cores(self) -> float:
        """Return how many cores others have kept busy; 0 where the system does not tell."""
        spent = self._others() - self._before
        return max(0.0, round(spent / (time.perf_counter() - self._start), 3))

    def _others(self) -> float:
        if sys.platform != "linux":
            return 0.0
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
        busy = sum(int(fields[k]) for k in _USER_TO_STEAL) / os.sysconf("SC_CLK_TCK")
        return busy - sum(os.times()[:4]) - sum(map(_seconds, self._pids))


def _seconds(pid: int) -> float:
    """Return the CPU seconds of a process."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
