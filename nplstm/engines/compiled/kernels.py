"""The kernels, compiled for an element type when they are first needed, and the layout that they share.

Both walk packed rows (see ``steps``) in the order of processing, like ``sequence.py``. Several threads may share
the work, by sequences or by cells (see ``Share``): shares by sequences have nothing to do with each other, shares
by cells wait for each other at each step. No sum depends on how the work is shared.

Axes: T steps, N rows, B sequences, I input, H cells, P the width of h. Cells stand in panels of V, the lanes of a
vector: Hp is H rounded up to whole panels. A row of gates has i, f, g, o of the first panel, then of the next: (Hp
/ V, 4, V). ``packing.py`` has the layout of the weights, in which the rows of i, f and o are halved: sigmoid(a) =
1/2 + tanh(a/2) / 2, so that all four gates take a tanh.
"""

from functools import cache
from typing import Any, NamedTuple

from nplstm.engines.compiled._numba import compiled, from_dtype, types
from nplstm.engines.compiled.backward_kernel import backward, previous
from nplstm.engines.compiled.calls import Kernel
from nplstm.engines.compiled.forward_kernel import forward
from nplstm.engines.compiled.gradient_kernels import pack_rows, sums
from nplstm.engines.compiled.step_kernel import step

__all__ = ["Kernels", "kernels"]


class Kernels(NamedTuple):
    """The kernels, compiled for one element type."""

    forward: Kernel
    backward: Kernel
    sums: Kernel
    step: Kernel
    previous: Any
    pack_rows: Any


@cache
def kernels(dtype: Any) -> Kernels:
    """Compile the kernels, or find what was compiled before."""
    kind = from_dtype(dtype)
    read = types.Array(kind, 2, "A", readonly=True)
    rows, matrix, vector = types.Array(kind, 2, "A"), types.Array(kind, 2, "C"), types.Array(kind, 1, "C")
    offsets, index = types.Array(types.int64, 1, "C", readonly=True), types.intp
    progress = types.Array(types.int64, 1, "C")
    # member by member: as a whole a named tuple takes Numba a microsecond to look at
    span, share, two = (types.boolean, index, types.boolean), [index] * 6, (index, index)
    return Kernels(
        Kernel(forward, read, *[vector] * 3, read, matrix, rows, matrix, matrix, offsets, progress, *span, *share),
        Kernel(backward, read, vector, *[matrix] * 6, offsets, progress, types.boolean, *two, *share),
        Kernel(
            sums, matrix, read, index, *(matrix, index), *[matrix] * 2, vector, *two, vector, vector, matrix, *two
        ),
        Kernel(step, read, vector, vector, offsets, *[vector] * 3, matrix, matrix, *two, *two, progress, progress),
        compiled(types.void(read, read, offsets, *two, types.boolean, matrix))(previous),
        compiled(types.void(read, *two, vector))(pack_rows),
    )
