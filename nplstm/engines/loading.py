"""Imports that are put off until an engine is needed, and that a fork of the process waits for."""

import os
from functools import cache
from importlib import import_module
from threading import RLock
from typing import Any

__all__ = ["load"]

_loading = RLock()
"""Held while a process forks: its child would wait for ever for an import that another thread had begun."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release)


@cache
def load(package: str, *modules: str) -> tuple[Any, ...]:
    """Import modules of a package, and what every engine for NumPy arrays needs beside its own; return them."""
    with _loading:
        import_module("nplstm.engines.cpus")
        return tuple(import_module(f"{package}.{module}") for module in modules)
