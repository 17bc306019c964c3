"""Tensors in nested containers by names: the keys on the way to each, joined by dots."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import NoneType
from typing import cast

from nplstm.io.pt.allowed_globals import ScriptObject
from nplstm.io.pt.numpy_globals import NumpyArray
from nplstm.io.pt.pickled_values import PickledDict, PickledValue, RefusedError, type_name
from nplstm.io.pt.storages import StridedTensor

__all__ = ["named_tensors"]

_LONGEST_NAME = 4096
"""Longer than any; what bounds a name's length bounds how deep tensors may lie."""
_MOST_SHARED = 50_000
"""How many entries more there may be than operations. A tensor takes some twenty, so that most of what is shared
is paid for."""


@dataclass(slots=True)
class _OpenContainer:
    """A container on the way."""

    key: PickledValue  # under which it lies in the one above
    container: object
    entries: Iterator[tuple[PickledValue, PickledValue]]
    prefix: str | None = None  # of its entries' names; None as long as no tensor needs it
    barren: bool = True  # no tensor was found in it


def named_tensors(root: PickledValue, steps: int) -> Iterator[tuple[str, StridedTensor]]:
    """Yield the tensors in what a pickle made, with their names, in their order.

    Parameters
    ----------
    root : Value
        A tensor alone is called ``tensor``.
    steps : int
        How many operations made it. Where nothing is shared, there are no more entries. A container that stands in
        several places is walked through in each if there are tensors in it, so that a few could come to more than
        can ever be walked through.

    Raises
    ------
    RefusedError
        If a container is inside of itself, a tensor's name is too long or is none, or there is no end to the
        entries.
    """
    if (alone := _tensor(root)) is not None:
        yield "tensor", alone
        return
    left = steps + _MOST_SHARED
    levels, inside, barren = [_OpenContainer(None, root, _entries(root), "")], {id(root)}, set[int]()
    while levels:
        level = levels[-1]
        for key, value in level.entries:
            left -= 1
            if left < 0:
                raise RefusedError(f"shared lists and dicts come to more than {steps + _MOST_SHARED:,} entries")
            if (tensor := _tensor(value)) is not None:
                level.barren = False
                yield _join(_prefix(levels), key), tensor
            elif _is_container(value) and id(value) not in barren:
                _enter(levels, key, value, inside)
                break
        else:
            _leave(levels, inside, barren)


def _tensor(value: PickledValue) -> StridedTensor | None:
    if isinstance(value, NumpyArray):
        return value.tensor
    return value if isinstance(value, StridedTensor) else None


def _is_container(value: PickledValue) -> bool:
    return isinstance(value, (PickledDict, ScriptObject, list, tuple))


def _enter(levels: list[_OpenContainer], key: PickledValue, container: PickledValue, inside: set[int]) -> None:
    if id(container) in inside:
        raise RefusedError(f"{_join(_prefix(levels), key)!a:.200} is inside of itself")
    inside.add(id(container))
    levels.append(_OpenContainer(key, container, _entries(container)))


def _leave(levels: list[_OpenContainer], inside: set[int], barren: set[int]) -> None:
    """Go up, and note whether there is anything to come back for."""
    level = levels.pop()
    inside.remove(id(level.container))
    if level.barren:
        barren.add(id(level.container))
    elif levels:
        levels[-1].barren = False


def _entries(container: PickledValue) -> Iterator[tuple[PickledValue, PickledValue]]:
    if isinstance(container, PickledDict):
        return iter(container.pairs)
    if isinstance(container, ScriptObject):
        return _parts(container)
    return enumerate(cast("list[PickledValue]", container)) if isinstance(container, (list, tuple)) else iter(())


def _parts(module: ScriptObject) -> Iterator[tuple[PickledValue, PickledValue]]:
    """Yield the attributes; without their values those that are no parameter, buffer or submodule."""
    for key, value in module.attributes.pairs:
        yield key, value if isinstance(value, (StridedTensor, ScriptObject)) else None


def _prefix(levels: list[_OpenContainer]) -> str:
    """Return what stands before the names of the last level's entries."""
    known = len(levels) - 1
    while levels[known].prefix is None:
        known -= 1
    for above, level in pairwise(levels[known:]):
        level.prefix = f"{_join(above.prefix or '', level.key)}."
    return levels[-1].prefix or ""


def _join(prefix: str, key: PickledValue) -> str:
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
    """Tell whether UTF-8 can hold it; not so half a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
