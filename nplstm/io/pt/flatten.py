"""Tensors in nested containers by names: the keys on the way to each, joined by dots."""

from collections.abc import Iterator
from types import NoneType
from typing import NamedTuple, cast

from nplstm.io.pt.names import Record
from nplstm.io.pt.numpy_names import NumpyArray
from nplstm.io.pt.stored import StoredTensor
from nplstm.io.pt.values import Items, RefusedError, Value, kind

__all__ = ["named_tensors"]

_LONGEST_NAME = 4096
"""Longer than any; what bounds a name's length bounds how deep containers may lie in one another."""
_MOST_SHARED = 1_000_000


class _Level(NamedTuple):
    """A container on the way."""

    prefix: str
    container: object
    entries: Iterator[tuple[Value, Value]]


def named_tensors(root: Value, steps: int) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors in what a pickle made, with their names, in their order.

    Parameters
    ----------
    root : Value
        A tensor alone is called ``tensor``.
    steps : int
        How many operations made it. Where nothing is shared, there are no more entries. A container that stands in
        several places is walked through in each, so that a few could come to more than can ever be walked through.

    Raises
    ------
    RefusedError
        If a container is inside of itself, a name is too long or is none, or there is no end to the entries.
    """
    if (alone := _tensor(root)) is not None:
        yield "tensor", alone
        return
    left = steps + _MOST_SHARED
    levels, inside = [_Level("", root, _entries(root))], {id(root)}
    while levels:
        prefix, container, entries = levels[-1]
        for key, value in entries:
            left -= 1
            if left < 0:
                raise RefusedError(f"shared lists and dicts come to more than {steps + _MOST_SHARED:,} entries")
            if (tensor := _tensor(value)) is not None:
                yield _join(prefix, key), tensor
            elif _is_container(value):
                levels.append(_enter(_join(prefix, key), value, inside))
                break
        else:
            levels.pop()
            inside.remove(id(container))


def _tensor(value: Value) -> StoredTensor | None:
    if isinstance(value, NumpyArray):
        return value.tensor
    return value if isinstance(value, StoredTensor) else None


def _is_container(value: Value) -> bool:
    return isinstance(value, (Items, Record, list, tuple)) and value != ()


def _enter(name: str, container: Value, inside: set[int]) -> _Level:
    if id(container) in inside:
        raise RefusedError(f"{name:.200} is inside of itself")
    inside.add(id(container))
    return _Level(f"{name}.", container, _entries(container))


def _entries(container: Value) -> Iterator[tuple[Value, Value]]:
    if isinstance(container, Items):
        return iter(container.pairs)
    if isinstance(container, Record):  # what else a module has is no parameter, buffer or submodule
        return (pair for pair in container.attributes.pairs if isinstance(pair[1], (StoredTensor, Record)))
    return enumerate(cast("list[Value]", container)) if isinstance(container, (list, tuple)) else iter(())


def _join(prefix: str, key: Value) -> str:
    if not isinstance(key, (str, int, float, NoneType)):
        raise RefusedError(
            f"an entry of {prefix or 'the object':.200} has no text or number as its key: {kind(key)}"
        )
    name = f"{prefix}{key}"
    if len(name) > _LONGEST_NAME:
        raise RefusedError(
            f"nested too deep, or a name of more than {_LONGEST_NAME:,} characters: {name!a:.60} ..."
        )
    if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
        raise RefusedError(f"a name that is no text: {name!a:.200}")
    return name
