"""What the readers of all of torch's formats share: the pickle is run, its tensors found, checked and read."""

import os
from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from sys import getsizeof
from typing import BinaryIO

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.model_file import Budget, FoundLayer, ModelFile, TensorInfo, damaged
from nplstm.io.pt.flatten import named_tensors
from nplstm.io.pt.machine import Machine, Source
from nplstm.io.pt.names import find
from nplstm.io.pt.stored import ITEMSIZES, Storage, StoredTensor
from nplstm.io.pt.torch_names import StorageType
from nplstm.io.pt.values import RefusedError, Value, kind
from nplstm.io.saved_layer import layers_by_metadata

__all__ = ["Declared", "PickledFile", "refusals"]

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


class Declared:
    """What a pickle says of a storage that it refers to."""

    def __init__(self, kind_of: StorageType, key: str, count: int) -> None:
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
        self._stored: dict[str, StoredTensor] = {}

    @abstractmethod
    def _storage(self, declared: Declared, view: Value) -> Storage:
        """Return a storage, checked against what is in the file; or a part of it, if there is a view.

        Raises
        ------
        RefusedError
        """

    def _run(self, source: Source, find: Callable[[str, str], Value] = find) -> tuple[Value, int]:
        """Return what a pickle makes, and of how many operations."""
        machine = Machine(find, self._persistent, self.budget)
        return machine.run(source), machine.steps

    def _persistent(self, identifier: Value) -> Storage:
        match identifier:
            case ("storage", StorageType() as kind_of, str() as key, _, int() as count):
                return self._storage(Declared(kind_of, key, count), None)
            case ("storage", StorageType() as kind_of, str() as key, _, int() as count, view):
                return self._storage(Declared(kind_of, key, count), view)
            case _:
                raise RefusedError(f"refers to what is no storage ({kind(identifier)}); refused")

    def _list(self, root: Value, steps: int) -> None:
        """Find the tensors in what the pickle made of so many operations, and check each.

        Where several come to one name, as in ``{"a.b": tensor, "a": {"b": tensor}}``, a number follows it: none of
        them is lost, and none is taken for the other.
        """
        found: dict[str, list[StoredTensor]] = {}
        for name, tensor in named_tensors(root, steps):
            _check(name, tensor)
            self.budget.take(_DESCRIPTION + getsizeof(name), "the list of its tensors")
            found.setdefault(name, []).append(tensor)
        for name, tensors in found.items():
            for number, tensor in enumerate(tensors, 1):
                self._add(f"{name} ({number})" if len(tensors) > 1 else name, tensor)

    def _add(self, name: str, tensor: StoredTensor) -> None:
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


def _check(name: str, tensor: StoredTensor) -> None:
    try:
        tensor.check()
    except RefusedError as error:
        raise RefusedError(f"the tensor {name[:200]!r:.200} {error}") from error
