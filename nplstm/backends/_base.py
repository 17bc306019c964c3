"""``Backend``, the base class: the operations in which array libraries differ.

The mathematics is written once against ``backend.xp``, the library's NumPy-like namespace. A backend adds what the
namespaces do not share: the type of an array, its device, and copies between host and device.
"""

from abc import ABC, abstractmethod
from typing import Any

from nplstm._typing import Array, DType, DTypeLike


class Backend(ABC):
    """One array library."""

    name: str
    """The name in ``backend=``: ``"numpy"`` or ``"cupy"``."""

    xp: Any
    """The namespace with NumPy's functions."""

    float_dtypes: tuple[str, ...]
    """The element types with which an LSTM can compute on this backend."""

    def __reduce__(self) -> tuple[Any, ...]:
        # there is one object for each backend: a layer that is copied or unpickled finds it again by name
        from nplstm.backends import get_backend

        return get_backend, (self.name,)

    @abstractmethod
    def is_array(self, value: object) -> bool:
        """Tell whether ``value`` is an array that this backend computes with."""

    @abstractmethod
    def device_of(self, array: Array) -> str:
        """Return the name of the array's device: ``"cpu"``, ``"cuda:0"``."""

    @abstractmethod
    def current_device(self) -> str:
        """Return the name of the device on which new arrays are made."""

    @abstractmethod
    def asarray(self, values: Any, dtype: DTypeLike | None = None) -> Array:
        """Convert a NumPy array or nested sequences to an array of this backend; without a copy where possible."""

    @abstractmethod
    def to_numpy(self, array: Array) -> Array:
        """Convert an array of this backend to a NumPy array; without a copy where possible."""

    @abstractmethod
    def freeze(self, array: Array) -> Array:
        """Return a read-only view; the array itself where the library has no read-only arrays."""

    @abstractmethod
    def guard(self, array: Array) -> Array:
        """Return a read-only view; a copy where the library has no read-only arrays."""

    @abstractmethod
    def random(self, rng: Any, shape: tuple[int, ...], dtype: DType) -> Array:
        """Draw from U[0, 1): a NumPy generator gives the same numbers on every backend."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished all its work (for timing)."""
