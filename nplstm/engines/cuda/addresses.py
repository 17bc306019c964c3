"""Arrays as kernels read them: from an address on, nothing between the elements, or between those of a row."""

from typing import NamedTuple

from nplstm._typing import Array
from nplstm.backends import backend_of
from nplstm.backends._cuda import Cuda, CudaBackend
from nplstm.params import LSTMParams
from nplstm.recurrence import Recurrence

__all__ = ["Weights", "address", "cuda_of", "dense_rows", "row_stride", "rows_address"]


def cuda_of(array: Array) -> Cuda:
    """Return the device of an array that kernels can reach."""
    backend = backend_of(array)
    assert isinstance(backend, CudaBackend)
    return backend.cuda


def address(array: Array | None) -> int:
    """Return where the elements of a dense array begin; the null address of none."""
    if array is None:
        return 0
    assert _is_dense(array), "a kernel would read other elements"
    return cuda_of(array).address(array)


def rows_address(array: Array | None) -> int:
    """Return where the elements of an array (n, m) with dense rows begin; the null address of none."""
    if array is None:
        return 0
    assert _has_dense_rows(array), "a kernel would read other elements"
    return cuda_of(array).address(array)


def row_stride(array: Array | None) -> int:
    """Return how many elements lie between the rows of an array (n, m); 0 for none."""
    return 0 if array is None else array.strides[0] // array.dtype.itemsize


def dense_rows(array: Array) -> Array:
    """Return the array (n, m), copied if the elements of a row do not stand side by side."""
    return array if _has_dense_rows(array) else array.copy()


class Weights(NamedTuple):
    """The parameters of a lane, dense."""

    ih: Array  # (4H, I)
    hh: Array  # (4H, H)
    bias: Array | None  # (4H)  b_ih + b_hh

    @classmethod
    def of(cls, recurrence: Recurrence) -> "Weights":
        """Return them; made once for as long as the recurrence lives."""
        return recurrence.prepared(_weights)


def _weights(params: LSTMParams) -> Weights:
    ih, hh = (a if _is_dense(a) else a.copy() for a in (params.weight_ih, params.weight_hh))
    return Weights(ih, hh, params.bias)


def _has_dense_rows(array: Array) -> bool:
    return array.shape[1] <= 1 or array.strides[1] == array.dtype.itemsize


def _is_dense(array: Array) -> bool:
    """Tell whether the elements stand in the order of the axes with nothing between them."""
    stride = array.dtype.itemsize
    for size, found in zip(array.shape[::-1], array.strides[::-1], strict=True):
        if size > 1 and found != stride:
            return False
        stride *= max(size, 1)
    return True
