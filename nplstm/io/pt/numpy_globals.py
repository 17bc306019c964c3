"""The names by which NumPy's arrays, scalars and element types are pickled; checkpoints often hold some."""

import re
from itertools import accumulate
from operator import mul

from nplstm.io.pt.pickled_values import (
    INVALID_ARGUMENTS,
    AllowedFunction,
    Buildable,
    PickledValue,
    Placeholder,
    latin1,
)
from nplstm.io.pt.storages import NUMPY_CODES, StridedTensor, bytes_of, is_possible, is_shape

__all__ = ["NUMPY_GLOBALS", "NumpyArray"]

_NAMES = {code: name for name, code in NUMPY_CODES.items()}
_CODE = re.compile(r"[a-zA-Z?]\d{0,6}")
_NUMBERS = re.compile(r"[iufc]\d{1,2}|b1")
_ARRAY = Placeholder("numpy.ndarray")


class NumpyType(Buildable):
    """An element type; the byte order comes as its state."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    def build(self, state: PickledValue) -> bool:
        """Take the byte order; the rest tells of types that hold no plain numbers, and those are left out."""
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, *_):
                self.order = ">" if order == ">" else "<"
                return True
            case _:
                return False


class NumpyArray(Buildable):
    """An array; all that it is comes as its state."""

    tensor: StridedTensor | None = None
    """None where it holds no numbers, but text or objects, and so is no tensor."""

    def build(self, state: PickledValue) -> bool:
        """Take sizes, element type, whether in Fortran's order, and the bytes, which old pickles have as text."""
        match state:
            case (int(), shape, NumpyType() as dtype, int() as fortran, data) if is_shape(shape):
                self.tensor = _tensor(shape, dtype, data, fortran=bool(fortran))
                return self.tensor is not None or _NUMBERS.fullmatch(dtype.code) is None
            case _:
                return False


def _tensor(
    shape: tuple[int, ...], dtype: NumpyType, data: PickledValue, *, fortran: bool
) -> StridedTensor | None:
    raw = latin1(data) if isinstance(data, str) else data
    if not isinstance(raw, bytes) or not _NUMBERS.fullmatch(dtype.code):
        return None
    storage = bytes_of(raw, "in the pickle", dtype.order)
    return StridedTensor(_NAMES.get(dtype.code, dtype.code), shape, _strides(shape, fortran), storage=storage)


def _strides(shape: tuple[int, ...], fortran: bool) -> tuple[int, ...]:
    """Return the strides; none for sizes that ``check`` refuses, whose products could be endless."""
    if not shape or not is_possible(shape):
        return ()
    sizes = shape if fortran else shape[::-1]
    strides = tuple(accumulate(sizes[:-1], mul, initial=1))
    return strides if fortran else strides[::-1]


def _type(arguments: tuple[PickledValue, ...]) -> PickledValue:
    match arguments:
        case (str() as code, *_) if _CODE.fullmatch(code):
            return NumpyType(code)
        case _:
            return INVALID_ARGUMENTS


def _new_array(arguments: tuple[PickledValue, ...]) -> PickledValue:
    return NumpyArray() if arguments and arguments[0] is _ARRAY else INVALID_ARGUMENTS


def _array_of_buffer(arguments: tuple[PickledValue, ...]) -> PickledValue:
    match arguments:
        case (bytes() as data, NumpyType() as dtype, shape, "C" | "F" as order):
            array = NumpyArray()
            return array if array.build((1, shape, dtype, order == "F", data)) else INVALID_ARGUMENTS
        case _:
            return INVALID_ARGUMENTS


def _scalar(arguments: tuple[PickledValue, ...]) -> PickledValue:
    return (
        Placeholder("a scalar of NumPy")
        if arguments and isinstance(arguments[0], NumpyType)
        else INVALID_ARGUMENTS
    )


def _names() -> dict[tuple[str, str], PickledValue]:
    functions = {("numpy", "dtype"): _type}
    for core in ("numpy.core", "numpy._core"):
        functions[f"{core}.multiarray", "_reconstruct"] = _new_array
        functions[f"{core}.multiarray", "scalar"] = _scalar
        functions[f"{core}.numeric", "_frombuffer"] = _array_of_buffer  # protocol 5
    return {("numpy", "ndarray"): _ARRAY} | {
        names: AllowedFunction(".".join(names), function) for names, function in functions.items()
    }


NUMPY_GLOBALS = _names()
