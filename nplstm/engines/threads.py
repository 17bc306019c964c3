"""The number of threads of the engines for NumPy arrays."""

import os
from collections.abc import Mapping

from nplstm._shapes import check_size
from nplstm.errors import ArgumentError

__all__ = ["default_num_threads", "get_num_threads", "set_num_threads"]

_OURS = "NPLSTM_NUM_THREADS"

_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables that limit the threads of a matrix product in other libraries, and so those of ours.

Programs that start many processes (joblib, Dask, torchrun) set some or all of them, so that each process keeps to
its share. NUMEXPR_NUM_THREADS and NUMBA_NUM_THREADS are about other work: they are set together with these, or for
that work alone.
"""

_threads: int | None = None
"""None until it is set or read."""


def default_num_threads(environment: Mapping[str, str], cpus: int) -> int:
    """Return the number of threads without a call of ``set_num_threads``.

    Parameters
    ----------
    environment : mapping
        The variables of the process.
    cpus : int
        How many CPUs it may use.

    Raises
    ------
    ArgumentError
        If NPLSTM_NUM_THREADS is not an integer of at least 1.
    """
    ours = environment.get(_OURS, "").strip()
    if ours:
        if _number(ours) is None:
            raise ArgumentError(f"{_OURS}: expected an integer >= 1, got {ours!r}")
        return check_size(_OURS, int(ours))
    limits = (_number(environment.get(name, "").partition(",")[0].strip()) for name in _LIMITS)
    return min([cpus, *(limit for limit in limits if limit is not None)])


def _number(text: str) -> int | None:
    """Return a positive integer in plain digits, else None."""
    plain = text.isascii() and text.isdecimal() and len(text) < 20
    return int(text) or None if plain else None


def set_num_threads(threads: int) -> None:
    """Set the number of threads of the compiled engine, and of NumPy's products in the NumPy engine.

    The results of the compiled engine do not depend on it. While the NumPy engine runs, BLAS is kept to this
    number where its own is larger, and to one thread for small products; a number above BLAS's own changes nothing
    there. The plain engine leaves BLAS as it is.

    By default it is the least of the CPUs that the process may run on, the quota of its control groups (rounded
    up), and the variables OMP_NUM_THREADS, OPENBLAS_NUM_THREADS, MKL_NUM_THREADS, BLIS_NUM_THREADS and
    VECLIB_MAXIMUM_THREADS. NPLSTM_NUM_THREADS overrides all of these. They are read once, when the number is
    first needed.

    A stream of the compiled engine keeps the number of the time when it was made. Where other programs keep the
    CPUs busy, one thread may be faster than several.

    Raises
    ------
    ArgumentError
        If it is not an integer of at least 1.

    Examples
    --------
    >>> import nplstm
    >>> before = nplstm.get_num_threads()
    >>> nplstm.set_num_threads(1)
    >>> nplstm.get_num_threads()
    1
    >>> nplstm.set_num_threads(before)
    """
    global _threads  # noqa: PLW0603  the one setting of the process, as in torch
    _threads = check_size("threads", threads)


def get_num_threads() -> int:
    """Return how many threads the compiled engine, and NumPy's products in the NumPy engine, may use.

    Raises
    ------
    ArgumentError
        If it has not been set, and the variable NPLSTM_NUM_THREADS is not an integer of at least 1.

    Examples
    --------
    >>> import nplstm
    >>> nplstm.get_num_threads() >= 1
    True
    """
    global _threads  # noqa: PLW0603  see set_num_threads
    if _threads is None:
        from nplstm.engines.cpus import find_cpus

        found = default_num_threads(os.environ, find_cpus().usable)
        _threads = _threads or found  # another thread may have set it meanwhile
    return _threads
