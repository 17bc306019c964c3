"""What nplstm needs of an array library, in a dozen members.

The mathematics is written once against ``backend.xp``, the library's NumPy-like namespace. A backend adds
only what the namespaces do not share: what an array is, where it lives, and how it gets there and back.
"""

from abc import ABC, abstractmethod
from typing import Any

from nplstm._typing import Array, DType, DTypeLike


class Backend(ABC):
    """One array library."""

    name: str
    """What users write: ``"numpy"`` or ``"cupy"``."""

    xp: Any
    """The namespace with NumPy's functions."""

    float_dtypes: tuple[str, ...]
    """The element types that an LSTM may have here."""

    def __reduce__(self) -> tuple[Any, ...]:
        # there is one object for each backend: a layer that is copied or unpickled finds it again by name
        from nplstm.backends import get_backend

        return get_backend, (self.name,)

    @abstractmethod
    def is_array(self, value: object) -> bool:
        """Tell whether ``value`` is an array that this backend computes with."""

    @abstractmethod
    def device_of(self, array: Array) -> str:
        """Name the place where ``array`` lives: ``"cpu"``, ``"cuda:0"``."""

    @abstractmethod
    def current_device(self) -> str:
        """Name the place where new arrays are made."""

    @abstractmethod
    def asarray(self, values: Any, dtype: DTypeLike | None = None) -> Array:
        """Bring a NumPy array, or nested sequences, here; no copy where none is needed."""

    @abstractmethod
    def to_numpy(self, array: Array) -> Array:
        """Bring an array of this backend to the host; no copy where none is needed."""

    @abstractmethod
    def freeze(self, array: Array) -> Array:
        """Return a view that refuses writes; where the library has none, the array itself."""

    @abstractmethod
    def guard(self, array: Array) -> Array:
        """Return the array in a form through which its holder cannot change it: read-only, or a copy."""

    @abstractmethod
    def random(self, rng: Any, shape: tuple[int, ...], dtype: DType) -> Array:
        """Draw from U[0, 1): a NumPy generator gives the same numbers on every backend."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work handed to the device is done (for timing)."""
