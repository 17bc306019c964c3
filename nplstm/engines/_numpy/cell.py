"""The cell of the NumPy engine: seven calls from pre-activations to h_t, in buffers that are made once.

A sigmoid is 1 / (1 + exp(-a)), which keeps its digits where a gate is almost closed. What a gate multiplies is
divided by 1 + exp(-a). A recording keeps exp(-a): unlike the gate, it has the digits of 1 - sigmoid(a), too.
``exact_sigmoids`` has to be around the steps, and around what reads a recording.
"""

import numpy as np
from numpy import add, copyto, divide, exp, tanh

from nplstm._typing import Array
from nplstm.engines._numpy.memory import work_space

__all__ = ["Cell", "Product", "exact_sigmoids"]

exact_sigmoids = np.errstate(over="ignore", divide="ignore")
"""Decorator of what computes with exp(-a).

It is inf for a gate below the smallest normal number, and 0 for one that far open, and what is divided by it is
right all the same. To bound ``a`` would cost a call a step.
"""


class Cell:
    """S lanes of n sequences, with all that a step reads and writes cut out beforehand.

    Parameters
    ----------
    c : Array, shape (S, n, H)
        The initial cell state; copied.

    Attributes
    ----------
    gates : Array, shape (4, S, n, H)
        Receives the pre-activations of o, i, f, g, those of o, i, f negated, ahead of a step.
    c : Array, shape (S, n, H)
        The cell state after the last step.
    """

    def __init__(self, c: Array) -> None:
        self._planes = work_space((5, *c.shape), c.dtype)  # o, i, f, g, c: one stretch of memory
        self._pair = work_space((2, *c.shape), c.dtype)
        self.gates, self.c = self._planes[:4], self._planes[4]
        self.c[...] = c
        self._sigmoids, self._o, self._g = self._planes[:3], self._planes[0], self._planes[3]
        self._i_f, self._g_c = self._planes[1:3], self._planes[3:]
        self._i_g, self._f_c = self._pair
        self._tanh_c = self._pair[0]
        self._one = np.array(1, c.dtype)  # a Python number would be converted at each call

    @property
    def n(self) -> int:
        """How many sequences there are."""
        return self.c.shape[1]

    def step(self, h_t: Array, kept: Array | None = None) -> None:
        """Take a step: write h_t (S, n, H).

        Parameters
        ----------
        kept : Array, shape (5, S, n, H)
            Receives exp(-a) of o, i, f, then g and c_{t-1}.
        """
        sigmoids, g, one, c, tanh_c = self._sigmoids, self._g, self._one, self.c, self._tanh_c
        exp_a = sigmoids if kept is None else kept[:3]
        exp(sigmoids, exp_a)
        add(exp_a, one, sigmoids)  # what a sigmoid is 1 divided by
        tanh(g, g)
        if kept is not None:
            copyto(kept[3:], self._g_c)
        divide(self._g_c, self._i_f, self._pair)
        add(self._i_g, self._f_c, c)
        tanh(c, tanh_c)
        divide(tanh_c, self._o, h_t)


class Product:
    """The operands of ``matmul(h, weight, out)``, which is ``h W_hh^T`` of S lanes of n sequences, h (S, n, H).

    Attributes
    ----------
    weight : Array, shape (4, S, H, H), or (S, H, 4H) for one sequence
    out : Array, shape (4, S, n, H), or (S, 1, 4H)
    planes : Array, shape (4, S, n, H)
        ``out`` by gate.
    """

    def __init__(self, weight: Array, shape: tuple[int, ...]) -> None:
        S, _, H = shape
        self.weight = weight
        if weight.ndim == 4:
            self.out = self.planes = work_space((4, *shape), weight.dtype)
        else:
            self.out = work_space((S, 1, 4 * H), weight.dtype)
            self.planes = self.out.reshape(S, 4, 1, H).swapaxes(0, 1)
