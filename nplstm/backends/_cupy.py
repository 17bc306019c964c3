"""The CuPy backend: arrays on a CUDA device. The only module that imports cupy.

All mathematics is shared with NumPy; the interface for our kernels is in ``_cupy_cuda``.
"""

from importlib import import_module
from typing import Any

from nplstm._typing import Array, DType, DTypeLike
from nplstm.backends._cuda import Cuda, CudaBackend
from nplstm.backends._cupy_cuda import CupyCuda
from nplstm.backends._numpy import draw, require_numpy_generator
from nplstm.errors import BackendUnavailableError

_INSTALL = "pip install 'nplstm[cuda12]' (or 'nplstm[cuda13]', to match the driver)"


def _import_cupy() -> Any:
    """Import CuPy and check that it finds a device; BackendUnavailableError names the one that is missing."""
    try:
        cupy: Any = import_module("cupy")
    except ImportError as error:
        raise BackendUnavailableError(f"backend 'cupy': CuPy is not installed ({error}); {_INSTALL}") from error
    try:
        devices = int(cupy.cuda.runtime.getDeviceCount())
        problem = "no CUDA device is visible"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        devices, problem = 0, str(error)
    if devices == 0:
        raise BackendUnavailableError(
            f"backend 'cupy': CuPy {cupy.__version__} is installed but finds no usable GPU ({problem}); "
            f"install an NVIDIA driver and check it with nvidia-smi, and install the CuPy that matches it: "
            f"{_INSTALL}"
        )
    return cupy


class CupyBackend(CudaBackend):
    """Arrays of CuPy."""

    name = "cupy"
    float_dtypes = ("float16", "float32", "float64")

    def __init__(self) -> None:
        self.xp: Any = _import_cupy()
        self._cuda = CupyCuda(self.xp)

    @property
    def cuda(self) -> Cuda:
        """CuPy's device."""
        return self._cuda

    def is_array(self, value: object) -> bool:
        """Return whether it is a CuPy array."""
        return isinstance(value, self.xp.ndarray)

    def device_of(self, array: Any) -> str:
        """Name the CUDA device."""
        return f"cuda:{array.device.id}"

    def current_device(self) -> str:
        """Name the CUDA device that is current."""
        return f"cuda:{self.xp.cuda.Device().id}"

    def asarray(self, values: Any, dtype: DTypeLike | None = None) -> Array:
        """Copy from the host, or return a CuPy array itself."""
        return self.xp.asarray(values, dtype=dtype)

    def to_numpy(self, array: Array) -> Array:
        """Copy to the host."""
        return self.xp.asnumpy(array)

    def freeze(self, array: Array) -> Array:
        """Return the array itself: CuPy has no read-only arrays."""
        return array

    def guard(self, array: Array) -> Array:
        """Return a copy."""
        return array.copy()

    def random(self, rng: Any, shape: tuple[int, ...], dtype: DType) -> Array:
        """Draw on the device with CuPy's generator; NumPy's numbers are drawn on the host and sent over."""
        # without isinstance for NumPy's generators: it would load CuPy's, and its library
        if type(rng).__module__.startswith("cupy") and isinstance(rng, self.xp.random.Generator):
            return rng.random(shape, dtype="float64" if dtype == "float64" else "float32")
        return self.xp.asarray(draw(require_numpy_generator(rng), shape, dtype))

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self.xp.cuda.get_current_stream().synchronize()


def load() -> CupyBackend:
    """Return the backend, or raise BackendUnavailableError."""
    return CupyBackend()
