"""Exchange buffers and flags of persistent launches, one set for each stream.

Launches of one stream run one after the other, so they can share the memory. Flags only grow, from launch to
launch: a flag of an earlier launch is lower than all that this one waits for, and nothing has to be cleared.
"""

from threading import Lock
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.backends._cuda import Cuda
from nplstm.engines.cuda.addresses import cuda_of
from nplstm.errors import DeviceError

__all__ = ["ExchangeBuffers", "LaunchBuffers", "check_launches", "exchange_buffers_of"]

_LAST = 2**30
"""Flags start again from zero above this number: a 32-bit difference must not change its sign."""


class LaunchBuffers(NamedTuple):
    """Addresses of one launch's part of the buffers, by direction."""

    numbers: list[int]  # addresses
    flags: list[int]
    base: int  # lower than all flags of the launch, and not lower than any that is set
    status: int


class ExchangeBuffers:
    """Exchange buffers, flags and status word of one stream."""

    def __init__(self, cuda: Cuda) -> None:
        self.lock = Lock()  # held from reserving the flags of a launch until it is in the stream
        self._cuda = cuda
        self._numbers: Array | None = None
        self._flags: Array | None = None
        self._base = 0
        self._status = cuda.host_word()

    def check(self) -> None:
        """Raise if an earlier launch timed out."""
        step = int(self._status.value[0])
        if step:
            self._status.value[0] = 0
            raise DeviceError(
                f"persistent: a launch on this stream gave up waiting around step {step - 1}, and its results, "
                f"NaN from there on, must not be used: its blocks did not run at once, or one of them died; "
                f"nplstm.use_engines('fused', 'plain') runs without waiting"
            )

    def reserve(self, like: Array, directions: int, bytes_each: int, flags_each: int, steps: int) -> LaunchBuffers:
        """Return the memory for a launch of so many steps; the lock must be held."""
        xp, numbers, flags = namespace(like), self._numbers, self._flags
        if numbers is None or numbers.size < directions * bytes_each:
            numbers = self._numbers = xp.empty((directions * bytes_each,), dtype="uint8")
        if flags is None or flags.size < directions * flags_each or self._base > _LAST:
            flags, self._base = xp.zeros((directions * flags_each,), dtype="uint32"), 0
            self._flags = flags
        base = self._base
        self._base += steps + 2
        first_number, first_flag = self._cuda.address(numbers), self._cuda.address(flags)
        return LaunchBuffers(
            [first_number + k * bytes_each for k in range(directions)],
            [first_flag + 4 * k * flags_each for k in range(directions)],
            base,
            self._status.address,
        )


_STREAMS_KEPT = 32
"""Streams whose buffers are kept: a program may make a stream for every call."""

_buffers_by_stream: dict[tuple[Any, ...], ExchangeBuffers] = {}
_buffers_lock = Lock()


def exchange_buffers_of(array: Array) -> ExchangeBuffers:
    """Return the buffers of the current stream."""
    cuda = cuda_of(array)
    key = (id(cuda), *cuda.stream())
    with _buffers_lock:
        buffers = _buffers_by_stream.pop(key, None) or ExchangeBuffers(cuda)
        _buffers_by_stream[key] = buffers  # the most recently used are last
        while len(_buffers_by_stream) > _STREAMS_KEPT:
            del _buffers_by_stream[next(iter(_buffers_by_stream))]
        return buffers


def check_launches(array: Array) -> None:
    """Raise if a launch on the current stream timed out: the arrays that are read next may be its results."""
    cuda = cuda_of(array)
    buffers = _buffers_by_stream.get((id(cuda), *cuda.stream()))
    if buffers is not None:
        buffers.check()
