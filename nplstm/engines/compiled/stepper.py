"""Streams of the compiled engine: one kernel call a step for all layers."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from nplstm._typing import Array
from nplstm.core.layer_weights import LayerWeights
from nplstm.engines._numpy.memory import aligned_copy, aligned_zeros
from nplstm.engines.base import Stepper
from nplstm.engines.compiled.kernel_weights import pack, padded_width
from nplstm.engines.compiled.library import library
from nplstm.engines.threads import get_num_threads

__all__ = ["CompiledStepper"]


class CompiledStepper(Stepper):
    """See ``Stepper``. Weights and states of all layers are in one array each."""

    def __init__(self, weights: list[LayerWeights], batch: int) -> None:
        packed, first, spec = [pack(layer) for layer in weights], weights[0].params.weight_ih, weights[0].spec
        I, dtype = first.shape[1], first.dtype
        P, H = zip(*(layer.widths for layer in weights), strict=True)
        padded = [padded_width(width, dtype.itemsize) for width in H]
        super().__init__(np.zeros((batch, I), dtype), np.zeros((batch, P[-1]), dtype))
        joined = _joined(w for p in packed for w in (p.weight_ih, p.weight_hh, p.weight_hr))
        biases = _joined(b for p in packed for b in (p.bias, p.peephole))
        # h of the previous step and of this one, alternately
        both = [np.zeros(batch * sum(P), dtype) for _ in range(2)]
        c = aligned_zeros((batch * sum(padded),), dtype)
        room = aligned_zeros((batch * 6 * max(padded),), dtype)
        self._h = [_by_layer(flat, batch, P) for flat in both]
        self._c = [whole[:, :width] for whole, width in zip(_by_layer(c, batch, padded), H, strict=True)]
        self._turn = 0
        found, sizes = library(), np.array([I, *chain.from_iterable(zip(H, P, strict=True))], np.int64)
        arrays = (self.x, sizes, joined, biases, *both, c, room, self.y)
        options = (spec.peephole is not None, spec.clip or 0.0)
        self._step = found.module.new_step(found.choice, *arrays, get_num_threads(), *options)
        self._take = found.module.step

    def step(self) -> None:
        """Run the kernel, in several threads where the weights are large and the thread pool is free."""
        self._turn = self._take(self._step)

    @property
    def h(self) -> list[Array]:
        """By layer, (B, P)."""
        return self._h[self._turn]

    @property
    def c(self) -> list[Array]:
        """By layer, (B, H)."""
        return self._c


def _joined(arrays: Iterable[Array | None]) -> Array:
    """Return one flat array of all arrays that are not None."""
    return aligned_copy(np.concatenate([array.ravel() for array in arrays if array is not None]))


def _by_layer(flat: Array, batch: int, widths: Sequence[int]) -> list[Array]:
    """Return the parts (batch, width) of a flat array."""
    ends = [0, *accumulate(batch * width for width in widths)]
    return [flat[a:b].reshape(batch, -1) for a, b in pairwise(ends)]
