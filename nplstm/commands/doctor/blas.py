"""Which BLAS NumPy uses, and what that library says of itself.

OpenBLAS is asked at run time, since it chooses its kernels and threads when it is loaded. Of other libraries there
is what NumPy was built with; the rest is None, "unknown" in the report.
"""

import ctypes
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nplstm.engines.blas import find_function, libraries

OPENBLAS = "OpenBLAS"

_THREADING = {0: "none", 1: "pthreads", 2: "OpenMP"}


@dataclass(frozen=True)
class Blas:
    """The library behind ``np.dot``; None is what could not be found out."""

    name: str
    version: str | None = None
    file: str | None = None
    kernels: str | None = None
    """The processor whose kernels it runs: "Haswell" has AVX2, "SkylakeX" AVX-512."""
    threads: int | None = None
    threading: str | None = None
    """What makes the threads: "pthreads", "OpenMP" or "none"."""
    configuration: str | None = None


class _OpenBlas:
    """The functions of a loaded OpenBLAS."""

    def __init__(self, library: Any) -> None:
        """Look them up; AttributeError where the library is no OpenBLAS."""
        self.get_config = find_function(library, "openblas_get_config", ctypes.c_char_p)
        self.get_corename = find_function(library, "openblas_get_corename", ctypes.c_char_p)
        self.get_parallel = find_function(library, "openblas_get_parallel", ctypes.c_int)
        self.get_num_threads = find_function(library, "openblas_get_num_threads", ctypes.c_int)
        self.set_num_threads = find_function(library, "openblas_set_num_threads", None)


def find_blas() -> Blas:
    """Ask the library that NumPy has loaded, or else what NumPy says it was built with."""
    library = _openblas()
    if library is None:
        config: Any = np.show_config(mode="dicts")
        build = config.get("Build Dependencies", {}).get("blas", {})
        return Blas(build.get("name") or "unknown", build.get("version"))
    words: list[str] = library.get_config().decode().split()
    return Blas(
        OPENBLAS,
        version=words[1] if words[1:] and words[0] == OPENBLAS else None,
        file=_file_of(library.get_config),
        kernels=library.get_corename().decode(),
        threads=library.get_num_threads(),
        threading=_THREADING.get(library.get_parallel()),
        configuration=" ".join(words),
    )


@contextmanager
def thread_limit(count: int | None) -> Generator[None]:
    """Let OpenBLAS use that many threads for a while. With None, or another library, nothing is changed."""
    library = _openblas()
    if library is None or count is None:
        yield
        return
    before: int = library.get_num_threads()
    library.set_num_threads(count)
    try:
        yield
    finally:
        library.set_num_threads(before)


@cache
def _openblas() -> _OpenBlas | None:
    for path in libraries():
        try:
            return _OpenBlas(ctypes.CDLL(str(path)))
        except (OSError, AttributeError):
            continue
    return None


class _Place(ctypes.Structure):
    """C's Dl_info: where an address was loaded from."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _file_of(function: Any) -> str | None:
    """Return the file that a C function is from, where the system can tell."""
    try:
        dladdr: Any = ctypes.CDLL(None).dladdr
    except (AttributeError, OSError, TypeError):  # on Windows
        return None
    place = _Place()
    found = dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(place))
    return str(Path(place.file.decode()).resolve()) if found and place.file else None
