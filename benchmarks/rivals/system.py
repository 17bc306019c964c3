"""Peak memory of a process, and CPU time that other programs use, as the system tells them."""

import ctypes
import os
import re
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

QUIET = 0.1
"""Cores that other programs may be using while figures still count."""

_USER_TO_STEAL = [0, 1, 2, 5, 6, 7]  # all but idle and iowait


class PeakMemory:
    """By how many bytes a ``with`` block raises the resident memory at its peak above that before it.

    The system is asked: no library is trusted with counting its own.
    """

    risen: int

    def __enter__(self) -> "PeakMemory":
        if sys.platform == "linux":
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # what is free already would be used unseen
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self._before = _status("VmRSS") if sys.platform == "linux" else _highest()
        return self

    def __exit__(self, *_: object) -> None:
        after = _status("VmHWM") if sys.platform == "linux" else _highest()
        self.risen = max(0, after - self._before)


def _status(name: str) -> int:
    return int(re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024


def _highest() -> int:
    """Return the highest of all time, which is all that other systems tell; macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class OtherPrograms:
    """Counts from now on what CPUs do for others than this process and some that it started.

    Threads that wait for each other at each step of an LSTM are slowed down out of all proportion by another
    program on their cores: torch's training was seen to take 500 times as long. Such figures say nothing about a
    library.
    """

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
