"""Gradients against finite differences in float64, over shapes, options and lengths that hypothesis draws."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nplstm
from nplstm.core.cell import gates_backward

OPTIONS = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 3),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
        "projected": st.booleans(),
        "dropout": st.sampled_from([0.0, 0.3, 1.0]),
    }
)
LAYOUTS = st.sampled_from(["padded", "lengths", "packed", "unbatched"])
SHARED = st.sampled_from(["none", "full", "vector"])


def check_lstm(
    options: dict[str, Any], layout: str, states: str, sizes: tuple[int, int, int, int], seed: int, be: Any
) -> float:
    """Check the gradient of a random linear function of output, h_n and c_n, in all inputs and parameters."""
    rng = np.random.default_rng(seed)
    T, B, I, H = sizes
    options = dict(options)
    P = rng.integers(1, H) if options.pop("projected") and H > 1 else 0
    if options["num_layers"] == 1:
        options["dropout"] = 0.0
    lstm = nplstm.LSTM(I, H, proj_size=int(P), dtype="float64", backend=be.name, rng=seed, **options)
    D = 2 if lstm.bidirectional else 1
    count, width = lstm.num_layers * D, int(P) or H
    batch = () if layout == "unbatched" else (B,)
    minimum = 1 if layout == "packed" else 0
    lengths = rng.integers(minimum, T + 1, B) if layout in {"lengths", "packed"} else None
    shape = (T, *batch) if not lstm.batch_first or layout == "unbatched" else (*batch, T)
    draw = rng.standard_normal
    inputs = {"input": draw((*shape, I))}
    if states != "none":
        around = (count, *batch) if states == "full" else ()
        inputs |= {"h_0": draw((*around, width)), "c_0": draw((*around, H))}
    inputs |= {name: draw(array.shape) * 0.5 for name, array in lstm.parameters.items()}
    inputs = {name: be.asarray(np.asarray(array)) for name, array in inputs.items()}
    weights = [be.asarray(draw(s)) for s in ((*shape, D * width), (count, *batch, width), (count, *batch, H))]
    if layout == "packed":
        weights[0] = nplstm.pack_padded_sequence(weights[0], lengths, lstm.batch_first, enforce_sorted=False)

    def record(point: dict[str, Any]) -> Any:
        lstm.load_state_dict({name: point[name] for name in lstm.parameters})
        x = point["input"]
        hx = (point["h_0"], point["c_0"]) if states != "none" else None
        if layout == "packed":
            x = nplstm.pack_padded_sequence(x, lengths, lstm.batch_first, enforce_sorted=False)
        keywords = {"lengths": lengths} if layout == "lengths" else {}
        return lstm.record(x, hx, rng=np.random.default_rng(seed), **keywords)

    def function(point: dict[str, Any]) -> float:
        tape = record(point)
        output, weight = tape.output, weights[0]
        if layout == "packed":
            output, weight = output.data, weight.data
        terms = ((output, weight), (tape.h_n, weights[1]), (tape.c_n, weights[2]))
        return sum(float((value * factor).sum()) for value, factor in terms)

    def gradient(point: dict[str, Any]) -> dict[str, Any]:
        grads = record(point).backward(weights[0], (weights[1], weights[2]))
        x = grads.input
        if layout == "packed":
            x = nplstm.pad_packed_sequence(x, lstm.batch_first, total_length=T)[0]
        return {"input": x, "h_0": grads.h_0, "c_0": grads.c_0, **grads.parameters}

    return nplstm.gradcheck(function, gradient, inputs, rng=seed, directions=2)


@given(
    options=OPTIONS,
    layout=LAYOUTS,
    states=SHARED,
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    seed=st.integers(0, 2**31),
)
def test_lstm(options, layout, states, sizes, seed, be):
    check_lstm(options, layout, states, sizes, seed, be)


@pytest.mark.parametrize("layout", ["padded", "lengths", "packed"])
def test_lstm_with_everything(layout, be):
    options = dict(num_layers=2, bias=True, batch_first=True, bidirectional=True, projected=True, dropout=0.3)
    check_lstm(options, layout, "full", (5, 4, 3, 4), 1, be)


@given(
    B=st.integers(1, 4),
    bias=st.booleans(),
    batched=st.booleans(),
    vector=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_lstm_cell(B, bias, batched, vector, seed, be):
    rng = np.random.default_rng(seed)
    cell = nplstm.LSTMCell(3, 5, bias, dtype="float64", backend=be.name, rng=seed)
    batch = (B,) if batched else ()
    state = () if vector else batch
    inputs = {"input": rng.standard_normal((*batch, 3))}
    inputs |= {name: rng.standard_normal((*state, 5)) for name in ("h_0", "c_0")}
    inputs = {name: be.asarray(array) for name, array in inputs.items()} | dict(cell.parameters)
    weights = [be.asarray(rng.standard_normal((*batch, 5))) for _ in range(2)]

    def record(point):
        cell.load_state_dict({name: point[name] for name in cell.parameters})
        return cell.record(point["input"], (point["h_0"], point["c_0"]))

    def function(point):
        tape = record(point)
        return float((tape.h * weights[0]).sum()) + float((tape.c * weights[1]).sum())

    def gradient(point):
        grads = record(point).backward(*weights)
        return {"input": grads.input, "h_0": grads.h_0, "c_0": grads.c_0, **grads.parameters}

    nplstm.gradcheck(function, gradient, inputs, rng=seed)


def leave_out_forget_path(grad_gates, values, out):
    """A backward pass with a slip: the forget gate's gradient is a thousandth too large."""
    i, f, g, o = grad_gates
    gates_backward((i, f * 1.001, g, o), values, out)


@pytest.mark.usefixtures("plain_engine")
def test_the_check_sees_a_slip_in_the_cell(monkeypatch, be):
    monkeypatch.setattr("nplstm.core.cell.gates_backward", leave_out_forget_path)
    options = dict(num_layers=1, bias=True, batch_first=False, bidirectional=False, projected=False, dropout=0.0)
    with pytest.raises(nplstm.GradcheckError, match="worst at"):
        check_lstm(options, "padded", "full", (4, 3, 2, 3), 0, be)


def test_the_check_sees_a_forgotten_dropout_mask(monkeypatch, be):
    monkeypatch.setattr("nplstm.layers.stack.dropout_backward", lambda grad, mask: grad)
    options = dict(num_layers=2, bias=True, batch_first=False, bidirectional=False, projected=False, dropout=0.5)
    with pytest.raises(nplstm.GradcheckError):
        check_lstm(options, "padded", "none", (4, 3, 2, 3), 0, be)
