"""NumPy: the arrays live in the host's memory.

``numpy.random`` stands in quotes in annotations: NumPy loads it when it is first used, and so do we.
"""

from typing import Any

import numpy as np

from nplstm._typing import Array, DType, DTypeLike
from nplstm.backends._base import Backend
from nplstm.errors import ArgumentError


def require_numpy_generator(rng: object) -> "np.random.Generator":
    """Return ``rng``, or raise naming what was expected."""
    if not isinstance(rng, np.random.Generator):
        raise ArgumentError(
            f"rng: expected a numpy.random.Generator such as numpy.random.default_rng(0), got {rng!r}"
        )
    return rng


def draw(rng: "np.random.Generator", shape: tuple[int, ...], dtype: DType) -> Array:
    """Draw from U[0, 1) on the host; float16 takes float32's numbers, since NumPy draws none of its own."""
    return rng.random(shape, dtype=np.float64 if dtype == np.float64 else np.float32)


class NumpyBackend(Backend):
    """Arrays of NumPy."""

    name = "numpy"
    xp: Any = np
    float_dtypes = ("float32", "float64")

    def is_array(self, value: object) -> bool:
        """Admit plain arrays and memory maps; matrix and MaskedArray redefine arithmetic."""
        return type(value) in (np.ndarray, np.memmap)

    def device_of(self, array: Array) -> str:
        """There is one device."""
        return "cpu"

    def current_device(self) -> str:
        """There is one device."""
        return "cpu"

    def asarray(self, values: Any, dtype: DTypeLike | None = None) -> Array:
        """Take NumPy arrays as they are."""
        return np.asarray(values, dtype=dtype)

    def to_numpy(self, array: Array) -> Array:
        """Nothing to do."""
        return array

    def freeze(self, array: Array) -> Array:
        """Return a read-only view."""
        view = array.view()
        view.setflags(write=False)
        return view

    def guard(self, array: Array) -> Array:
        """Return a read-only view."""
        return self.freeze(array)

    def random(self, rng: Any, shape: tuple[int, ...], dtype: DType) -> Array:
        """Draw with NumPy's generator."""
        return draw(require_numpy_generator(rng), shape, dtype)

    def synchronize(self) -> None:
        """NumPy's calls return when they are done."""


BACKEND = NumpyBackend()
