"""Real time on the NumPy engine: eight calls a step and layer, in buffers that are made once."""

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.engines._numpy.cell import Cell, exact_sigmoids
from nplstm.engines._numpy.weights import count_weights, joint_planes, joint_rows
from nplstm.engines.base import Stepper
from nplstm.engines.blas import limited_blas

__all__ = ["NumpyStepper"]


class NumpyStepper(Stepper):
    """See ``Stepper``."""

    def __init__(self, weights: list[LayerWeights], batch: int) -> None:
        self._layers = [_Layer(layer, batch) for layer in weights]
        # the layers run one after the other: the largest decides
        self._size = batch, batch, max(count_weights([layer]) for layer in weights)
        super().__init__(self._layers[0].x, self._layers[-1].h)

    @exact_sigmoids
    def step(self) -> None:
        """Run the layers in reversal."""
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
    """One layer: x, h and 1 stand side by side, so that one product serves both and adds the biases."""

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
        """Make the calls."""
        np.matmul(self._joint, self._weight, self._product)
        self.cell.step(self._h)
