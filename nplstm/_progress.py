"""A bar while a user waits at a terminal, in programs that have to run without tqdm too."""

import sys
from importlib import import_module
from typing import Any

__all__ = ["terminal_bar"]


def terminal_bar(waiting: str) -> Any | None:
    """Return tqdm's bar, or None where nobody looks, or where it is not installed: then a line is written."""
    if not sys.stderr.isatty():
        return None
    try:
        return import_module("tqdm").tqdm
    except ImportError:
        sys.stderr.write(waiting + "\n")
        return None
