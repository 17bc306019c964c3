"""How much memory a run needs, asked of the system: no library is trusted with counting its own."""

import ctypes
import re
import resource
import sys
from pathlib import Path

__all__ = ["Peak"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class Peak:
    """By how many bytes a ``with`` block raises the resident memory at its peak above that before it."""

    risen: int

    def __enter__(self) -> "Peak":
        if sys.platform == "linux":
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # what is free already would be used unseen
            _CLEAR.write_text(_RESET_PEAK)
        self._before = _status("VmRSS") if sys.platform == "linux" else _highest()
        return self

    def __exit__(self, *_: object) -> None:
        after = _status("VmHWM") if sys.platform == "linux" else _highest()
        self.risen = max(0, after - self._before)


def _status(name: str) -> int:
    return int(re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)[1]) * 1024


def _highest() -> int:
    """Return the highest of all time, which is all that other systems tell; macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
