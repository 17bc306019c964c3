"""What each library makes of a case."""

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Prepared", "Unavailable", "choose", "rate_of", "seconds_of", "versions_of"]


class Unavailable(Exception):  # noqa: N818  it is a state, and no fault
    """A library is not there, or cannot do what it is asked for; says why."""


class Prepared(NamedTuple):
    """A case with its weights and inputs in place, and one way to run it."""

    call: Callable[[], Any]
    """What is timed."""
    results: Callable[[], dict[str, np.ndarray]]
    """What is checked: the same computation, with its results by name."""


def choose(ways: dict[str, Prepared]) -> tuple[str, Prepared]:
    """Return the fastest way, with its name."""
    if len(ways) == 1:
        return next(iter(ways.items()))
    for way in ways.values():
        way.call()
    taken = {name: min(seconds_of(way.call, 3) for _ in range(5)) for name, way in ways.items()}
    name = min(taken, key=taken.__getitem__)
    return name, ways[name]


def seconds_of(call: Callable[[], Any], calls: int) -> float:
    """Return what so many calls take together."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def rate_of(call: Callable[[], Any], seconds: float) -> float:
    """Return the calls per second, by calls that together take so long: at least one."""
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or not calls:
        call()
        calls += 1
    return calls / spent


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
