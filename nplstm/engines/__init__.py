"""The ways to compute a layer: the reference, which runs everything, and faster engines for what they support."""

from nplstm.engines.base import Engine, LayerCall, Request, StackCall
from nplstm.engines.choose import (
    EngineChoice,
    allowed_engines,
    explain_engine,
    find_engine,
    unsupported_reasons,
    use_engines,
)
from nplstm.engines.precision import allowed_precision, use_precision
from nplstm.engines.threads import get_num_threads, set_num_threads

__all__ = [
    "Engine",
    "EngineChoice",
    "LayerCall",
    "Request",
    "StackCall",
    "allowed_engines",
    "allowed_precision",
    "explain_engine",
    "find_engine",
    "get_num_threads",
    "set_num_threads",
    "unsupported_reasons",
    "use_engines",
    "use_precision",
]
