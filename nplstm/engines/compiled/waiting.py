"""Threads that wait for each other within compiled code: a barrier that costs less than a microsecond.

A thread that waits looks again and again; after a while it lets others have its core between two looks, so that a
busy machine makes progress.
"""

import os
from typing import Any

from nplstm.engines.compiled._numba import compiled, intrinsic, njit, types
from nplstm.engines.compiled.simd import place_of

__all__ = ["CAN_WAIT", "LINE", "PATIENCE", "announce", "comes", "exchange", "seen", "wait", "wait_for"]

CAN_WAIT = hasattr(os, "sched_yield")
"""Whether there is a way to let others have the core."""

LINE = 8
"""Counts stand a cache line apart, in 64-bit integers."""

_LOOKS = 2000

PATIENCE = 4000
"""Looks of a thread that has nothing to do before it sleeps, since to be woken takes long: about a millisecond,
and more on a busy machine, where others have the core between two looks.
"""

if CAN_WAIT:
    _yield = types.ExternalFunction("sched_yield", types.int32())
else:

    @njit
    def _yield() -> None:
        """Go on looking: this system has no such call, and a reference to it would not link."""


@intrinsic
def announce(typing: Any, progress: Any, place: Any, count: Any) -> Any:
    """Let other threads see a count, and all that was written before it."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = place_of(context, builder, progress, *values[:2])
        builder.store_atomic(values[2], place, ordering="seq_cst", align=8)
        return context.get_dummy_value()

    return types.void(progress, types.intp, types.int64), codegen


@intrinsic
def seen(typing: Any, progress: Any, place: Any) -> Any:
    """Return a count of another thread, after which all that it had written before is there."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(place_of(context, builder, progress, *values), ordering="seq_cst", align=8)

    return types.int64(progress, types.intp), codegen


@intrinsic
def exchange(typing: Any, progress: Any, place: Any, expected: Any, new: Any) -> Any:
    """Put ``new`` in the place of ``expected``; tell whether it was that."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = place_of(context, builder, progress, *values[:2])
        found = builder.cmpxchg(place, *values[2:], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(progress, types.intp, types.int64, types.int64), codegen


@compiled("void(int64[::1], int64, int64)")
def wait_for(progress: Any, member: Any, count: Any) -> None:
    """Wait until a member has come as far as ``count``."""
    looks = 0
    while seen(progress, member * LINE) < count:
        looks += 1
        if looks > _LOOKS:
            _yield()


@compiled("boolean(int64[::1], int64, int64, int64)")
def comes(progress: Any, place: Any, count: Any, looks: Any) -> Any:
    """Look so many times whether a count comes as far; tell whether it has."""
    for look in range(looks):
        if seen(progress, place) >= count:
            return True
        if look > _LOOKS:
            _yield()
    return False


@njit(nogil=True)
def wait(progress: Any, member: Any, members: Any, count: Any) -> None:
    """Say that this member has come as far as ``count``, and wait until all have."""
    announce(progress, member * LINE, count)
    for other in range(members):
        wait_for(progress, other, count)
