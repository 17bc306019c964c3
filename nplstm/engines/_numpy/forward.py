"""Forward pass of the NumPy engine.

All directions run in the order of the rows. For the reverse direction the sequences are reversed before and after,
so that both directions have the same number of sequences at each step.

Axes: S directions of a layer (or layers that run together), N rows, n sequences of a step, H cells. A recording
has for each step an array (5, S, n, H): exp(-a) of o, i, f, then g and c_{t-1}.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise, repeat
from typing import NamedTuple

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.engines._numpy.cell import Cell, Product, exact_sigmoids
from nplstm.engines._numpy.memory import work_space
from nplstm.engines._numpy.reversal import Reversal
from nplstm.engines._numpy.weights import bias_planes, hh_planes, hh_rows, ih_planes, ih_rows
from nplstm.engines.base import LayerCall

__all__ = [
    "FromInput",
    "NumpyTape",
    "PreparedWeights",
    "block_rows",
    "equal_runs",
    "numpy_forward",
    "planes_of",
    "run_steps",
]


def block_rows(H: int) -> int:
    """Return how many rows of input are multiplied by W_ih at once: enough for an efficient product.

    The C library may return larger arrays to the system after a call, and get them again page by page at the next.
    """
    return min(1024, max(512, 65536 // H))


class NumpyTape(NamedTuple):
    """Recording of a layer's directions, or of layers that ran together."""

    weights: list[LayerWeights]
    steps: PackedSteps
    reverse: tuple[bool, ...]
    x: list[Array]  # (N, I)
    h_0: Array  # (S, B, H)
    out: list[Array]  # (N, H)  h_t
    cells: Array  # flat: exp(-a) of o, i, f, then g, c_{t-1}; in the order of processing


class PreparedWeights:
    """The weights of a layer's directions, in the order of ``weights.py``."""

    def __init__(self, weights: list[LayerWeights]) -> None:
        self._first, *self._others = weights
        self.bias = self._first.prepared(bias_planes, *self._others)  # (4, S, 1, H)

    def ih(self, n: int) -> Array:
        """Return W_ih for n sequences: (4, S, I, H), or for one (S, I, 4H)."""
        return self._first.prepared(ih_rows if n == 1 else ih_planes, *self._others)

    def product(self, n: int) -> Product:
        """Make the product with W_hh for n sequences."""
        _, S, _, H = self.bias.shape
        return Product(self._first.prepared(hh_rows if n == 1 else hh_planes, *self._others), (S, n, H))


def equal_runs(steps: PackedSteps, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Cut steps into runs with the same number of sequences: (first step, last step, sequences)."""
    if not steps.ragged and steps.batch:
        yield first, last, steps.batch
        return
    changes = np.flatnonzero(np.diff(steps.batch_sizes[first:last])) + 1
    for a, b in pairwise([first, *(first + changes).tolist(), last]):
        if steps.size(a):
            yield a, b, steps.size(a)


def planes_of(cells: Array, steps: PackedSteps, first: int, last: int, S: int, H: int) -> Array:
    """Return the recording of some steps of n sequences, (steps, 5, S, n, H)."""
    rows = steps.span(first, last)
    part = cells[5 * S * H * rows.start : 5 * S * H * rows.stop]
    return part.reshape(last - first, 5, S, steps.size(first), H)


class FromInput:
    """Computes ``x W_ih^T + b`` block by block, in preallocated buffers of this many rows."""

    def __init__(self, weights: PreparedWeights, rows: int) -> None:
        _, S, _, H = weights.bias.shape
        self._weights = weights
        self._products, self._sums = work_space((2, 4 * S * rows * H), weights.bias.dtype)

    def __call__(self, xs: list[Array], n: int) -> Array:
        """Return ``x W_ih^T + b`` of steps of n sequences, (steps, 4, S, n, H), from x (rows, I) of each."""
        weight, bias, rows = self._weights.ih(n), self._weights.bias, len(xs[0])
        _, S, _, H = bias.shape
        sums = self._sums[: 4 * S * rows * H].reshape(rows // n, 4, S, n, H)  # a step is contiguous
        if n == 1:  # all gates by one product
            products = self._products[: 4 * S * rows * H].reshape(S, rows, 4 * H)
            for k, x in enumerate(xs):
                np.matmul(x, weight[k], out=products[k])
            by_gate = products.reshape(S, rows, 4, n, H).transpose(1, 2, 0, 3, 4)
        else:
            products = self._products[: 4 * S * rows * H].reshape(4, S, rows, H)
            for k, x in enumerate(xs):
                np.matmul(x, weight[:, k], out=products[:, k])
            by_gate = products.reshape(4, S, -1, n, H).transpose(2, 0, 1, 3, 4)
        return np.add(by_gate, bias, out=sums)


@exact_sigmoids
def run_steps(
    cell: Cell, product: Product, from_input: Array, h: Array, hs: Array, kept: Iterable[Array | None]
) -> Array:
    """Run steps with the same number of sequences from h (S, n, H); return the last h.

    ``from_input`` (steps, 4, S, n, H) is ``x W_ih^T + b``; ``hs`` (steps, S, n, H) receives h_t, and ``kept`` the
    recording.
    """
    matmul, add, step = np.matmul, np.add, cell.step
    weight, out, planes, gates = product.weight, product.out, product.planes, cell.gates
    for from_input_t, h_t, kept_t in zip(from_input, hs, kept, strict=False):
        matmul(h, weight, out)
        add(from_input_t, planes, gates)
        step(h_t, kept_t)
        h = h_t
    return h


def numpy_forward(layer: LayerCall, steps: PackedSteps, *, record: bool) -> NumpyTape | None:
    """Run the directions of a layer; see ``Engine.forward``."""
    S, H, (final_h, final_c, _) = len(layer.x), layer.initial.c.shape[2], layer.final
    weights = PreparedWeights(layer.weights)
    reversals = [Reversal(steps, reverse=reverse) for reverse in layer.reverse]
    h, cell = np.ascontiguousarray(layer.initial.h), Cell(layer.initial.c)
    product = weights.product(steps.batch)
    h_0, cells = h, np.empty(5 * S * H * steps.total if record else 0, h.dtype)
    direct = S == 1 and not layer.reverse[0]
    from_input = FromInput(weights, min(steps.total, max(block_rows(H), steps.batch)))
    for block in steps.blocks(block_rows(H), reverse=False):
        for first, last, n in equal_runs(steps, block[0], block[-1] + 1):
            if n < cell.n:
                final_h[:, n : cell.n], final_c[:, n : cell.n] = h[:, n:], cell.c[:, n:]
                h, cell, product = h[:, :n], Cell(cell.c[:, :n]), weights.product(n)
            xs = [reversal.read(x, first, last) for reversal, x in zip(reversals, layer.x, strict=True)]
            out = layer.out[0][None, steps.span(first, last)] if direct else np.empty((S, len(xs[0]), H), h.dtype)
            hs = out.reshape(S, last - first, n, H).swapaxes(0, 1)
            kept = planes_of(cells, steps, first, last, S, H) if record else repeat(None)
            h = run_steps(cell, product, from_input(xs, n), h, hs, kept)
            if not direct:
                for reversal, into, values in zip(reversals, layer.out, out, strict=True):
                    reversal.write(into, first, last, values)
    final_h[:, : cell.n], final_c[:, : cell.n] = h, cell.c
    return NumpyTape(layer.weights, steps, layer.reverse, layer.x, h_0, layer.out, cells) if record else None
