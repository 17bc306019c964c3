"""Base class of all file readers, with what they share: memory budget, tensor and layer descriptions, checks.

Numbers are read only on request, and sizes that a file declares are checked before memory is taken for them.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, Self

import numpy as np

from nplstm._typing import Array, DType
from nplstm.errors import ArgumentError, FileFormatError, NplstmError

__all__ = [
    "MAX_BYTES",
    "WIDENED",
    "Budget",
    "FoundLayer",
    "ModelFile",
    "OpenModelFile",
    "TensorInfo",
    "array_from_bytes",
    "check_ordinary",
    "damaged",
    "describe",
    "printable",
    "widen_bfloat16",
]

MAX_BYTES = 8 * 2**30
"""How much memory the tensors of one file may take, unless the caller says otherwise."""

WIDENED = {"bfloat16": "float32"}
"""Element types that NumPy lacks, and the one that holds all their values exactly."""


class TensorInfo(NamedTuple):
    """Shape and element type of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: str  # as the file has it: NumPy's name where NumPy has such a type, else the file's own

    @property
    def size(self) -> int:
        """How many elements there are."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The memory that the tensor takes as an array; 0 for a type that cannot be read."""
        return self.size * self._as_read.itemsize if self.readable else 0

    @property
    def readable(self) -> bool:
        """Whether NumPy has the element type, or one that holds all its values."""
        try:
            return self._as_read.kind in "biufc"
        except TypeError:
            return False

    @property
    def _as_read(self) -> DType:
        return np.dtype(WIDENED.get(self.dtype, self.dtype))


@dataclass(frozen=True)
class FoundLayer:
    """An LSTM found in a file: its name and options; its weights are read on request."""

    name: str
    """Prefix of its tensors' names, or the name of its node or layer; may be empty."""
    options: Mapping[str, Any]
    """The arguments of ``nplstm.layers.config.layer_of``, with ``kind``; those left out have their defaults."""
    read: Callable[[], dict[str, Array]]
    """Reads the parameters, by torch's names, as NumPy arrays of one element type."""
    dtype: str
    """Element type of the weights in the file; several, joined by a comma, where they differ."""
    num_parameters: int = 0
    problem: str | None = None
    """Why it cannot be loaded as a layer; the options are then incomplete."""
    notes: tuple[str, ...] = ()
    """Remarks for the user."""
    cautions: tuple[str, ...] = ()
    """Why the layer alone may compute other numbers than its model; ``load`` warns of each."""
    parts: tuple["FoundLayer", ...] = field(default=(), repr=False)
    """The layers in the file that this one joins; each can be loaded by its own name."""


