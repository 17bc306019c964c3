"""Which layout a batch has: read off its type and axes, and off what the call says about it."""

from typing import Any, NamedTuple

from nplstm._shapes import check_choice
from nplstm.backends import Backend
from nplstm.batch.layout import Layout, PackedLayout, PaddedLayout
from nplstm.batch.packing import PackedSequence
from nplstm.batch.segment_layout import FilledLayout, SegmentLayout
from nplstm.batch.segments import find_segments
from nplstm.core.packed import check_lengths
from nplstm.errors import ArgumentError, ShapeError

__all__ = ["CallOptions", "choose_layout"]


class CallOptions(NamedTuple):
    """What a call says about its batch; see ``LSTM.__call__``."""

    lengths: Any = None
    mask: Any = None
    masked_output: str = "repeat"
    reset: Any = None
    reset_to: str = "zero"

    @property
    def nothing(self) -> bool:
        """Whether the batch is as it stands there."""
        unsaid = self.lengths is None and self.mask is None and self.reset is None
        return unsaid and self.masked_output == "repeat" and self.reset_to == "zero"

    def check(self) -> None:
        """Raise for words that mean nothing."""
        check_choice("masked_output", self.masked_output, ("repeat", "zero"))
        check_choice("reset_to", self.reset_to, ("zero", "initial"))


def choose_layout(x: Any, said: CallOptions, *, input_size: int, batch_first: bool, backend: Backend) -> Layout:
    """Read the layout off an input, its type and its axes, and off what the call says about it."""
    said.check()
    lengths, mask, reset = said.lengths, said.mask, said.reset
    if isinstance(x, PackedSequence):
        for argument, value in (("lengths", lengths), ("mask", mask), ("reset", reset)):
            if value is not None:
                raise ArgumentError(f"{argument}: a PackedSequence has its lengths already; pass one of the two")
        return PackedLayout(backend, x)
    if x.ndim not in {2, 3}:
        axes = "(B, T, I" if batch_first else "(T, B, I"
        raise ShapeError(
            f"input: expected shape {axes}={input_size}), or (T, I={input_size}) unbatched, got {x.shape}"
        )
    batched = x.ndim == 3
    if lengths is not None and not batched:
        raise ArgumentError(f"lengths: an unbatched input (T, I) has none; the input is {x.shape}")
    T, B = (x.shape[1], x.shape[0]) if batched and batch_first else (x.shape[0], x.shape[1] if batched else 1)
    if T == 0:
        raise ShapeError(f"input: expected at least one time step, got T=0 in shape {x.shape}")
    form = {"batch_first": batch_first, "batched": batched}
    numbers = None if lengths is None else check_lengths(lengths, steps=T, batch=B, minimum=0)
    if mask is None and reset is None:
        return PaddedLayout.of_lengths(backend, T, B, numbers, **form)
    if mask is not None and lengths is not None:
        raise ArgumentError("mask: lengths= says already which steps there are; pass one of the two")
    segments = find_segments(
        T, B, numbers, mask, reset, zero=said.reset_to == "zero", swap=batch_first, batched=batched
    )
    kind = FilledLayout if mask is not None and said.masked_output == "repeat" else SegmentLayout
    return kind(backend, T, B, segments, **form)
