"""How nplstm runs a case, on the backend of the layer."""

from typing import Any

import nplstm
from nplstm.backends import get_backend

from .cases import Case, Prepared


def make_layer(case: Case, backend: str = "numpy") -> nplstm.LSTM:
    """Return a layer with the case's weights."""
    options = dict(num_layers=case.layers, bidirectional=case.bidirectional, dtype=case.dtype)
    lstm = nplstm.LSTM(case.H, case.H, **options, backend=backend, rng=0)
    lstm.load_state_dict({n: get_backend(backend).asarray(values) for n, values in case.weights().items()})
    return lstm


def prepare(case: Case, lstm: nplstm.LSTM, backend: str = "numpy") -> Prepared:
    """Put the case's input in place."""
    if case.task in ("step", "latency"):
        return _step(lstm, case, get_backend(backend))
    arrays = get_backend(backend)
    choice, x = lstm.engine_for(case.B), arrays.asarray(case.input())
    options = dict(lengths=case.lengths()) if case.padded else {}
    if case.task == "inference":

        def call() -> Any:
            return lstm(x, **options)

        def results() -> dict[str, Any]:
            output, (h_n, c_n) = call()
            return {"output": output, "h_n": h_n, "c_n": c_n}

    else:
        cotangent = arrays.asarray(case.cotangent())

        def call() -> Any:
            return lstm.record(x, **options).backward(cotangent)

        def results() -> dict[str, Any]:
            tape = lstm.record(x, **options)
            grads = tape.backward(cotangent)
            parameters = {f"grad_{name}": grad for name, grad in grads.parameters.items()}
            return {"output": tape.output, "grad_input": grads.input} | parameters

    return Prepared(call, results, choice.name, _notes(choice))


def _step(lstm: nplstm.LSTM, case: Case, arrays: Any) -> Prepared:
    stream, x = lstm.stream(batch_size=case.B), arrays.asarray(case.input())
    x_t = x[0]

    def results() -> dict[str, Any]:
        stream.reset()
        outputs = [stream.step(x[t]).copy().reshape((1, case.B, -1)) for t in range(case.T)]
        h, c = stream.state
        return {"output": arrays.xp.concatenate(outputs), "h_n": h, "c_n": c}

    return Prepared(lambda: stream.step(x_t), results, stream.engine.name, _notes(stream.engine))


def _notes(choice: Any) -> tuple[str, ...]:
    """Return how the engine runs it, and why no faster one does."""
    return (*choice.notes, *(f"not {name}: {reason}" for name, reason in choice.refused.items()))
