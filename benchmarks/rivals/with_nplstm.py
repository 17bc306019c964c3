"""How nplstm runs a case. Which of its engines does is said by NPLSTM_ENGINES, in the worker's environment."""

from typing import Any

import numpy as np

import nplstm
from nplstm.commands.doctor.machine import find_processor

from .cases import Case
from .prepared import Prepared, Unavailable, versions_of

__all__ = ["instructions", "prepare", "start"]


def start(threads: int) -> dict[str, str]:
    """Say what runs; raise where the engine is unknown or cannot run. Threads are in the environment."""
    try:
        nplstm.LSTM(1, 1, rng=0)(np.zeros((1, 1, 1), np.float32))
    except nplstm.ArgumentError as error:
        raise Unavailable(str(error)) from error
    return versions_of("nplstm", "numpy")


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
    options = dict(num_layers=case.layers, bidirectional=case.bidirectional, dtype=case.dtype)
    lstm = nplstm.LSTM(case.H, case.H, **options, rng=0)
    lstm.load_state_dict(case.weights())
    said = dict(lengths=case.lengths()) if case.padded else {}
    make = {"step": _step, "inference": _inference, "training": _training}[case.task]
    return {"": make(lstm, case, said)}


def _inference(lstm: nplstm.LSTM, case: Case, said: dict[str, Any]) -> Prepared:
    x = case.input()

    def results() -> dict[str, np.ndarray]:
        output, (h_n, c_n) = lstm(x, **said)
        return {"output": output, "h_n": h_n, "c_n": c_n}

    return Prepared(lambda: lstm(x, **said), results)


def _training(lstm: nplstm.LSTM, case: Case, said: dict[str, Any]) -> Prepared:
    x, cotangent = case.input(), case.cotangent()

    def results() -> dict[str, np.ndarray]:
        tape = lstm.record(x, **said)
        grads = tape.backward(cotangent)
        return {"output": tape.output, "grad_input": grads.input} | {
            f"grad_{name}": grad for name, grad in grads.parameters.items()
        }

    return Prepared(lambda: lstm.record(x, **said).backward(cotangent), results)


def _step(lstm: nplstm.LSTM, case: Case, said: dict[str, Any]) -> Prepared:
    stream, x = lstm.stream(batch_size=case.B), case.input()
    x_t = x[0]

    def results() -> dict[str, np.ndarray]:
        stream.reset()
        output = np.stack([stream.step(x_t).copy() for x_t in x])
        return {"output": output, "h_n": stream.state[0], "c_n": stream.state[1]}

    return Prepared(lambda: stream.step(x_t), results)
