"""The number of CPUs that this process may use: in a container or under ``taskset`` fewer than the machine has.

OpenBLAS respects the affinity, but not quotas: with a quota of 2 out of 64 CPUs it starts 64 threads,
which use up the quota at once and then all wait.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # its import would take a third of the first call of an engine
    from pathlib import Path

__all__ = ["Cpus", "find_cpus", "find_quota", "usable"]

CGROUPS = "/sys/fs/cgroup"
MEMBERSHIPS = "/proc/self/cgroup"

# version 2 has both numbers in one file; version 1 has two, and is found in some containers still
_QUOTA_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


@dataclass(frozen=True)
class Cpus:
    """Affinity and quota of the process."""

    affinity: int
    """CPUs that this process may run on."""
    quota: float | None
    """CPU seconds per second that its control groups allow; None: no limit, or no control groups."""
    usable: int
    """Threads that can run at the same time: the smaller of the two."""


def find_cpus() -> Cpus:
    """Ask the operating system."""
    get_affinity: Callable[[int], Any] | None = getattr(os, "sched_getaffinity", None)  # not on macOS, Windows
    affinity = len(get_affinity(0)) if get_affinity else os.cpu_count() or 1
    try:
        quota = find_quota(_read(MEMBERSHIPS), CGROUPS)
    except OSError:
        quota = None
    return Cpus(affinity, quota, usable(affinity, quota))


def usable(affinity: int, quota: float | None) -> int:
    """Return the number of threads that use the whole affinity and quota, rounded up.

    >>> usable(64, None), usable(64, 2.5), usable(64, 0.5), usable(2, 8.0)
    (64, 3, 1, 2)
    """
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def find_quota(memberships: str, root: "str | Path") -> float | None:
    """Return the smallest quota, in CPUs, among the control groups of a process and the groups that hold them.

    Parameters
    ----------
    memberships : str
        Content of ``/proc/self/cgroup``: lines ``number:controllers:path``.
    root : str or Path
        Where control groups are mounted.
    """
    quotas = [quota for folder in _groups(memberships, root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _groups(memberships: str, root: "str | Path") -> Iterator[str]:
    for line in memberships.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path or (controllers and "cpu" not in controllers.split(",")):
            continue
        top = f"{root}/cpu" if controllers else str(root)
        # in a container the path may be the host's, of which only the last part is visible, as the root
        group = path.strip("/")
        while group:
            yield f"{top}/{group}"
            group = group.rpartition("/")[0]
        yield top


def _quota_of(folder: str) -> float | None:
    for names in _QUOTA_FILES:
        try:
            quota, period = " ".join(_read(f"{folder}/{name}") for name in names).split()
            return None if quota in ("max", "-1") else int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None


def _read(file: str) -> str:
    with open(file, encoding="utf-8") as stream:  # noqa: PTH123
        return stream.read()
