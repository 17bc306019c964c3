"""How many threads the compiled engine uses."""

import os

from nplstm._shapes import check_size

__all__ = ["get_num_threads", "set_num_threads"]


def _default() -> int:
    given = os.environ.get("NPLSTM_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads = _default()


def set_num_threads(threads: int) -> None:
    """Let the compiled engine use so many threads; results do not depend on it.

    NumPy's own threads, which its matrix products use, are the business of its BLAS: OPENBLAS_NUM_THREADS.
    By default as many as the process has CPUs, or NPLSTM_NUM_THREADS. A stream keeps the number that there was
    when it was made. Where other programs keep the CPUs busy, one thread may be faster than several.

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
    """Return how many threads the compiled engine uses.

    Examples
    --------
    >>> import nplstm
    >>> nplstm.get_num_threads() >= 1
    True
    """
    return _threads
