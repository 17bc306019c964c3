"""Threads that wait in compiled code for calls of kernels, and who gives them some.

``mail`` has three cache lines for each worker, so that two never write to the same one:

- given: how many calls it was given, then kernel and operands of the last, by their addresses;
- done: how many of them are over;
- state: WAITING for a call; TAKEN by who is about to give it one; ASLEEP; or CALLED, taken in its sleep, so that
  Python has to wake it.

A worker falls asleep, and who has calls takes it, by exchanging the state: whoever is first wins. The first line
of all has the token of who is giving calls, one at a time; who finds another's there does without.
"""

from typing import Any

from nplstm.engines.compiled._numba import compiled, njit
from nplstm.engines.compiled.calls import call
from nplstm.engines.compiled.waiting import LINE, announce, comes, exchange, seen, wait_for

__all__ = ["BUSY", "DONE", "SOME_ASLEEP", "has_to_be_woken", "let_go", "mail_size", "run_calls", "serve"]

BUSY, SOME_ASLEEP, DONE = range(3)
"""What may come of calls."""

_LINES = 3
"""Of ``mail`` for each worker."""

_ASLEEP, _WAITING, _TAKEN, _CALLED = range(4)
_GIVEN, _DONE, _STATE = range(_LINES)


@njit(nogil=True)
def _line(worker: Any, which: Any) -> Any:
    return (1 + worker * _LINES + which) * LINE


def mail_size(workers: int) -> int:
    """Return how many numbers ``mail`` has for so many workers."""
    return (1 + workers * _LINES) * LINE


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


@compiled("int64(int64[::1], int64[:, ::1], int64, boolean)")
def run_calls(mail: Any, calls: Any, token: Any, woken: Any) -> Any:
    """Run all calls side by side, the first here; say what came of it.

    ``calls`` (n, 2) has kernel and operands by their addresses. BUSY: another token is there, nothing was done.
    SOME_ASLEEP: all workers are taken, but nothing has run, and there is someone to be woken first; the same again
    with ``woken`` runs the calls.
    """
    n = len(calls) - 1
    if not woken and not exchange(mail, 0, 0, token):
        return BUSY
    ready = True
    for worker in range(n):
        state = _line(worker, _STATE)
        if not exchange(mail, state, _WAITING, _TAKEN):
            exchange(mail, state, _ASLEEP, _CALLED)
            ready = ready and seen(mail, state) != _CALLED
    if not (ready or woken):
        return SOME_ASLEEP
    for worker in range(n):
        given = _line(worker, _GIVEN)
        mail[given + 1], mail[given + 2] = calls[worker + 1, 0], calls[worker + 1, 1]
        announce(mail, given, mail[given] + 1)
    call(calls[0, 0], calls[0, 1])
    for worker in range(n):
        wait_for(mail, _line(worker, _DONE) // LINE, mail[_line(worker, _GIVEN)])
    announce(mail, 0, 0)
    return DONE


@compiled("boolean(int64[::1], int64)")
def has_to_be_woken(mail: Any, worker: Any) -> Any:
    """Tell whether a worker was taken in its sleep."""
    return seen(mail, _line(worker, _STATE)) == _CALLED


@compiled("void(int64[::1], int64, int64)")
def let_go(mail: Any, workers: Any, token: Any) -> None:
    """Leave so many workers as they were before they were taken, if it was with this token."""
    if seen(mail, 0) != token:
        return
    for worker in range(workers):
        exchange(mail, _line(worker, _STATE), _TAKEN, _WAITING)
        exchange(mail, _line(worker, _STATE), _CALLED, _ASLEEP)
    announce(mail, 0, 0)
