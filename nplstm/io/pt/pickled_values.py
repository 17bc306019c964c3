"""What a pickle can hold once it is read here: plain containers, and names without the things they name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from nplstm.errors import NplstmError

__all__ = [
    "INVALID_ARGUMENTS",
    "AllowedFunction",
    "Buildable",
    "PickledDict",
    "PickledValue",
    "Placeholder",
    "RefusedError",
    "latin1",
    "type_name",
]

PickledValue: TypeAlias = Any
"""Whatever the pickle's author wished, so that each use has to look first."""


class RefusedError(NplstmError):
    """Something in a file is refused; the message says what, and the reader puts the path before it."""


# These are no named tuples: a pickle's own tuples must never be taken for one of them, nor they for a tuple.


@dataclass(frozen=True, slots=True, eq=False)
class Placeholder:
    """A name with which nothing is to be done, or something that no tensor needs."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class AllowedFunction:
    """A name that a pickle may call, and the function of ours that is called."""

    name: str
    run: Callable[[tuple[PickledValue, ...]], PickledValue]
    """Takes the arguments as they came; returns UNFIT if they are not what they should be."""


INVALID_ARGUMENTS: Final = Placeholder("unfit")


class PickledDict:
    """What a dict becomes: its entries, in their order.

    No hash of a key is taken: some have none, and integers can be chosen so that a dict of them takes hours.
    """

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[PickledValue, PickledValue]] | None = None) -> None:
        self.pairs: list[tuple[PickledValue, PickledValue]] = [] if pairs is None else pairs

    def get(self, key: str) -> PickledValue:
        """Return the value of a key that is text: the last one, as in a dict; None if there is none."""
        return next((value for name, value in reversed(self.pairs) if isinstance(name, str) and name == key), None)


class Buildable(ABC):
    """What takes a state after it was made."""

    @abstractmethod
    def build(self, state: PickledValue) -> bool:
        """Take the state; return whether it is one."""


def type_name(value: PickledValue) -> str:
    """Return what a value is, in a word. Its content is not shown: it may be endless."""
    if isinstance(value, Placeholder | AllowedFunction):
        return value.name
    if isinstance(value, PickledDict):
        return "dict"
    return "None" if value is None else type(value).__name__


def latin1(text: str) -> PickledValue:
    """Return the bytes that text stands for, as old pickles have them; UNFIT if it stands for none."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return INVALID_ARGUMENTS
