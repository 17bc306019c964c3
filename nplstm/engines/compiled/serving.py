"""Threads that wait in compiled code for calls of kernels, and who gives them some.

``mail`` has three cache lines for each worker, so that two never write to the same one:

- given: how many calls it was given, then kernel and operands of the last, by their addresses;
- done: how many of them are over;
- state: ASLEEP, where it has to be woken by Python; WAITING for a call; or TAKEN by who is about to give it one.

A worker falls asleep, and who has calls takes it, by one exchange of the state: whoever is first wins.
"""

from typing import Any

from nplstm.engines.compiled._numba import compiled
from nplstm.engines.compiled.calls import call
from nplstm.engines.compiled.waiting import LINE, announce, comes, exchange, wait_for

__all__ = ["LINES", "awake", "run_calls", "serve"]

LINES = 3
"""Of ``mail`` for each worker."""

_ASLEEP, _WAITING, _TAKEN = 0, 1, 2
_GIVEN, _DONE, _STATE = range(LINES)


@compiled("void(int64[::1], int64, int64)")
def serve(mail: Any, worker: Any, looks: Any) -> None:
    """Take up one call after the other, until none has come for some looks."""
    given, done, state = (worker * LINES + _GIVEN) * LINE, (worker * LINES + _DONE) * LINE, worker * LINES + _STATE
    announce(mail, state * LINE, _WAITING)
    while True:
        count = mail[done] + 1
        if not comes(mail, given, count, looks):
            if exchange(mail, state * LINE, _WAITING, _ASLEEP):
                return
            continue
        call(mail[given + 1], mail[given + 2])
        announce(mail, state * LINE, _WAITING)
        announce(mail, done, count)


@compiled("boolean(int64[::1], int64[:, ::1])")
def run_calls(mail: Any, calls: Any) -> Any:
    """Run all calls side by side, the first here; False, with nothing done, if someone has to be woken first.

    ``calls`` (n, 2) has kernel and operands by their addresses.
    """
    n = len(calls) - 1
    for worker in range(n):
        if not exchange(mail, (worker * LINES + _STATE) * LINE, _WAITING, _TAKEN):
            for taken in range(worker):
                announce(mail, (taken * LINES + _STATE) * LINE, _WAITING)
            return False
    for worker in range(n):
        given = (worker * LINES + _GIVEN) * LINE
        mail[given + 1], mail[given + 2] = calls[worker + 1, 0], calls[worker + 1, 1]
        announce(mail, given, mail[given] + 1)
    call(calls[0, 0], calls[0, 1])
    for worker in range(n):
        wait_for(mail, worker * LINES + _DONE, mail[(worker * LINES + _GIVEN) * LINE])
    return True


@compiled("boolean(int64[::1], int64, int64)")
def awake(mail: Any, worker: Any, looks: Any) -> Any:
    """Tell whether a worker waits for calls, at the last of so many looks."""
    return comes(mail, (worker * LINES + _STATE) * LINE, _WAITING, looks)
