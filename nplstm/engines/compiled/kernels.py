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

from nplstm.engines.compiled._numba import compiled, from_dtype, typeof, types
from nplstm.engines.compiled.backward_kernel import backward, previous
from nplstm.engines.compiled.forward_kernel import forward
from nplstm.engines.compiled.gradient_kernels import input_gradient, sum_products
from nplstm.engines.compiled.rows import Share, Span
from nplstm.engines.compiled.step_kernel import lead, serve

__all__ = ["Kernels", "kernels"]


class Kernels(NamedTuple):
    """The kernels, compiled for one element type."""

    forward: Any
    backward: Any
    previous: Any
    sum_products: Any
    input_gradient: Any
    lead: Any
    serve: Any


@cache
def kernels(dtype: Any) -> Kernels:
    """Compile the kernels, or find what was compiled before."""
    kind = from_dtype(dtype)
    read = types.Array(kind, 2, "A", readonly=True)
    rows, matrix, vector = types.Array(kind, 2, "A"), types.Array(kind, 2, "C"), types.Array(kind, 1, "C")
    offsets, index = types.Array(types.int64, 1, "C", readonly=True), types.intp
    span, share = typeof(Span(False, 0, False)), typeof(Share(0, 0, 0, 0, 0, 0))
    progress = types.Array(types.int64, 1, "C")
    none = types.void
    stack, buffers = (read, vector, vector, offsets), (vector, vector, vector, matrix, matrix)
    gradients = (read, vector, matrix, matrix, matrix, matrix, matrix, matrix)
    ends = (index, index)
    return Kernels(
        compiled(none(read, *[vector] * 3, read, matrix, rows, matrix, matrix, offsets, span, share, progress))(
            forward
        ),
        compiled(none(*gradients, offsets, types.boolean, *ends, share, progress))(backward),
        compiled(none(read, read, offsets, *ends, types.boolean, matrix))(previous),
        compiled(none(matrix, read, index, matrix, index, matrix, matrix, vector, *ends, vector))(sum_products),
        compiled(none(matrix, vector, matrix, index, *ends))(input_gradient),
        compiled(types.boolean(*stack, *buffers, *ends, progress, progress, index))(lead),
        compiled(none(*stack, *buffers, *ends, *ends, progress, progress, index))(serve),
    )
