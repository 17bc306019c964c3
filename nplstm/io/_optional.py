"""The packages that read and write one format, loaded when there is such a file."""

from importlib import import_module
from typing import Any

from nplstm.errors import MissingDependencyError

__all__ = ["optional"]


def optional(module: str, *, extra: str, files: str) -> Any:
    """Return a module of a package that is not always there; what it has is not typed.

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
