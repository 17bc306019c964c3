"""Control of the number of threads of NumPy's BLAS.

The library's own functions are found through NumPy's extension module: on Linux and macOS a symbol is looked up
in the libraries that a module is linked to, too.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from threading import Lock, local
from typing import Any, NamedTuple

import numpy as np

from nplstm.engines.threads import get_num_threads

__all__ = ["BlasLimit", "BlasThreads", "find_blas_threads", "limited_blas"]

# OpenBLAS's functions carry affixes where it is built for NumPy's wheels, or with 64-bit indices
_AFFIXES = [(prefix, suffix) for prefix in ("scipy_", "") for suffix in ("64_", "_64", "")]

_NAMES = (
    ("flexiblas_get_num_threads", "flexiblas_set_num_threads"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
)
"""Of FlexiBLAS, which stands before another library, OpenBLAS, MKL and BLIS. Accelerate has no such functions."""

WORTH_THREADS = 1_500_000
"""Multiplications of a step from which BLAS may use several threads.

Below, several are at best a tenth faster on an idle machine, and many times slower where other programs keep its
CPUs busy: a thread that waits for another's part of a product waits for a CPU. Decision 14 has the measurements.
"""

_UNTHREADED_WEIGHTS, _UNTHREADED = 9216, 262144
"""OpenBLAS takes one thread by itself below so many weights (one row), and so many multiplications (several)."""

_OPENMP = 2  # result of openblas_get_parallel where it uses OpenMP


class BlasThreads(NamedTuple):
    """Functions of a BLAS that get and set its number of threads."""

    get: Callable[[], int]
    set: Callable[[int], object]
    per_thread: bool = False
    """Whether each thread that calls BLAS has a number of its own."""


def libraries() -> Iterator[Path]:
    """Yield NumPy's extension module, which is linked to its BLAS, and the BLAS libraries of its wheels.

    On Windows a module does not have the symbols of the libraries it is linked to; there the wheel's are used.
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
            library = ctypes.PyDLL(str(path))  # keeps the GIL: these calls are short
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
    """Limits the threads of BLAS while calls run, possibly of several Python threads.

    The number belongs to the process: while calls overlap, it is the largest of their limits. After the last call
    it is restored, unless other code has changed it meanwhile.

    Parameters
    ----------
    blas : BlasThreads
    """

    def __init__(self, blas: BlasThreads) -> None:
        self._blas = blas
        self._lock = Lock()
        self.contexts = cache(partial(_LimitContext, self))
        self._state: _LimitState = _ThreadLocalState() if blas.per_thread else _LimitState()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_calls)

    def enter(self, threads: int) -> None:
        """Begin a call that may have so many threads."""
        state = self._state
        state.calls.append(threads)  # lists have locks of their own
        if state.limit or self._blas.get() > threads:
            with self._lock:
                self._update(state)

    def leave(self, threads: int) -> None:
        """End such a call."""
        state = self._state
        state.calls.remove(threads)
        if state.limit:
            with self._lock:
                self._update(state)

    def _update(self, state: "_LimitState") -> None:
        now = self._blas.get()
        own = state.own if now == state.limit else now
        limit = min(own, max(state.calls)) if state.calls else own
        if limit != now:
            self._blas.set(limit)
        state.own, state.limit = own, limit if limit != own else 0

    def _forget_calls(self) -> None:
        """End the calls of the parent's other threads, which a forked process does not have."""
        self._lock = Lock()  # one of them may have held it
        if self._state.calls:
            self._state.calls.clear()
            self._update(self._state)


class _LimitState:
    """Limits of the running calls, and BLAS's number of threads: of the process, or of a thread."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.own = 0
        """BLAS's number without calls."""
        self.limit = 0
        """The number that was set instead; 0: none."""


class _ThreadLocalState(local, _LimitState):
    """One for each thread: ``__init__`` runs in each."""


class _LimitContext:
    """Context manager of a call with a limit."""

    def __init__(self, limit: BlasLimit, threads: int) -> None:
        self._limit, self._threads = limit, threads

    def __enter__(self) -> None:
        self._limit.enter(self._threads)

    def __exit__(self, *_: object) -> None:
        self._limit.leave(self._threads)


_UNLIMITED = nullcontext()


@cache
def _limit() -> BlasLimit | None:
    blas = find_blas_threads()
    return None if blas is None else BlasLimit(blas)


def limited_blas(rows: int, sequences: int, weights: int) -> AbstractContextManager[None]:
    """Keep BLAS to ``get_num_threads()`` threads within the context, and to one where products are small.

    Parameters
    ----------
    rows : int
        Over how many rows a call goes, all steps together.
    sequences : int
        Over how many a step goes.
    weights : int
        How many numbers a row is multiplied with.
    """
    most = get_num_threads()
    limit = _limit()
    unthreaded = weights < _UNTHREADED_WEIGHTS and rows * weights < _UNTHREADED
    if limit is None or unthreaded:
        return _UNLIMITED
    return limit.contexts(most if sequences * weights >= WORTH_THREADS else 1)
