"""A library on the GPU as the benchmark uses it: layers kept from case to case, waiting, its errors."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ..common.cases import Case, Prepared

__all__ = ["Library", "MissingError", "is_out_of_memory", "seconds_waited"]


class MissingError(Exception):
    """What the benchmark needs is not there; says what, in a line."""


class Library(ABC):
    """One of those that are compared.

    Its ``meter`` measures on the library's current stream: ``seconds(call, calls)`` between two events,
    ``peak_bytes(call)`` of its allocator; it can ``wait()`` for the device, which raises if that has failed, and
    ``release()`` memory that is not in use.
    """

    def __init__(self, name: str, meter: Any) -> None:
        self.name, self.meter = name, meter
        self._kept: tuple[Any, Any] | None = None

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Return versions, and what else figures depend on."""

    @abstractmethod
    def settings(self, case: Case) -> AbstractContextManager[None]:
        """Return a context in which the library computes in the case's precision."""

    @abstractmethod
    def prepare(self, case: Case) -> dict[str, Prepared]:
        """Put a case on the device; return the ways to run it, by name."""

    @abstractmethod
    def make_layer(self, case: Case) -> Any:
        """Make the case's layer on the device."""

    def choice(self, case: Case) -> str:
        """Return which engine the library would choose, where it has several."""
        return ""

    def layer(self, case: Case) -> Any:
        """Return the case's layer, which the case before it may have had too."""
        key = case.layers, case.bidirectional, case.H, case.precision
        if self._kept is None or self._kept[0] != key:
            self.forget()
            self._kept = key, self.make_layer(case)
        return self._kept[1]

    def forget(self) -> None:
        """Let go of the layer."""
        self._kept = None


def seconds_waited(meter: Any, call: Callable[[], Any], calls: int) -> float:
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
