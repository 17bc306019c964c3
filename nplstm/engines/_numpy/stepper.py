"""Real time on the NumPy engine: nine calls a step and layer, in buffers that are made once."""

import numpy as np

from nplstm._typing import Array
from nplstm.engines._numpy.weights import ordered
from nplstm.engines.base import Stepper
from nplstm.recurrence import Recurrence

__all__ = ["NumpyStepper"]


class NumpyStepper(Stepper):
    """See ``Stepper``."""

    def __init__(self, recurrences: list[Recurrence], batch: int) -> None:
        dtype = recurrences[0].params.weight_ih.dtype
        widths = [recurrence.params.weight_hh.shape[1] for recurrence in recurrences]
        super().__init__(
            np.zeros((batch, recurrences[0].params.weight_ih.shape[1]), dtype), np.zeros((batch, widths[-1]), dtype)
        )
        self._layers: list[_Layer] = []
        below = self.x
        for recurrence, H in zip(recurrences, widths, strict=True):
            last = recurrence is recurrences[-1]
            self._layers.append(_Layer(recurrence, below, self.y if last else np.zeros((batch, H), dtype)))
            below = self._layers[-1].h

    def step(self) -> None:
        """Run the layers in turn."""
        for layer in self._layers:
            layer.step()

    @property
    def h(self) -> list[Array]:
        """By layer, (B, H)."""
        return [layer.h for layer in self._layers]

    @property
    def c(self) -> list[Array]:
        """By layer, (B, H)."""
        return [layer.c for layer in self._layers]


class _Layer:
    """One layer, with all that a step needs cut out beforehand."""

    def __init__(self, recurrence: Recurrence, x: Array, h: Array) -> None:
        params = recurrence.prepared("numpy", ordered)
        (B, H), dtype = h.shape, h.dtype
        cells, pair = np.zeros((B, 5 * H), dtype), np.zeros((B, 2 * H), dtype)
        self.h, self.c = h, cells[:, 4 * H :]
        gates, product = np.zeros((B, 4 * H), dtype), np.zeros((B, 4 * H), dtype)
        half = np.array(0.5, dtype)
        self._calls = (
            (np.matmul, (x, params.weight_ih, gates)),
            (np.matmul, (h, params.weight_hh, product)),
            (np.add, (gates, product, gates)),
            (np.add, (gates, params.bias, gates)),
            (np.tanh, (gates, cells[:, : 4 * H])),
            (np.multiply, (cells[:, : 3 * H], half, cells[:, : 3 * H])),
            (np.add, (cells[:, : 3 * H], half, cells[:, : 3 * H])),
            (np.multiply, (cells[:, H : 3 * H], cells[:, 3 * H :], pair)),
            (np.add, (pair[:, :H], pair[:, H:], self.c)),
            (np.tanh, (self.c, pair[:, :H])),
            (np.multiply, (cells[:, :H], pair[:, :H], h)),
        )

    def step(self) -> None:
        """Make the calls."""
        for function, arguments in self._calls:
            function(*arguments)
