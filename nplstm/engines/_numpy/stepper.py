"""Streams on the NumPy engine: eight NumPy calls for each step and layer, in preallocated buffers."""

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.engines._numpy.cell import Cell, exact_sigmoids
from nplstm.engines._numpy.weights import count_weights, joint_planes, joint_rows
from nplstm.engines.base import Stepper
from nplstm.engines.blas import limited_blas

__all__ = ["NumpyStepper"]


class NumpyStepper(Stepper):
    """Runs the layers one step at a time; see ``Stepper``."""

    def __init__(self, weights: list[LayerWeights], batch: int) -> None:
        self._layers = [_Layer(layer, batch) for layer in weights]
        # the layers run one after the other, so the largest decides on BLAS's threads
        self._size = batch, batch, max(count_weights([layer]) for layer in weights)
        super().__init__(self._layers[0].x, self._layers[-1].h)

    @exact_sigmoids
    def step(self) -> None:
        """Run the layers one after the other."""
        below = None
        with limited_blas(*self._size):
            for layer in self._layers:
                if below is not None:
                    layer.x[...] = below
                layer.step()
                below = layer.h

    @property
    def h(self) -> list[Array]:
        """By layer, (B, H)."""
        return [layer.h for layer in self._layers]

    @property
    def c(self) -> list[Array]:
        """By layer, (B, H)."""
        return [layer.cell.c[0] for layer in self._layers]


class _Layer:
    """One layer. Its buffer holds [x; h; 1], so that one product computes ``W_ih x + W_hh h + b``."""

    def __init__(self, weights: LayerWeights, batch: int) -> None:
        (H4, I), dtype = weights.params.weight_ih.shape, weights.params.weight_ih.dtype
        H = H4 // 4
        self._joint = np.zeros((batch, I + H + 1), dtype)
        self._joint[:, -1] = 1
        self.x, self.h = self._joint[:, :I], self._joint[:, I:-1]
        self.cell = Cell(np.zeros((1, batch, H), dtype))
        self._weight = weights.prepared(joint_rows if batch == 1 else joint_planes)
        self._h = self.h[None]
        self._product = self.cell.gates.reshape(1, H4) if batch == 1 else self.cell.gates[:, 0]

    def step(self) -> None:
        """Take one step."""
        np.matmul(self._joint, self._weight, self._product)
        self.cell.step(self._h)