class Budget:
    """The memory that reading one file may take."""

    def __init__(self, path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> None:
        self._path, self._max, self._left = path, max_bytes, max_bytes

    def take(self, nbytes: int, what: str) -> None:
        """Count memory before it is taken; raise if it is more than the budget has left.

        Raises
        ------
        FileFormatError
        """
        if nbytes > self._left:
            raise FileFormatError(
                f"{self._path}: {what} takes {nbytes:,} bytes, and of max_bytes={self._max:,} only "
                f"{self._left:,} are left; raise max_bytes if you trust the file"
            )
        self._left -= nbytes

    def give_back(self, nbytes: int) -> None:
        """Count memory that was freed."""
        self._left += nbytes


class ModelFile(ABC):
    """A file open for reading; a context manager that closes it.

    A subclass sets ``tensors`` in its constructor, and reads one tensor at a time in ``_read``.

    Attributes
    ----------
    path : str or PathLike
    metadata : dict of str to str
        Text that the file carries beside its tensors.
    tensors : dict of str to TensorInfo
    """

    format: str
    """Name of the file's format, for messages."""
    without_lstm: str = ""
    """Addition to the message that no LSTM is in the file."""

    def __init__(self, path: str | os.PathLike[str], budget: Budget) -> None:
        self.path = path
        self.budget = budget
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, TensorInfo] = {}

    def read(self, name: str) -> Array:
        """Return a tensor as a new NumPy array, contiguous and in this machine's byte order.

        Raises
        ------
        ArgumentError
            If no tensor has that name.
        FileFormatError
            If it is damaged, of an element type that cannot be read, or takes more memory than is allowed.
        """
        if name not in self.tensors:
            raise ArgumentError(f"name: {os.fspath(self.path)} has no tensor {name!r}")
        info = self.tensors[name]
        if not info.readable:
            raise FileFormatError(
                f"{self.path}: the tensor {name!r} is {printable(info.dtype)}, no type of numbers that NumPy has"
            )
        self.budget.take(info.nbytes, f"the tensor {name!r}")
        return self._read(name)

    @abstractmethod
    def _read(self, name: str) -> Array:
        """Return a tensor that exists, and whose memory has been counted."""

    @abstractmethod
    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs that are in the file."""

    def close(self) -> None:  # noqa: B027  not every reader keeps its file open
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)


class OpenModelFile(ModelFile):
    """A file that stays open while its tensors are read; a subclass reads what it needs at first in ``_open``."""

    def __init__(self, path: str | os.PathLike[str], budget: Budget) -> None:
        super().__init__(path, budget)
        self._file = open(path, "rb")  # noqa: PTH123, SIM115  pathlib takes its time to import; close() closes it
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    @abstractmethod
    def _open(self) -> None:
        """Set ``tensors``, and ``metadata`` if the file has any."""

    def _read_at(self, start: int, nbytes: int, what: str) -> bytearray:
        """Return bytes of the file; raise if it ends before."""
        data = bytearray(nbytes)
        self._file.seek(start)
        if self._file.readinto(data) != nbytes:
            raise FileFormatError(f"{os.fspath(self.path)}: the file ends inside {what}")
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_ordinary(path: str | os.PathLike[str]) -> None:
    """Raise unless the path is an ordinary file: a pipe or device cannot be read in parts."""
    if not os.path.isfile(path):  # noqa: PTH113  pathlib takes its time to import
        os.stat(path)  # noqa: PTH116
        raise FileFormatError(f"{os.fspath(path)}: not an ordinary file")


def printable(text: str) -> str:
    """Return a text from a file with control characters, which a terminal would obey, written as escapes."""
    return text if text.isprintable() else repr(text)[1:-1]


def describe(error: BaseException) -> str:
    """Return an error's text; with its class where the text alone says too little."""
    text = printable(" ".join(str(error).split()))
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__} {text}".strip()


@contextmanager
def damaged(path: str | os.PathLike[str], what: str, *errors: type[Exception]) -> Generator[None]:
    """Turn these errors into a ``FileFormatError`` that begins with ``{path}: {what}: ``.

    Errors of nplstm's own classes pass unchanged.
    """
    try:
        yield
    except NplstmError:
        raise
    except errors as error:
        raise FileFormatError(f"{os.fspath(path)}: {what}: {describe(error)}") from error


def widen_bfloat16(data: "bytes | bytearray | memoryview", shape: tuple[int, ...], order: str = "<") -> Array:
    """Return bfloat16 numbers, as bytes, as the same numbers in float32: a bfloat16 is a float32's upper half."""
    wide = np.frombuffer(data, dtype=f"{order}u2").astype(np.uint32)
    return np.left_shift(wide, 16, out=wide).view(np.float32).reshape(shape)


def array_from_bytes(data: bytes | bytearray, dtype: str, shape: tuple[int, ...], order: str = "<") -> Array:
    """Return numbers, as bytes, as an array in this machine's byte order; bfloat16 becomes float32."""
    if dtype in WIDENED:
        return widen_bfloat16(data, shape, order)
    stored = np.frombuffer(data, dtype=order + np.dtype(dtype).str[1:])
    return stored.astype(dtype, copy=not stored.flags.writeable).reshape(shape)
