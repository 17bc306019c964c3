"""The threads of the BLAS that NumPy has loaded, and how a call keeps to fewer of them.

The library is asked by its own functions, which are found through NumPy's extension module: on Linux and macOS a
symbol is looked for in what a module is linked to, too.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from threading import Lock, local
from types import SimpleNamespace
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from nplstm.engines.threads import get_num_threads

__all__ = ["BlasLimit", "BlasThreads", "find_blas_threads", "find_function", "libraries", "limits_blas"]

P = ParamSpec("P")
R = TypeVar("R")

# OpenBLAS's functions carry affixes where it is built for NumPy's wheels, or with 64-bit indices
_AFFIXES = [(prefix, suffix) for prefix in ("scipy_", "") for suffix in ("64_", "_64", "")]

_NAMES = (
    ("flexiblas_get_num_threads", "flexiblas_set_num_threads"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
)
"""Of FlexiBLAS, which stands before another library, OpenBLAS, MKL and BLIS. Accelerate has no such functions."""

_OPENMP = 2  # what openblas_get_parallel answers where OpenMP makes the threads


class BlasThreads(NamedTuple):
    """How a BLAS is asked for its number of threads, and told one."""

    get: Callable[[], int]
    set: Callable[[int], object]
    per_thread: bool = False
    """Whether each thread that calls BLAS has a number of its own."""


def libraries() -> Iterator[Path]:
    """Name NumPy's extension module, through which the BLAS it is linked to answers, and what its wheels bring.

    On Windows a module does not answer for what it is linked to, so there the wheel's library is asked itself.
    """
    package = Path(np.__file__).parent
    yield Path(import_module("numpy._core._multiarray_umath").__file__ or "")
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        yield from sorted(folder.glob("*openblas*"))


def find_function(library: Any, name: str, result: Any) -> Any:
    """Return a function of OpenBLAS, or one without affixes; AttributeError where there is none."""
    for prefix, suffix in _AFFIXES:
        function: Any = getattr(library, f"{prefix}{name}{suffix}", None)
        if function is not None:
            function.restype = result
            return function
    raise AttributeError(name)


@cache
def find_blas_threads() -> BlasThreads | None:
    """Return the functions of NumPy's BLAS; None where it has none that are known."""
    for path in libraries():
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for names in _NAMES:
            try:
                return _threads_of(library, *names)
            except AttributeError:
                continue
    return None


def _threads_of(library: Any, getter: str, setter: str) -> BlasThreads:
    per_thread = (
        getter.startswith("openblas")
        and find_function(library, "openblas_get_parallel", ctypes.c_int)() == _OPENMP
    )
    if per_thread:
        # OpenBLAS takes the number that OpenMP has for the thread that calls
        getter, setter = "omp_get_max_threads", "omp_set_num_threads"
    get, put = find_function(library, getter, ctypes.c_int), find_function(library, setter, None)
    return BlasThreads(get, put, per_thread)


class BlasLimit:
    """A context in which BLAS has at most ``get_num_threads()`` threads; it may be entered by several threads.

    The number belongs to the process. The first call that needs it smaller sets it, and the last one to end sets
    it back, unless someone else has changed it meanwhile.

    Parameters
    ----------
    blas : BlasThreads
    """

    def __init__(self, blas: BlasThreads) -> None:
        self._blas = blas
        self._lock = Lock()
        self._state: Any = _Local() if blas.per_thread else SimpleNamespace(calls=0, own=0, limit=0)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_calls)

    @property
    def needed(self) -> bool:
        """Whether a call that starts now has to enter."""
        # in this order: a number that another call has lowered is seen together with that call
        enough = self._blas.get() <= get_num_threads()
        return not enough or self._state.calls > 0

    def __enter__(self) -> None:
        """Lower the number where it is too large."""
        threads, state = get_num_threads(), self._state
        with self._lock:
            now = self._blas.get()
            own = state.own if now == state.limit else now
            limit = min(threads, own)
            if limit != now:
                state.own, state.limit = own, limit
                self._blas.set(limit)
            state.calls += 1

    def __exit__(self, *_: object) -> None:
        """Set it back after the last call."""
        state = self._state
        with self._lock:
            state.calls -= 1
            if state.calls == 0 and state.limit:
                self._restore()

    def _restore(self) -> None:
        state = self._state
        if self._blas.get() == state.limit:
            self._blas.set(state.own)
        state.limit = 0

    def _forget_calls(self) -> None:
        """End the calls of the parent's other threads, which a forked process does not have."""
        self._lock = Lock()  # one of them may have held it
        if self._state.calls:
            self._state.calls = 0
            self._restore()


class _Local(local):
    calls = own = limit = 0


@cache
def _limit() -> BlasLimit | None:
    blas = find_blas_threads()
    return None if blas is None else BlasLimit(blas)


def limits_blas(function: Callable[P, R]) -> Callable[P, R]:
    """Let BLAS have at most ``get_num_threads()`` threads while the function runs."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        limit = _limit()
        if limit is None or not limit.needed:
            return function(*args, **kwargs)
        with limit:
            return function(*args, **kwargs)

    return limited
