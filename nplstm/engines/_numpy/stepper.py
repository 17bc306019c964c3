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
            np.zeros((batch, recurrences[0].params.weight_ih.shape[1]), dtype),
            np.zeros((batch, widths[-1]), dtype),
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
        cells, product = np.zeros((5, B, H), dtype), np.zeros((4, B, H), dtype)
        gates, sigmoids, pair, half = cells[:4], cells[:3], np.zeros((2, B, H), dtype), np.array(0.5, dtype)
        self.h, self.c = h, cells[4]
        self._calls = (
            (np.matmul, (x, params.weight_ih, gates)),
            (np.matmul, (h, params.weight_hh, product)),
            (np.add, (gates, product, gates)),
            (np.add, (gates, params.bias, gates)),
            (np.tanh, (gates, gates)),
            (np.multiply, (sigmoids, half, sigmoids)),
            (np.add, (sigmoids, half, sigmoids)),
            (np.multiply, (cells[1:3], cells[3:], pair)),
            (np.add, (*pair, self.c)),
            (np.tanh, (self.c, pair[0])),
            (np.multiply, (cells[0], pair[0], h)),
        )

    def step(self) -> None:
        """Make the calls."""
        for function, arguments in self._calls:
            function(*arguments)
