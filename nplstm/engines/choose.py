"""Choice of an engine for a call.

``find_engine`` is the one lookup. It takes the first engine, in the order of speed, that supports the call;
``explain_engine`` says why those before it do not.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

from nplstm._shapes import check_choice
from nplstm.core.cell_spec import CellSpec
from nplstm.engines._numpy import NumpyEngine
from nplstm.engines.base import Engine, Request
from nplstm.engines.compiled import CompiledEngine
from nplstm.engines.cuda import FusedEngine, PersistentEngine
from nplstm.engines.reference import ReferenceEngine
from nplstm.errors import ArgumentError

__all__ = [
    "EngineChoice",
    "allowed_engines",
    "engine_named",
    "explain_engine",
    "find_engine",
    "unsupported_reasons",
    "use_engines",
]

_ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (CompiledEngine(), NumpyEngine(), PersistentEngine(), FusedEngine(), ReferenceEngine())
}
"""By name; for each backend the fastest first."""

_ALL = tuple(_ENGINES)

_UNVERIFIED = "needs verification on a GPU"


def engine_named(name: str) -> Engine:
    """Return the engine of that name."""
    return _ENGINES[name]


class EngineChoice(NamedTuple):
    """Which engine runs a call, and why no faster one does.

    ``str()`` of it says both in words.

    Examples
    --------
    >>> import nplstm
    >>> with nplstm.use_engines("numpy", "plain"):
    ...     choice = nplstm.LSTM(2, 3, proj_size=1).engine_for()
    >>> choice.name, choice.refused["numpy"]
    ('plain', 'supports only the standard LSTM; this layer has proj_size=1')
    """

    name: str
    refused: dict[str, str]
    """By name of a faster engine, why it does not run the call."""
    notes: tuple[str, ...] = ()
    """How the engine runs it, where there is a choice."""

    def __str__(self) -> str:
        refused = (f"  not {name}: {reason}" for name, reason in self.refused.items())
        return "\n".join([self.name, *(f"  {note}" for note in self.notes), *refused])


def _named(argument: str, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        check_choice(argument, name, tuple(_ENGINES))
    return names


@cache
def _from_environment() -> tuple[str, ...]:
    names = os.environ.get("NPLSTM_ENGINES", "").split(",")
    return _named("NPLSTM_ENGINES", tuple(name.strip() for name in names if name.strip()))


_allowed: ContextVar[tuple[str, ...]] = ContextVar("engines", default=())


@contextmanager
def use_engines(*names: str) -> Generator[None]:
    """Let calls within the context use these engines alone, tried in the order given.

    By default all are tried, the fastest first, or those that the environment variable NPLSTM_ENGINES names,
    separated by commas. An engine that has not been verified on its hardware is tried only if it is named.

    Parameters
    ----------
    *names : {"compiled", "numpy", "persistent", "fused", "plain"}

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
    return _allowed.get() or _from_environment() or _ALL


def _named_engines(backend: str) -> tuple[str, ...]:
    """Return the engines that were asked for by name; of the environment's, those for arrays of this backend."""
    of_program = tuple(name for name in _from_environment() if _ENGINES[name].supports_backend(backend))
    return _allowed.get() or of_program


def unsupported_reasons() -> dict[str, str]:
    """Return by name of each engine for NumPy why it cannot run a standard LSTM here; empty where it can."""
    standard = Request("numpy", CellSpec())
    return {
        name: engine.unsupported_reason(standard)
        for name, engine in _ENGINES.items()
        if engine.supports_backend("numpy")
    }


def find_engine(request: Request) -> Engine:
    """Return the first engine that supports the request."""
    return _find(request, {})[0]


def explain_engine(request: Request) -> tuple[Engine, EngineChoice]:
    """Return the first engine that supports the request, its notes, and why faster ones do not."""
    refused: dict[str, str] = {}
    engine, asked = _find(request, refused)
    for name in [name for name, reason in refused.items() if reason == _UNVERIFIED]:
        hint = f"{_UNVERIFIED}; nplstm.use_engines('persistent', 'fused', 'plain') runs it anyway"
        refused[name] = _ENGINES[name].unsupported_reason(asked) or hint
    return engine, EngineChoice(engine.name, refused, tuple(engine.notes(asked)))


def _find(request: Request, refused: dict[str, str]) -> tuple[Engine, Request]:
    """Return the engine and its request; add to ``refused`` why others do not support it."""
    named = _named_engines(request.backend)
    names = named or tuple(name for name, engine in _ENGINES.items() if engine.supports_backend(request.backend))
    for place, name in enumerate(names):
        engine, asked = _ENGINES[name], request._replace(others=names[place + 1 :])
        # an engine that is not allowed is not asked: it would query the device
        reason = _UNVERIFIED if not named and not engine.verified else engine.unsupported_reason(asked)
        if not reason:
            return engine, asked
        refused[name] = reason
    source = "use_engines" if _allowed.get() else "NPLSTM_ENGINES"
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise ArgumentError(f"{source}: none of those allowed runs this call ({reasons})")
