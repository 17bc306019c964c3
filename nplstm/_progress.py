"""Progress bar at a terminal, for commands that also work without tqdm."""

import sys
from importlib import import_module
from typing import Any

__all__ = ["terminal_bar"]


def terminal_bar(waiting: str) -> Any | None:
    """Return tqdm's class; None if stderr is no terminal; without tqdm None, and write ``waiting`` to it."""
    if not sys.stderr.isatty():
        return None
    try:
        return import_module("tqdm").tqdm
    except ImportError:
        sys.stderr.write(waiting + "\n")
        return None
