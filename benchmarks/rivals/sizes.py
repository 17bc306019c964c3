"""How much room the installed packages take on the disk."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .measure import summary
from .worker import RIVALS

__all__ = ["measure_sizes", "size_of"]

_SHARED = {".so", ".dll", ".dylib", ".pyd"}


def measure_sizes(libraries: Sequence[str]) -> list[dict[str, Any]]:
    """Return two records, in bytes: each package's folder, and the compiled libraries in it."""
    folders = {name: _folder(name if name in RIVALS else "nplstm") for name in libraries}
    sizes = {name: size_of(folder) for name, folder in folders.items()}
    labels = ("the package's folder, without the packages it needs", "the compiled libraries in it")
    return [
        {
            "group": "size",
            "task": "installed size",
            "label": label,
            "unit": "B",
            "values": {name: summary([float(found[k])]) for name, found in sizes.items() if found[k]},
        }
        for k, label in enumerate(labels)
    ]


def size_of(folder: Path) -> tuple[int, int]:
    """Return the bytes of a folder's files, without Python's caches, and of the shared libraries among them."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    sizes = [(path.stat().st_size, bool(_SHARED & set(path.suffixes))) for path in files]
    return sum(size for size, _ in sizes), sum(size for size, shared in sizes if shared)


def _folder(package: str) -> Path:
    (location,) = importlib.util.find_spec(package).submodule_search_locations
    return Path(location)
