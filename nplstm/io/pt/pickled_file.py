"""What the readers of all of torch's formats share: the pickle is run, its tensors found, checked and read."""

import os
from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from sys import getsizeof
from typing import BinaryIO

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.layer_metadata import layers_by_metadata
from nplstm.io.model_file import Budget, FoundLayer, ModelFile, TensorInfo, damaged
from nplstm.io.pt.allowed_globals import find_global
from nplstm.io.pt.named_tensors import named_tensors
from nplstm.io.pt.pickled_values import PickledValue, RefusedError, type_name
from nplstm.io.pt.storages import ITEMSIZES, Storage, StridedTensor
from nplstm.io.pt.torch_globals import StorageClass
from nplstm.io.pt.unpickler import PickleStream, Unpickler

__all__ = ["DeclaredStorage", "PickledFile", "refusals"]

_DESCRIPTION = 1024
"""About the most memory that what is kept of a tensor takes, besides the text of its name."""
_LONGEST_KEY = 100
"""torch calls its storages by numbers."""


@contextmanager
def refusals(path: str | os.PathLike[str], what: str = "") -> Generator[None]:
    """Put the path, and what it is about, before what is refused."""
    try:
        yield
    except RefusedError as error:
        raise FileFormatError(f"{os.fspath(path)}: {what}{error}") from error


class DeclaredStorage:
    """What a pickle says of a storage that it refers to."""

    def __init__(self, kind_of: StorageClass, key: str, count: int) -> None:
        if len(key) > _LONGEST_KEY:
            raise RefusedError(f"refers to a storage by a name of {len(key):,} characters; refused")
        self.dtype, self.key, self.name = kind_of.dtype, key, f"{key!a:.100}"
        if not 0 <= count < 2**59:
            raise RefusedError(f"the storage {self.name} has a number of elements that no storage has")
        self.itemsize = ITEMSIZES[kind_of.dtype] if kind_of.dtype else 1
        self.count, self.nbytes = count, count * self.itemsize


class PickledFile(ModelFile):
    """A file with a pickle of containers and tensors, and their numbers beside it.

    A subclass opens the file, runs its pickles, and says in ``_storage`` where a storage lies.
    """

    def __init__(self, path: str | os.PathLike[str], budget: Budget, file: BinaryIO) -> None:
        super().__init__(path, budget)
        self._file = file
        self._stored: dict[str, StridedTensor] = {}

    @abstractmethod
    def _storage(self, declared: DeclaredStorage, view: PickledValue) -> Storage:
        """Return a storage, checked against what is in the file; or a part of it, if there is a view.

        Raises
        ------
        RefusedError
        """

    def _run(
        self, source: PickleStream, find_global: Callable[[str, str], PickledValue] = find_global
    ) -> tuple[PickledValue, int]:
        """Return what a pickle makes, and of how many operations."""
        unpickler = Unpickler(find_global, self._persistent, self.budget)
        return unpickler.run(source), unpickler.steps

    def _persistent(self, identifier: PickledValue) -> Storage:
        match identifier:
            case ("storage", StorageClass() as kind_of, str() as key, _, int() as count):
                return self._storage(DeclaredStorage(kind_of, key, count), None)
            case ("storage", StorageClass() as kind_of, str() as key, _, int() as count, view):
                return self._storage(DeclaredStorage(kind_of, key, count), view)
            case _:
                raise RefusedError(f"refers to what is no storage ({type_name(identifier)}); refused")

    def _list(self, root: PickledValue, steps: int) -> None:
        """Find the tensors in what the pickle made of so many operations, and check each.

        Where several come to one name, as in ``{"a.b": tensor, "a": {"b": tensor}}``, a number follows it: none of
        them is lost, and none is taken for the other.
        """
        found: dict[str, list[StridedTensor]] = {}
        for name, tensor in named_tensors(root, steps):
            _check(name, tensor)
            self.budget.take(_DESCRIPTION + getsizeof(name), "the list of its tensors")
            found.setdefault(name, []).append(tensor)
        for name, tensors in found.items():
            for number, tensor in enumerate(tensors, 1):
                self._add(f"{name} ({number})" if len(tensors) > 1 else name, tensor)

    def _add(self, name: str, tensor: StridedTensor) -> None:
        if name in self._stored:
            raise RefusedError(f"two entries come to the same name, {name[:200]!r:.200}")
        self._stored[name] = tensor
        self.tensors[name] = TensorInfo(tensor.shape, tensor.dtype)

    def _read(self, name: str) -> Array:
        what = f"the tensor {name[:200]!r:.200}"
        with (
            refusals(self.path, f"{what} "),
            damaged(self.path, f"{what} cannot be read", ValueError, MemoryError, OverflowError),
        ):
            return self._stored[name].read(self.budget)

    def layers(self) -> list[FoundLayer]:
        """Return the layer that the file says it is; else the LSTMs that its names and shapes show."""
        return layers_by_metadata(self)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _check(name: str, tensor: StridedTensor) -> None:
    try:
        tensor.check()
    except RefusedError as error:
        raise RefusedError(f"the tensor {name[:200]!r:.200} {error}") from error
