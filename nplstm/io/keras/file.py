"""What the two kinds of Keras's files share: an HDF5 file with weights, and JSON that describes a model."""

import json
import os
from abc import abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.keras.hdf5 import Hdf5
from nplstm.io.model_file import Budget, ModelFile, damaged

__all__ = ["MAX_JSON", "Hdf5File", "read_json", "text_of"]

MAX_JSON = 16 * 2**20
"""More bytes than any configuration takes, and few enough to be parsed."""


class Hdf5File(ModelFile):
    """A file whose tensors are the datasets of an HDF5 file in it, or of itself.

    A reader opens ``_hdf5`` in ``_open``.
    """

    _hdf5: Hdf5

    def __init__(self, path: str | os.PathLike[str], budget: Budget) -> None:
        super().__init__(path, budget)
        self._file = Path(path).open("rb")  # noqa: SIM115  close() closes it
        try:
            with self._sound():
                self._open()
            self.tensors = {name: dataset.info for name, dataset in self._hdf5.datasets.items()}
        except BaseException:
            self._file.close()
            raise

    @abstractmethod
    def _open(self) -> None:
        """Set ``_hdf5``, and ``metadata`` where there is some."""

    @contextmanager
    def _sound(self) -> Generator[None]:
        """Name the file in what is said of what is in it."""
        with damaged(self.path, "not as Keras writes it", ValueError, OverflowError):
            yield

    def _read(self, name: str) -> Array:
        with self._sound():
            return self._hdf5.read(name)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def read_json(path: str | os.PathLike[str], what: str, text: str | bytes | bytearray) -> dict[str, Any]:
    """Parse a JSON object.

    Raises
    ------
    FileFormatError
        If it is none, or is too long or too deep.
    """
    if len(text) > MAX_JSON:
        raise FileFormatError(f"{path}: {what} has {len(text):,} bytes; expected at most {MAX_JSON:,}")
    with damaged(path, f"{what} is not JSON", ValueError, RecursionError):
        found = json.loads(text)
    if not isinstance(found, dict):
        raise FileFormatError(f"{path}: {what} is not an object, but a {type(found).__name__}")
    return cast("dict[str, Any]", found)


def text_of(value: Any) -> str:
    """Return a value of JSON as text; "" for what holds other values."""
    return str(value) if isinstance(value, str | int | float) else ""
