"""Base class of PyTorch files: run the pickle, name its tensors by their keys, check and read them."""

import os
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from sys import getsizeof
from types import NoneType
from typing import cast

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.layer_metadata import layers_by_metadata
from nplstm.io.model_file import Budget, FoundLayer, OpenModelFile, TensorInfo, damaged
from nplstm.io.pt.allowed_globals import ScriptObject, find_global
from nplstm.io.pt.storages import ITEMSIZES, Storage, StridedTensor
from nplstm.io.pt.tensor_globals import NumpyArray, StorageClass
from nplstm.io.pt.unpickler import PickledDict, PickleStream, RefusedError, Unpickler, Value, type_name

__all__ = ["DeclaredStorage", "PickledFile", "refusals"]

_DESCRIPTION = 1024
"""About the most memory that the description of a tensor takes, besides the text of its name."""
_LONGEST_KEY = 100
"""torch's keys of storages are numbers."""


@contextmanager
def refusals(path: str | os.PathLike[str], what: str = "") -> Generator[None]:
    """Turn a ``RefusedError`` into a ``FileFormatError`` with the path and ``what`` before its message."""
    try:
        yield
    except RefusedError as error:
        raise FileFormatError(f"{os.fspath(path)}: {what}{error}") from error


class DeclaredStorage:
    """A pickle's declaration of a storage: element type, key and number of elements."""

    def __init__(self, kind_of: StorageClass, key: str, count: int) -> None:
        if len(key) > _LONGEST_KEY:
            raise RefusedError(f"refers to a storage by a name of {len(key):,} characters; refused")
        self.dtype, self.key, self.name = kind_of.dtype, key, f"{key!a:.100}"
        if not 0 <= count < 2**59:
            raise RefusedError(f"the storage {self.name} has a number of elements that no storage has")
        self.itemsize = ITEMSIZES[kind_of.dtype] if kind_of.dtype else 1
        self.count, self.nbytes = count, count * self.itemsize


