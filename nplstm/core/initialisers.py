"""Initial values of parameters: named distributions, drawn in float64 on the host and rounded.

So one seed gives the same parameters in every element type and on every backend.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from nplstm._typing import Array, Arrays, DType
from nplstm.backends import Backend
from nplstm.core.params import as_generator
from nplstm.errors import StateDictError

__all__ = ["INITIALISERS", "ParameterSpec", "draw_parameters"]


class ParameterSpec(NamedTuple):
    """Shape and initial distribution of one parameter."""

    kind: str  # the initialiser's name
    shape: tuple[int, ...]
    number: float  # the bound of "uniform", or the value of "constant"
    forget: float | None = None  # value for the forget gate's block, the second of four, in the place of a draw

    def draw(self, rng: "np.random.Generator") -> Array:
        """Draw the initial values, in float64."""
        array = np.ascontiguousarray(INITIALISERS[self.kind](rng, self.shape, self.number))
        if self.forget is not None:
            H = self.shape[0] // 4
            array[H : 2 * H] = self.forget
        return array


def _xavier(rng: "np.random.Generator", shape: tuple[int, ...]) -> float:
    """Return the standard deviation of Glorot & Bengio (2010): sqrt(2 / (fan_in + fan_out))."""
    return (2.0 / (shape[0] + shape[1])) ** 0.5


def _orthogonal(rng: "np.random.Generator", shape: tuple[int, ...]) -> Array:
    """Return a matrix with orthonormal columns, or rows where it is wide (Saxe et al. 2014)."""
    tall = rng.standard_normal(shape if shape[0] >= shape[1] else shape[::-1])
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diagonal(r))  # makes the draw uniform over such matrices
    return q if shape[0] >= shape[1] else q.T


INITIALISERS: dict[str, Callable[["np.random.Generator", tuple[int, ...], float], Array]] = {
    "uniform": lambda rng, shape, bound: rng.uniform(-bound, bound, shape),
    "xavier_uniform": lambda rng, shape, _: rng.uniform(-1, 1, shape) * 3**0.5 * _xavier(rng, shape),
    "xavier_normal": lambda rng, shape, _: rng.standard_normal(shape) * _xavier(rng, shape),
    "orthogonal": lambda rng, shape, _: _orthogonal(rng, shape),
    "constant": lambda rng, shape, value: np.full(shape, value),
}


def draw_parameters(
    starts: Mapping[str, ParameterSpec], *, backend: Backend, dtype: DType, rng: Any
) -> dict[str, Array]:
    """Draw each array, in order; or take the arrays from ``rng`` where it maps names to arrays (from a file)."""
    if isinstance(rng, Mapping):
        return _take(starts, cast("Arrays", rng), backend=backend, dtype=dtype)
    generator = as_generator(rng)
    return {name: backend.asarray(start.draw(generator).astype(dtype)) for name, start in starts.items()}


def _take(
    starts: Mapping[str, ParameterSpec], arrays: Arrays, *, backend: Backend, dtype: DType
) -> dict[str, Array]:
    """Take parameters from NumPy arrays; shapes are compared before memory is allocated."""
    expected = {name: start.shape for name, start in starts.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if found != expected:
        wrong = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        raise StateDictError(
            f"{wrong[0]}: expected {expected.get(wrong[0], 'none')}, got {found.get(wrong[0], 'none')}"
        )
    return {name: backend.asarray(arrays[name].astype(dtype)) for name in starts}
