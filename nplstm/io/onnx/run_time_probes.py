"""Stand-ins for what only a run of the model provides: sizes of open dimensions, and outputs of LSTM nodes."""

from bisect import bisect_right
from collections.abc import Callable, Hashable
from math import prod

import numpy as np

from nplstm._typing import Array
from nplstm.io.onnx.proto_fields import attribute_value
from nplstm.io.onnx.scopes import NodeOutput, ScopedName

__all__ = ["OutputProbes", "SampleSizes"]

_MOST_COMPARED = 2**28
"""How many numbers are compared in all: a file can ask for the same ones any number of times."""


class SampleSizes:
    """Chooses sizes for open dimensions: the same for the same name, and another for each name.

    Parameters
    ----------
    first, step, many : int
        The sizes are ``many`` from ``first`` on, ``step`` apart. Of two choosers that have no size in common, and
        not as many, two names that share a size in one do not in the other, unless there are very many.
    """

    def __init__(self, first: int, step: int, many: int) -> None:
        self._first, self._step, self._many = first, step, many
        self._chosen: dict[Hashable, int] = {}

    def __call__(self, name: Hashable) -> int:
        """Return the size that stands for a name."""
        # now and then two names share a size, so that no size is large
        return self._chosen.setdefault(name, self._first + self._step * (len(self._chosen) % self._many))


class OutputProbes:
    """Outputs of LSTM nodes, filled with numbers of which no two are the same.

    The numbers tell which node a value is from, and whether its axes still stand as the operator returned them.
    """

    def __init__(self, sizes: SampleSizes) -> None:
        self._sizes = sizes
        self._next = 1
        self._starts: list[int] = []
        self._outputs: list[ScopedName] = []
        self._expected: list[Array] = []
        self._left = _MOST_COMPARED

    def outputs(
        self, output: NodeOutput, x: Array | None, r: Array | None, take: Callable[[int], None]
    ) -> list[Array]:
        """Return Y, Y_h and Y_c of a node, given X and R; nothing if R is not what it should be.

        ``take`` counts bytes before they are taken.
        """
        if r is None or r.ndim != 3:
            return []
        D, _, H = r.shape
        key = (output.scope, id(output.node))
        known = x is not None and x.ndim == 3
        first, second = x.shape[:2] if known and x is not None else (self._sizes((key, 0)), self._sizes((key, 1)))
        layout = output.scope.attributes_of(output.node).get("layout")
        batch_first = layout is not None and attribute_value(layout) == 1
        Y = (first, second, D, H) if batch_first else (first, D, second, H)
        B = first if batch_first else second
        state = np.broadcast_to(np.array(np.nan), (B, D, H) if batch_first else (D, B, H))
        return [self._numbered(output, Y, batch_first, take), state, state]

    def _numbered(
        self, output: NodeOutput, shape: tuple[int, ...], batch_first: bool, take: Callable[[int], None]
    ) -> Array:
        count = prod(shape)
        take(16 * count)
        Y = np.arange(self._next, self._next + count, dtype=np.float64).reshape(shape)
        turned = Y if batch_first else Y.transpose(0, 2, 1, 3)
        first, second, D, H = turned.shape
        self._starts.append(self._next)
        self._outputs.append(ScopedName(output.scope, output.node.output[0] if output.node.output else ""))
        self._expected.append(turned.reshape(first, second, D * H))
        self._next += count
        return Y

    def node_output(self, array: Array | None) -> ScopedName | None:
        """Return the output Y that an array is, the directions side by side; None if it is not one whole Y."""
        if array is None or not array.size or array.dtype.kind != "f" or not np.isfinite(array.flat[0]):
            return None
        number = bisect_right(self._starts, float(array.flat[0])) - 1
        if number < 0 or array.shape != self._expected[number].shape or array.size > self._left:
            return None
        self._left -= array.size
        return self._outputs[number] if np.array_equal(array, self._expected[number]) else None
