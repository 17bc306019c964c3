"""Cell of the NumPy engine: seven NumPy calls from pre-activations to h_t, in preallocated buffers.

A sigmoid is 1 / (1 + exp(-a)), which is accurate for a gate that is almost closed. Instead of multiplying by a
gate the code divides by 1 + exp(-a). A recording keeps exp(-a), from which 1 - sigmoid(a) is accurate as well.
Code that runs steps or reads a recording has to be decorated with ``exact_sigmoids``.
"""

import numpy as np
from numpy import add, copyto, divide, exp, tanh

from nplstm._typing import Array
from nplstm.engines._numpy.memory import work_space

__all__ = ["Cell", "Product", "exact_sigmoids"]

exact_sigmoids = np.errstate(over="ignore", divide="ignore")
"""Decorator for functions that compute with exp(-a), which may overflow or be 0.

exp(-a) is inf for a gate below the smallest normal number, and 0 for one that is fully open; the quotients are
right in both cases. Bounding ``a`` instead would take one more call a step.
"""


class Cell:
    """The cells of S directions, or layers, of n sequences, with views of all buffers made beforehand.

    Parameters
    ----------
    c : Array, shape (S, n, H)
        The initial cell state; copied.

    Attributes
    ----------
    gates : Array, shape (4, S, n, H)
        Pre-activations of o, i, f, g, those of o, i, f negated; the caller writes them before a step.
    c : Array, shape (S, n, H)
        The cell state after the last step.
    """

    def __init__(self, c: Array) -> None:
        self._planes = work_space((5, *c.shape), c.dtype)  # o, i, f, g, c, contiguous
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
        """Take one step; write h_t (S, n, H).

        Parameters
        ----------
        kept : Array, shape (5, S, n, H)
            Receives exp(-a) of o, i, f, then g and c_{t-1}.
        """
        sigmoids, g, one, c, tanh_c = self._sigmoids, self._g, self._one, self.c, self._tanh_c
        exp_a = sigmoids if kept is None else kept[:3]
        exp(sigmoids, exp_a)
        add(exp_a, one, sigmoids)  # 1 / sigmoid
        tanh(g, g)
        if kept is not None:
            copyto(kept[3:], self._g_c)
        divide(self._g_c, self._i_f, self._pair)
        add(self._i_g, self._f_c, c)
        tanh(c, tanh_c)
        divide(tanh_c, self._o, h_t)


class Product:
    """Operands of ``matmul(h, weight, out)``: ``h W_hh^T`` of S directions (or layers), h (S, n, H).

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
