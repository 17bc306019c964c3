"""What several test files need: comparing arrays, and running the library on one flat set of inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Case, H, I

import nplstm
from nplstm.backends import get_backend


def assert_close(actual: Any, expected: Any, rtol: float, name: str = "array") -> None:
    """Compare shape, element type and values; differences are relative to the largest magnitude expected."""
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{name}: dtype {actual.dtype}, expected {expected.dtype}"
    if expected.size == 0:
        return
    difference = np.abs(actual - expected).max()
    scale = np.abs(expected).max()
    assert difference <= rtol * scale, f"{name}: differs by {difference:.3g}, largest magnitude {scale:.3g}"


def make_lstm(case: Case, parameters: Mapping[str, np.ndarray], backend: str) -> nplstm.LSTM:
    """Build the layer of a case with these parameters."""
    lstm = nplstm.LSTM(I, H, **case.options, dtype=case.dtype, backend=backend, rng=0)
    lstm.load_state_dict(parameters)
    return lstm


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Entries under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def run_case(case: Case, given: Mapping[str, np.ndarray], backend: str) -> dict[str, np.ndarray]:
    """Run the library on what a reference was given; return all it computes, under the reference's names."""
    be = get_backend(backend)
    lstm = make_lstm(case, part(given, "parameter."), backend)
    x, output_cotangent = be.asarray(given["input"]), be.asarray(given["grad_output"])
    states = (be.asarray(given["h_0"]), be.asarray(given["c_0"])) if case.states else None
    keywords = {"lengths": case.lengths} if case.layout == "lengths" else {}
    packed = case.layout in {"packed", "packed_unsorted"}
    if packed:
        order = dict(batch_first=case.batch_first, enforce_sorted=case.layout == "packed")
        x = nplstm.pack_padded_sequence(x, case.lengths, **order)
        output_cotangent = nplstm.pack_padded_sequence(output_cotangent, case.lengths, **order)

    def pad(values: Any) -> Any:
        if not packed:
            return values
        return nplstm.pad_packed_sequence(values, batch_first=case.batch_first, total_length=case.steps)[0]

    output, (h_n, c_n) = lstm(x, states, **keywords)
    tape = lstm.record(x, states, **keywords)
    grads = tape.backward(output_cotangent, (be.asarray(given["grad_h_n"]), be.asarray(given["grad_c_n"])))
    results = {"output": pad(output), "h_n": h_n, "c_n": c_n}
    for name, recorded in (("output", pad(tape.output)), ("h_n", tape.h_n), ("c_n", tape.c_n)):
        assert np.array_equal(be.to_numpy(results[name]), be.to_numpy(recorded)), f"{name}: call and record differ"
    results["grad_input"] = pad(grads.input)
    if case.states:
        results |= {"grad_h_0": grads.h_0, "grad_c_0": grads.c_0}
    results |= {f"grad_parameter.{name}": array for name, array in grads.parameters.items()}
    return {name: be.to_numpy(value) for name, value in results.items()}


def compare(actual: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], rtol: float) -> None:
    """Compare all that the library computed with the reference; nothing of the reference may be left over."""
    computed = {k for k in reference if k in {"output", "h_n", "c_n"} or k.startswith("grad_")}
    computed -= {"grad_output", "grad_h_n", "grad_c_n"}
    assert set(actual) == computed
    for name in sorted(computed):
        assert_close(actual[name], reference[name], rtol, name)
