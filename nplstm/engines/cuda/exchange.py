"""What the blocks of a persistent launch tell each other by: one buffer for each stream.

Launches of one stream come one after the other, so they can share it. Flags only grow, from launch to launch: a
flag that an earlier one left behind says less than any that this one waits for, and nothing has to be cleared in
between.
"""

from threading import Lock
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.backends._cuda import Cuda
from nplstm.engines.cuda.addresses import cuda_of
from nplstm.errors import DeviceError

__all__ = ["Board", "Posts", "board_of", "check_launches"]

_LAST = 2**30
"""Flags start over from zero before they come near to where a 32-bit difference changes its sign."""


class Posts(NamedTuple):
    """What one launch is given of a board: by lane."""

    numbers: list[int]  # addresses
    flags: list[int]
    base: int  # below every flag that the launch raises, and not below any that stands
    status: int


class Board:
    """The buffer of one stream."""

    def __init__(self, cuda: Cuda) -> None:
        self.lock = Lock()  # held from taking the numbers of a launch until it is in the stream
        self._cuda = cuda
        self._numbers: Array | None = None
        self._flags: Array | None = None
        self._base = 0
        self._status = cuda.host_word()

    def check(self) -> None:
        """Raise if a launch before this one gave up."""
        step = int(self._status.value[0])
        if step:
            self._status.value[0] = 0
            raise DeviceError(
                f"persistent: a launch on this stream gave up waiting around step {step - 1}, and its results, "
                f"NaN from there on, must not be used: its blocks did not run at once, or one of them died; "
                f"nplstm.use_engines('fused', 'plain') runs without waiting"
            )

    def posts(self, like: Array, lanes: int, bytes_each: int, flags_each: int, steps: int) -> Posts:
        """Return room for a launch of so many steps; the lock must be held."""
        xp, numbers, flags = namespace(like), self._numbers, self._flags
        if numbers is None or numbers.size < lanes * bytes_each:
            numbers = self._numbers = xp.empty((lanes * bytes_each,), dtype="uint8")
        if flags is None or flags.size < lanes * flags_each or self._base > _LAST:
            flags, self._base = xp.zeros((lanes * flags_each,), dtype="uint32"), 0
            self._flags = flags
        base = self._base
        self._base += steps + 2
        first_number, first_flag = self._cuda.address(numbers), self._cuda.address(flags)
        return Posts(
            [first_number + k * bytes_each for k in range(lanes)],
            [first_flag + 4 * k * flags_each for k in range(lanes)],
            base,
            self._status.address,
        )


_BOARDS_KEPT = 32
"""Streams whose boards are kept: a program may make a stream for every call."""

_boards: dict[tuple[Any, ...], Board] = {}
_boards_lock = Lock()


def board_of(array: Array) -> Board:
    """Return the board of the current stream."""
    cuda = cuda_of(array)
    key = (id(cuda), *cuda.stream())
    with _boards_lock:
        board = _boards.pop(key, None) or Board(cuda)
        _boards[key] = board  # the one used last is the last to go
        while len(_boards) > _BOARDS_KEPT:
            del _boards[next(iter(_boards))]
        return board


def check_launches(array: Array) -> None:
    """Raise if a launch on the current stream gave up: what came of it may be what is to be read next."""
    cuda = cuda_of(array)
    board = _boards.get((id(cuda), *cuda.stream()))
    if board is not None:
        board.check()
