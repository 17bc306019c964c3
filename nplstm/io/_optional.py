"""Optional packages, each of which one file format needs, imported when such a file is read or written."""

from importlib import import_module
from typing import Any

from nplstm.errors import MissingDependencyError

__all__ = ["optional"]


def optional(module: str, *, extra: str, files: str) -> Any:
    """Return a module of an optional package, typed ``Any``.

    Raises
    ------
    MissingDependencyError
        If it is not installed; the message names the package, the files that need it, and how to get it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{package} is not installed, and {files} files need it: pip install 'nplstm[{extra}]'"
        ) from error
