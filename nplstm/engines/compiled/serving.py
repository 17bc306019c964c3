"""Threads that wait in compiled code for calls of kernels, and who gives them some.

``mail`` has three cache lines for each worker, so that two never write to the same one:

- given: how many calls it was given, then kernel and operands of the last, by their addresses;
- done: how many of them are over;
- state: WAITING for a call; TAKEN by who is about to give it one; ASLEEP; or CALLED, taken in its sleep, so that
  Python has to wake it.

A worker falls asleep, and who has calls takes it, by exchanging the state: whoever is first wins. One thread at a
time gives calls.
"""

from typing import Any

from nplstm.engines.compiled._numba import compiled, njit
from nplstm.engines.compiled.calls import call
from nplstm.engines.compiled.waiting import LINE, announce, comes, exchange, seen, wait_for

__all__ = ["LINES", "has_to_be_woken", "let_go", "run_calls", "serve"]

LINES = 3
"""Of ``mail`` for each worker."""

_ASLEEP, _WAITING, _TAKEN, _CALLED = range(4)
_GIVEN, _DONE, _STATE = range(LINES)


@njit(nogil=True)
def _line(worker: Any, which: Any) -> Any:
    return (worker * LINES + which) * LINE


@compiled("void(int64[::1], int64, int64)")
def serve(mail: Any, worker: Any, looks: Any) -> None:
    """Take up one call after the other, until none has come for some looks."""
    given, done, state = _line(worker, _GIVEN), _line(worker, _DONE), _line(worker, _STATE)
    exchange(mail, state, _ASLEEP, _WAITING)
    while True:
        count = mail[done] + 1
        if comes(mail, given, count, looks):
            call(mail[given + 1], mail[given + 2])
            announce(mail, state, _WAITING)
            announce(mail, done, count)
        elif exchange(mail, state, _WAITING, _ASLEEP) or seen(mail, state) == _ASLEEP:
            return


@compiled("boolean(int64[::1], int64[:, ::1], boolean)")
def run_calls(mail: Any, calls: Any, woken: Any) -> Any:
    """Run all calls side by side, the first here.

    ``calls`` (n, 2) has kernel and operands by their addresses. Unless all have been ``woken``, False says that
    there is someone to be woken first, and that nothing has run; all are taken.
    """
    n = len(calls) - 1
    ready = True
    for worker in range(n):
        state = _line(worker, _STATE)
        if not exchange(mail, state, _WAITING, _TAKEN):
            exchange(mail, state, _ASLEEP, _CALLED)
            ready = ready and seen(mail, state) != _CALLED
    if not (ready or woken):
        return False
    for worker in range(n):
        given = _line(worker, _GIVEN)
        mail[given + 1], mail[given + 2] = calls[worker + 1, 0], calls[worker + 1, 1]
        announce(mail, given, mail[given] + 1)
    call(calls[0, 0], calls[0, 1])
    for worker in range(n):
        wait_for(mail, worker * LINES + _DONE, mail[_line(worker, _GIVEN)])
    return True


@compiled("boolean(int64[::1], int64)")
def has_to_be_woken(mail: Any, worker: Any) -> Any:
    """Tell whether a worker was taken in its sleep."""
    return seen(mail, _line(worker, _STATE)) == _CALLED


@compiled("void(int64[::1], int64)")
def let_go(mail: Any, workers: Any) -> None:
    """Leave so many workers, if they were taken, as they were."""
    for worker in range(workers):
        state = _line(worker, _STATE)
        exchange(mail, state, _TAKEN, _WAITING)
        exchange(mail, state, _CALLED, _ASLEEP)
