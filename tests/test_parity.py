"""The library against torch: values and gradients of everything, over the whole table of cases.

The golden files were saved by ``make_golden.py``; where torch is installed, the same table also runs live with
fresh random values.
"""

import numpy as np
import pytest
from cases import CASES, RTOL, H, I, P
from helpers import assert_close, compare, part, run_case

import nplstm
from nplstm.core.cell import gates_forward

CELLS = [(d, bias, batched) for d in ("float64", "float32") for bias in (True, False) for batched in (True, False)]


def test_there_are_at_least_40_golden_cases():
    assert len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lstm_is_torchs(case, golden, be):
    reference = golden("lstm", str(case))
    compare(run_case(case, reference, be.name), reference, RTOL[case.dtype])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lstm_is_torchs_live(case, torch_reference, be):
    seed = int(np.random.default_rng().integers(2**31))
    reference = torch_reference.run_lstm(case, seed)
    try:
        compare(run_case(case, reference, be.name), reference, RTOL[case.dtype])
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("key", CELLS, ids=str)
def test_cell_is_torchs(key, golden, be):
    dtype, bias, _ = key
    reference = golden("cell", str(key))
    cell = nplstm.LSTMCell(I, H, bias, dtype=dtype, backend=be.name)
    cell.load_state_dict(part(reference, "parameter."))
    x, h, c = (be.asarray(reference[name]) for name in ("input", "h_0", "c_0"))
    called = cell(x, (h, c))
    tape = cell.record(x, (h, c))
    grads = tape.backward(be.asarray(reference["grad_h"]), be.asarray(reference["grad_c"]))
    actual = {"h": tape.h, "c": tape.c}
    actual |= {"grad_input": grads.input, "grad_h_0": grads.h_0, "grad_c_0": grads.c_0}
    actual |= {f"grad_parameter.{name}": array for name, array in grads.parameters.items()}
    for name, value in actual.items():
        assert_close(be.to_numpy(value), reference[name], RTOL[dtype], name)
    for name, value in zip(("h", "c"), called, strict=True):
        assert np.array_equal(be.to_numpy(value), be.to_numpy(actual[name]))


def test_a_hundred_updates_with_adam_give_torchs_losses(golden, be):
    reference = golden("training", "run")
    lstm = nplstm.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=P, dtype="float64", backend=be.name)
    head = nplstm.Linear(2 * P, 3, dtype="float64", backend=be.name)
    lstm.load_state_dict(part(reference, "parameter.lstm."))
    head.load_state_dict(part(reference, "parameter.head."))
    parameters = nplstm.JoinedParameters(lstm=lstm.parameters, head=head.parameters)
    optimizer = nplstm.Adam(parameters, lr=1e-2)
    losses = []
    for x, y in zip(reference["inputs"], reference["targets"], strict=True):
        recurrent = lstm.record(be.asarray(x))
        scores = head.record(recurrent.output)
        loss, grad = nplstm.cross_entropy(scores.output, be.asarray(y))
        grad_head = scores.backward(grad)
        grad_lstm = recurrent.backward(grad_head.input)
        optimizer.step(nplstm.JoinedParameters(lstm=grad_lstm.parameters, head=grad_head.parameters))
        losses.append(loss)
    assert_close(np.array(losses), reference["losses"], 1e-10, "losses")
    for name, expected in part(reference, "trained.").items():
        # Adam divides by the root of small second moments, which magnifies rounding a few hundred times
        assert_close(be.to_numpy(parameters[name]), expected, 1e-9, name)


@pytest.mark.usefixtures("plain_engine")
@pytest.mark.parametrize("case", [c for c in CASES if c.dtype == "float64"][:6], ids=str)
def test_the_comparison_sees_a_wrong_gate(case, golden, monkeypatch):
    def gates_with_a_slip(a):
        activated = gates_forward(a)
        activated[..., :1] *= 1 + 1e-9
        return activated

    monkeypatch.setattr("nplstm.core.cell.gates_forward", gates_with_a_slip)
    reference = golden("lstm", str(case))
    with pytest.raises(AssertionError, match="differs by"):
        compare(run_case(case, reference, "numpy"), reference, RTOL[case.dtype])


def test_the_comparison_sees_a_missing_result(golden):
    case = CASES[0]
    reference = golden("lstm", str(case))
    actual = run_case(case, reference, "numpy")
    del actual["grad_c_0"]
    with pytest.raises(AssertionError):
        compare(actual, reference, RTOL[case.dtype])