class PickledFile(OpenModelFile):
    """A file with a pickle of containers and tensors, and the tensors' numbers beside it.

    A subclass runs its pickles in ``_open``, and finds the storages in ``_storage``.
    """

    def __init__(self, path: str | os.PathLike[str], budget: Budget) -> None:
        self._stored: dict[str, StridedTensor] = {}
        with refusals(path):
            super().__init__(path, budget)

    @abstractmethod
    def _storage(self, declared: DeclaredStorage, view: Value) -> Storage:
        """Return a storage, checked against the file; a part of it, if there is a view.

        Raises
        ------
        RefusedError
        """

    def _run(self, stream: PickleStream, find: Callable[[str, str], Value] = find_global) -> tuple[Value, int]:
        """Return the result of a pickle, and the number of opcodes that it ran."""
        unpickler = Unpickler(find, self._persistent, self.budget)
        return unpickler.run(stream), unpickler.steps

    def _persistent(self, identifier: Value) -> Storage:
        match identifier:
            case ("storage", StorageClass() as kind_of, str() as key, _, int() as count):
                return self._storage(DeclaredStorage(kind_of, key, count), None)
            case ("storage", StorageClass() as kind_of, str() as key, _, int() as count, view):
                return self._storage(DeclaredStorage(kind_of, key, count), view)
            case _:
                raise RefusedError(f"refers to what is no storage ({type_name(identifier)}); refused")

    def _list(self, root: Value, steps: int) -> None:
        """Find the tensors in the result of a pickle that ran ``steps`` opcodes, and check each.

        Where several have one name, as in ``{"a.b": tensor, "a": {"b": tensor}}``, a number is added to it: none
        is lost, and none is mistaken for the other.
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
        """Return the layer that the metadata describes; without it, the LSTMs found by names and shapes."""
        return layers_by_metadata(self)


def _check(name: str, tensor: StridedTensor) -> None:
    try:
        tensor.check()
    except RefusedError as error:
        raise RefusedError(f"the tensor {name[:200]!r:.200} {error}") from error


# Names: the keys on the way to each tensor, joined by dots

_LONGEST_NAME = 4096
"""Longer than any real name; this also limits how deep tensors may be nested."""
_MOST_SHARED = 50_000
"""How many more entries than opcodes there may be: a tensor takes some twenty opcodes, which leaves room."""


@dataclass(slots=True)
class _OpenContainer:
    """A container that the walk is in."""

    key: Value  # in the container above
    container: object
    entries: Iterator[tuple[Value, Value]]
    prefix: str | None = None  # of its entries' names; None until a tensor needs it
    empty: bool = True  # no tensor was found in it


def named_tensors(root: Value, steps: int) -> Iterator[tuple[str, StridedTensor]]:
    """Yield the names and tensors in the result of a pickle, in their order.

    Parameters
    ----------
    root : Value
        If it is itself a tensor, the name is ``tensor``.
    steps : int
        How many opcodes made it: without shared containers there are no more entries. A container that is shared
        is walked through at each of its places if there are tensors in it, so that without a limit a few could
        take forever.

    Raises
    ------
    RefusedError
        If a container is inside of itself, a tensor's name is too long or not text, or there are too many entries.
    """
    if (alone := _tensor(root)) is not None:
        yield "tensor", alone
        return
    left = steps + _MOST_SHARED
    levels, inside, empty = [_OpenContainer(None, root, _entries(root), "")], {id(root)}, set[int]()
    while levels:
        level = levels[-1]
        for key, value in level.entries:
            left -= 1
            if left < 0:
                raise RefusedError(f"shared lists and dicts come to more than {steps + _MOST_SHARED:,} entries")
            if (tensor := _tensor(value)) is not None:
                level.empty = False
                yield _join(_prefix(levels), key), tensor
            elif _is_container(value) and id(value) not in empty:
                _enter(levels, key, value, inside)
                break
        else:
            _leave(levels, inside, empty)


def _tensor(value: Value) -> StridedTensor | None:
    if isinstance(value, NumpyArray):
        return value.tensor
    return value if isinstance(value, StridedTensor) else None


def _is_container(value: Value) -> bool:
    return isinstance(value, (PickledDict, ScriptObject, list, tuple))


def _enter(levels: list[_OpenContainer], key: Value, container: Value, inside: set[int]) -> None:
    if id(container) in inside:
        raise RefusedError(f"{_join(_prefix(levels), key)!a:.200} is inside of itself")
    inside.add(id(container))
    levels.append(_OpenContainer(key, container, _entries(container)))


def _leave(levels: list[_OpenContainer], inside: set[int], empty: set[int]) -> None:
    """Leave a container, and note whether there was a tensor in it."""
    level = levels.pop()
    inside.remove(id(level.container))
    if level.empty:
        empty.add(id(level.container))
    elif levels:
        levels[-1].empty = False


def _entries(container: Value) -> Iterator[tuple[Value, Value]]:
    if isinstance(container, PickledDict):
        return iter(container.pairs)
    if isinstance(container, ScriptObject):
        return _parts(container)
    return enumerate(cast("list[Value]", container)) if isinstance(container, (list, tuple)) else iter(())


def _parts(module: ScriptObject) -> Iterator[tuple[Value, Value]]:
    """Yield the attributes of a module; None for those that are not a parameter, buffer or submodule."""
    for key, value in module.attributes.pairs:
        yield key, value if isinstance(value, (StridedTensor, ScriptObject)) else None


def _prefix(levels: list[_OpenContainer]) -> str:
    """Return the prefix of the names in the innermost container."""
    known = len(levels) - 1
    while levels[known].prefix is None:
        known -= 1
    for above, level in pairwise(levels[known:]):
        level.prefix = f"{_join(above.prefix or '', level.key)}."
    return levels[-1].prefix or ""


def _join(prefix: str, key: Value) -> str:
    if not isinstance(key, (str, int, float, NoneType)):
        where = f"{prefix!a:.200}" if prefix else "the object"
        raise RefusedError(f"a tensor in {where} lies under a key that is no text or number: {type_name(key)}")
    name = f"{prefix}{key}"
    if len(name) > _LONGEST_NAME:
        raise RefusedError(
            f"nested too deep, or a name of more than {_LONGEST_NAME:,} characters: {name[:60]!a:.60} ..."
        )
    if not _is_text(name):
        raise RefusedError(f"a name that is no text: {name!a:.200}")
    return name


def _is_text(name: str) -> bool:
    """Tell whether UTF-8 can encode it; half a surrogate pair it cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
