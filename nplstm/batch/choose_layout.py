"""Choice of a batch's layout, by the type and the axes of the input and the options of the call."""

from functools import lru_cache
from typing import Any, NamedTuple

from nplstm._shapes import check_choice
from nplstm.backends import Backend
from nplstm.batch.layout import Layout, PackedLayout, PaddedLayout
from nplstm.batch.packing import PackedSequence
from nplstm.batch.segment_layout import FilledLayout, SegmentLayout
from nplstm.batch.segments import find_segments
from nplstm.core.packed import KEPT_STEPS, check_lengths
from nplstm.errors import ArgumentError, ShapeError

__all__ = ["NO_OPTIONS", "CallOptions", "call_options", "choose_layout"]


_REPEAT, _ZERO = "repeat", "zero"


class CallOptions(NamedTuple):
    """The arguments of a call that describe its batch; see ``LSTM.__call__``."""

    lengths: Any = None
    mask: Any = None
    masked_output: str = "repeat"
    reset: Any = None
    reset_to: str = "zero"

    def check(self) -> None:
        """Raise for words that are not among the choices."""
        check_choice("masked_output", self.masked_output, ("repeat", "zero"))
        check_choice("reset_to", self.reset_to, ("zero", "initial"))


NO_OPTIONS = CallOptions()


def call_options(lengths: Any, mask: Any, masked_output: str, reset: Any, reset_to: str) -> CallOptions:
    """Return the options of a call; the same object for all calls without any."""
    if lengths is mask is reset is None and masked_output is _REPEAT and reset_to is _ZERO:
        return NO_OPTIONS
    return CallOptions(lengths, mask, masked_output, reset, reset_to)


def choose_layout(x: Any, call: CallOptions, *, input_size: int, batch_first: bool, backend: Backend) -> Layout:
    """Read the layout off an input, its type and its axes, and off what the call says about it."""
    if call is NO_OPTIONS and not isinstance(x, PackedSequence):
        shape: tuple[int, ...] = x.shape
        make = _padded_layout if max(shape, default=0) <= KEPT_STEPS else _padded_layout.__wrapped__
        return make(backend, shape, input_size, batch_first)
    call.check()
    lengths, mask, reset = call.lengths, call.mask, call.reset
    if isinstance(x, PackedSequence):
        for argument, value in (("lengths", lengths), ("mask", mask), ("reset", reset)):
            if value is not None:
                raise ArgumentError(f"{argument}: a PackedSequence has its lengths already; pass one of the two")
        return PackedLayout(backend, x)
    T, B, batched = _sizes(x.shape, input_size, batch_first)
    if lengths is not None and not batched:
        raise ArgumentError(f"lengths: an unbatched input (T, I) has none; the input is {x.shape}")
    form = {"batch_first": batch_first, "batched": batched}
    numbers = None if lengths is None else check_lengths(lengths, steps=T, batch=B, minimum=0)
    if mask is None and reset is None:
        return PaddedLayout.of_lengths(backend, T, B, numbers, **form)
    if mask is not None and lengths is not None:
        raise ArgumentError("mask: lengths= says already which steps there are; pass one of the two")
    segments = find_segments(
        T, B, numbers, mask, reset, zero=call.reset_to == "zero", swap=batch_first, batched=batched
    )
    kind = FilledLayout if mask is not None and call.masked_output == "repeat" else SegmentLayout
    return kind(backend, T, B, segments, **form)


@lru_cache(maxsize=64)
def _padded_layout(backend: Backend, shape: tuple[int, ...], input_size: int, batch_first: bool) -> Layout:
    """Return the layout of sequences of one length; made once for calls of the same size."""
    T, B, batched = _sizes(shape, input_size, batch_first)
    return PaddedLayout.of_lengths(backend, T, B, None, batch_first=batch_first, batched=batched)


def _sizes(shape: tuple[int, ...], input_size: int, batch_first: bool) -> tuple[int, int, bool]:
    """Return T, B, and whether there is a batch axis, of an input of this shape."""
    if len(shape) not in {2, 3}:
        axes = "(B, T, I" if batch_first else "(T, B, I"
        raise ShapeError(
            f"input: expected shape {axes}={input_size}), or (T, I={input_size}) unbatched, got {shape}"
        )
    batched = len(shape) == 3
    leading = (shape[0], shape[1]) if batched else (shape[0], 1)
    T, B = leading[::-1] if batched and batch_first else leading
    if T == 0:
        raise ShapeError(f"input: expected at least one time step, got T=0 in shape {shape}")
    return T, B, batched
