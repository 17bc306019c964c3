"""What the benchmark asks of a library: to make something of a case, and to measure a call on its own stream."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from .cases import Case

__all__ = ["Library", "Meter", "MissingError", "Prepared", "is_out_of_memory", "seconds_waited"]


class MissingError(Exception):
    """What the benchmark needs is not there; says what, in a line."""


class Prepared(NamedTuple):
    """A case with its weights and inputs on the device, and one way to run it."""

    call: Callable[[], Any]
    """What is timed."""
    results: Callable[[], dict[str, Any]]
    """What is checked: the same computation, with its results by name, as arrays of one kind for all libraries."""
    engine: str = ""
    """What runs it, where there is a choice."""
    notes: tuple[str, ...] = ()


class Meter(ABC):
    """Measures calls on the stream that is current in a library."""

    @abstractmethod
    def seconds(self, call: Callable[[], Any], calls: int) -> float:
        """Return what so many calls take together, between two events on the stream."""

    @abstractmethod
    def peak_bytes(self, call: Callable[[], Any]) -> int:
        """Return the most memory that the library's arrays take during a call, with what was there before."""

    @abstractmethod
    def wait(self) -> None:
        """Wait for the device; raise if it has failed."""

    @abstractmethod
    def release(self) -> None:
        """Give back all memory that is not in use."""


class Library(ABC):
    """One of those that are compared."""

    name: str
    meter: Meter

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Return versions, and what else figures depend on."""

    @abstractmethod
    def settings(self, case: Case) -> AbstractContextManager[None]:
        """Return a context in which the library computes in the case's precision."""

    @abstractmethod
    def prepare(self, case: Case) -> dict[str, Prepared]:
        """Put a case on the device; return the ways to run it, by name."""

    def forget(self) -> None:  # noqa: B027  there may be nothing to forget
        """Let go of what is kept from one case for the next."""

    def choice(self, case: Case) -> str:
        """Return which engine the library would choose, where it has several."""
        return ""


def seconds_waited(meter: Meter, call: Callable[[], Any], calls: int) -> float:
    """Return what so many calls take together when each is waited for, by the host's clock."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
        meter.wait()
    return time.perf_counter() - start


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a library ran out of memory; each has an error of its own for it."""
    words = str(error).lower()
    named = type(error).__name__ in ("OutOfMemoryError", "MemoryError")
    return named or "out of memory" in words or "alloc_failed" in words
