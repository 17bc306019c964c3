"""Which way to compute: the plain time loop, or a faster engine for what it claims.

``find_engine`` is the one lookup. It takes the first engine, in the order of speed, that does not refuse, and
tells why those before it did.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

from nplstm._shapes import check_choice
from nplstm.cells.spec import CellSpec
from nplstm.engines._numpy import NumpyEngine
from nplstm.engines.base import Engine, Lane, Request
from nplstm.engines.compiled import CompiledEngine
from nplstm.engines.plain import PlainEngine
from nplstm.engines.threads import get_num_threads, set_num_threads
from nplstm.errors import ArgumentError

__all__ = [
    "Engine",
    "EngineChoice",
    "Lane",
    "Request",
    "allowed_engines",
    "engine_refusals",
    "find_engine",
    "get_num_threads",
    "set_num_threads",
    "use_engines",
]

_ENGINES: dict[str, Engine] = {engine.name: engine for engine in (CompiledEngine(), NumpyEngine(), PlainEngine())}
"""By name, the fastest first."""


class EngineChoice(NamedTuple):
    """Which engine runs a call, and why no faster one does.

    ``str()`` of it says both in words.

    Examples
    --------
    >>> import nplstm
    >>> with nplstm.use_engines("numpy", "plain"):
    ...     choice = nplstm.LSTM(2, 3, proj_size=1).engine_for()
    >>> choice.name, choice.refused["numpy"]
    ('plain', 'it runs the standard LSTM, and there is proj_size')
    """

    name: str
    refused: dict[str, str]
    """By name of a faster engine, why it does not run the call."""

    def __str__(self) -> str:
        return "\n".join([self.name, *(f"  not {name}: {reason}" for name, reason in self.refused.items())])


def _named(argument: str, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        check_choice(argument, name, tuple(_ENGINES))
    return names


@cache
def _from_environment() -> tuple[str, ...]:
    given = os.environ.get("NPLSTM_ENGINES", "")
    return _named("NPLSTM_ENGINES", tuple(name.strip() for name in given.split(",") if name.strip()))


_allowed: ContextVar[tuple[str, ...]] = ContextVar("engines", default=())


@contextmanager
def use_engines(*names: str) -> Generator[None]:
    """Let calls within the context use these engines alone, tried in the order given.

    By default all are tried, the fastest first, or those that the environment variable NPLSTM_ENGINES names,
    separated by commas.

    Parameters
    ----------
    *names : {"compiled", "numpy", "plain"}

    Raises
    ------
    ArgumentError
        For a name that is none; and, at a call, if none of the engines runs it.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> lstm = nplstm.LSTM(2, 3, rng=0)
    >>> with nplstm.use_engines("plain"):
    ...     print(lstm.engine_for())
    plain
    """
    if not names:
        raise ArgumentError(f"names: expected at least one of {', '.join(map(repr, _ENGINES))}")
    token = _allowed.set(_named("names", names))
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed_engines() -> tuple[str, ...]:
    """Return the names of the engines that may be used here, in the order in which they are tried."""
    return _allowed.get() or _from_environment() or tuple(_ENGINES)


def engine_refusals() -> dict[str, str]:
    """Return by name of each engine why it would not run a standard LSTM on NumPy here; empty where it would."""
    standard = Request("numpy", CellSpec())
    return {name: engine.refusal(standard) for name, engine in _ENGINES.items()}


def find_engine(request: Request) -> tuple[Engine, EngineChoice]:
    """Return the first engine that does not refuse."""
    refused: dict[str, str] = {}
    for name in allowed_engines():
        reason = _ENGINES[name].refusal(request)
        if not reason:
            return _ENGINES[name], EngineChoice(name, refused)
        refused[name] = reason
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise ArgumentError(f"use_engines: none of those allowed runs this call ({reasons})")
