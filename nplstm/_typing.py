"""Type aliases for annotations.

``Array`` stands for a NumPy or a CuPy array. CuPy has NumPy's interface and no type stubs, so a type checker reads
both as ``numpy.ndarray``.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]
HostIndices: TypeAlias = NDArray[np.int64]
DType: TypeAlias = np.dtype[Any]

__all__ = ["Array", "Arrays", "DType", "DTypeLike", "HostIndices"]
