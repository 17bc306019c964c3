"""Short calls on the NumPy engine: one block of steps and little else. The results are the same to the bit."""

from itertools import repeat

import numpy as np

from nplstm._typing import Array
from nplstm.core.packed import PackedSteps
from nplstm.core.step import Recurrence
from nplstm.engines._numpy.cell import Cell
from nplstm.engines._numpy.diagonal import worth_a_diagonal
from nplstm.engines._numpy.forward import FromInput, Weights, block_rows, run_steps
from nplstm.engines._numpy.weights import count_weights
from nplstm.engines.base import ShortCall
from nplstm.engines.blas import limited_blas

__all__ = ["NumpyShortCall"]


class NumpyShortCall(ShortCall):
    """See ``ShortCall``."""

    def __init__(self, recurrences: list[list[Recurrence]], directions: tuple[bool, ...]) -> None:
        self._layers = [Weights(row) for row in recurrences]
        self._directions = directions
        self._weights = max(count_weights(row) for row in recurrences)
        self._H = recurrences[0][0].params.weight_hh.shape[1]

    def takes(self, steps: int, batch: int) -> bool:
        """Tell whether a call is one block of steps, and its layers run one after the other."""
        if steps * batch > block_rows(self._H):
            return False
        widths = [self._H] * len(self._layers)
        return len(self._directions) > 1 or not worth_a_diagonal(widths, PackedSteps.equal(steps, batch))

    def __call__(self, x: Array, h_0: Array | None, c_0: Array | None) -> tuple[Array, Array, Array]:
        """Run all layers on ``x`` (T, B, I)."""
        with limited_blas(x.shape[0] * x.shape[1], x.shape[1], self._weights):
            return self._run(x, h_0, c_0)

    def _run(self, x: Array, h_0: Array | None, c_0: Array | None) -> tuple[Array, Array, Array]:
        (T, B, _), D, H = x.shape, len(self._directions), self._H
        states = len(self._layers) * D, B, H
        h_n = np.zeros(states, x.dtype) if h_0 is None else h_0.copy()
        c_n = np.zeros(states, x.dtype) if c_0 is None else c_0.copy()
        for layer, weights in enumerate(self._layers):
            lanes = slice(layer * D, layer * D + D)
            xs = [(x[::-1] if reverse else x).reshape(T * B, -1) for reverse in self._directions]
            cell, hs = Cell(c_n[lanes]), np.empty((T, D, B, H), x.dtype)
            h = run_steps(cell, weights.product(B), FromInput(weights, T * B)(xs, B), h_n[lanes], hs, repeat(None))
            h_n[lanes], c_n[lanes] = h, cell.c
            outs = [hs[::-1, d] if reverse else hs[:, d] for d, reverse in enumerate(self._directions)]
            x = np.concatenate(outs, axis=2) if D > 1 or self._directions[0] else outs[0]
        return x, h_n, c_n
