"""Lazy imports of an engine's modules, safe with fork."""

import os
from functools import cache
from importlib import import_module
from threading import RLock
from typing import Any

__all__ = ["load"]

_loading = RLock()
"""Held while a process forks: otherwise its child could wait for ever for an import of another thread."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release)


@cache
def load(package: str, *modules: str) -> tuple[Any, ...]:
    """Import and return modules of a package; also import ``cpus``, which every engine for NumPy arrays needs."""
    with _loading:
        import_module("nplstm.engines.cpus")
        return tuple(import_module(f"{package}.{module}") for module in modules)
