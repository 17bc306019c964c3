"""nplstm in a worker's process; NPLSTM_ENGINES in its environment says which engine runs."""

from importlib.metadata import version

import numpy as np

import nplstm
from nplstm.commands.doctor.machine import find_processor

from ..common import with_nplstm
from ..common.cases import Case, Prepared
from .worker import Unavailable


def start(threads: int) -> dict[str, str]:
    """Return versions; raise where the engine is unknown or cannot run. Threads are in the environment."""
    try:
        nplstm.LSTM(1, 1, rng=0)(np.zeros((1, 1, 1), np.float32))
    except nplstm.ArgumentError as error:
        raise Unavailable(str(error)) from error
    return {name: version(name) for name in ("nplstm", "numpy")}


def instructions() -> dict[str, str]:
    """Return which instruction sets the engine, NumPy and its BLAS say they use."""
    from threadpoolctl import threadpool_info

    notes = "; ".join(nplstm.LSTM(1, 1, rng=0).engine_for().notes)
    loops = find_processor().simd_found
    blas = sorted(
        {p["architecture"] for p in threadpool_info() if p["user_api"] == "blas" and p.get("architecture")}
    )
    said = {"nplstm": notes, "NumPy": ", ".join(loops), "BLAS": ", ".join(blas)}
    return {part: found for part, found in said.items() if found}


def prepare(case: Case) -> dict[str, Prepared]:
    """Make the layer and its input."""
    return {"": with_nplstm.prepare(case, with_nplstm.make_layer(case))}
