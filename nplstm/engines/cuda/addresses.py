"""Addresses, strides and dense copies of arrays for kernels."""

from typing import NamedTuple

from nplstm._typing import Array
from nplstm.backends import backend_of
from nplstm.backends._cuda import Cuda, CudaBackend
from nplstm.core.layer_weights import LayerWeights

__all__ = ["DeviceWeights", "address", "cuda_of", "dense_rows", "row_stride", "rows_address"]


def cuda_of(array: Array) -> Cuda:
    """Return the device of an array that kernels can reach."""
    backend = backend_of(array)
    assert isinstance(backend, CudaBackend)
    return backend.cuda


def address(array: Array | None) -> int:
    """Return the address of a dense array; null for None."""
    if array is None:
        return 0
    if not array.flags.c_contiguous:
        raise AssertionError("a kernel would read other elements")
    return cuda_of(array).address(array)


def rows_address(array: Array | None) -> int:
    """Return the address of an array (n, m) with dense rows; null for None."""
    if array is None:
        return 0
    if not _has_dense_rows(array):
        raise AssertionError("a kernel would read other elements")
    return cuda_of(array).address(array)


def row_stride(array: Array | None) -> int:
    """Return the number of elements between the rows of an array (n, m); 0 for None."""
    return 0 if array is None else array.strides[0] // array.dtype.itemsize


def dense_rows(array: Array) -> Array:
    """Return the array (n, m), copied if the elements of a row do not stand side by side."""
    return array if _has_dense_rows(array) else array.copy()


class DeviceWeights(NamedTuple):
    """The parameters of one direction of a layer as dense arrays."""

    ih: Array  # (4H, I)
    hh: Array  # (4H, H)
    bias_ih: Array | None  # (4H)
    bias_hh: Array | None  # (4H)

    @classmethod
    def of(cls, weights: LayerWeights) -> "DeviceWeights":
        """Return them; made once for as long as the weights live."""
        return weights.prepared(_dense)


def _dense(weights: LayerWeights) -> DeviceWeights:
    params = weights.params
    arrays = params.weight_ih, params.weight_hh, params.bias_ih, params.bias_hh
    return DeviceWeights(*(a if a is None or a.flags.c_contiguous else a.copy() for a in arrays))  # pyright: ignore[reportArgumentType]


def _has_dense_rows(array: Array) -> bool:
    return array.shape[1] <= 1 or array.strides[1] == array.dtype.itemsize
