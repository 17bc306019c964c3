"""A recurrent input that is given in the place of h_0: how it is recognised, and where it is not allowed."""

from typing import Any, cast

from nplstm._typing import Array
from nplstm.batch.layout import Layout
from nplstm.errors import ArgumentError, ShapeError
from nplstm.layers.options import Options

__all__ = ["check_recurrent_input", "gives_recurrent_input"]


def gives_recurrent_input(h_0: Any, options: Options) -> bool:
    """Tell by its width whether what stands in the place of h_0 is the recurrent input r_0."""
    P, R = options.h_width(0), options.recurrent_sizes[0]
    if h_0 is None or R == P or options.single_step:
        return options.steps_outside
    first: Array = cast("tuple[Array, ...]", h_0)[0] if isinstance(h_0, tuple | list) else h_0
    width = first.shape[-1] if first.ndim else None
    if options.steps_outside and width != R:
        raise ShapeError(
            f"h_0: expected the recurrent input, R={R} wide, since recurrent_size={R}, hidden_size={P} and no "
            f"hidden_transform makes one of the other; got {first.shape}"
        )
    return width == R


def check_recurrent_input(options: Options, layout: Layout) -> None:
    """Raise where the recurrent input, given in the place of h_0, is not enough."""
    steps = layout.steps
    R, P, T = options.recurrent_sizes[0], options.h_width(0), len(steps)
    if options.steps_outside and T > 1:
        raise ArgumentError(
            f"input: T={T} steps need a hidden_transform that makes a recurrent input of recurrent_size={R} "
            f"out of h, hidden_size={P}; without one, call one step at a time and give r_t in the place of h_0"
        )
    empty = steps.batch > 0 and (T == 0 or steps.size(0) < steps.batch)
    for what, happens in (
        (f"zoneout_h={options.cell.zoneout_h} keeps h_0", options.cell.zoneout_h > 0),
        ("masked_output='repeat' shows h_0 where a mask begins with False", layout.fills),
        ("a sequence of length 0 returns h_0", empty),
    ):
        if happens:
            raise ArgumentError(f"h_0: {what}, and in its place the recurrent input, R={R} wide, was given")
