"""Streams: step by step what a call computes, in buffers that are made once; and stacks in one kernel call."""

import gc
import tracemalloc

import numpy as np
import pytest
from cases import CELLS
from helpers import assert_close
from test_engines import FAST, engine, threads  # noqa: F401  fixtures

import nplstm

ENGINES = [*FAST, "plain"]
STACKS = {
    "one": dict(hidden_size=21),
    "three": dict(hidden_size=17, num_layers=3),
    "sizes": dict(hidden_size=(5, 33, 18), num_layers=3),
    "no bias": dict(hidden_size=4, num_layers=2, bias=False),
}
T, I = 6, 11
RTOL = {"float64": 1e-14, "float32": 2e-6}  # a few steps of products in another order


def draw(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def states_of(lstm, batch, dtype, seed=1):
    """Initial states in the form that the layer takes."""
    lead = () if batch is None else (batch,)
    if not isinstance(lstm.hidden_size, tuple):
        widths = (lstm.proj_size or lstm.hidden_size, lstm.hidden_size)
        return tuple(draw(lstm.num_layers, *lead, w, dtype=dtype, seed=seed + k) for k, w in enumerate(widths))
    return tuple(tuple(draw(1, *lead, w, dtype=dtype, seed=seed + k) for w in lstm.hidden_size) for k in range(2))


def assert_states(found, expected, rtol):
    for a, b in zip(found, expected, strict=True):
        for part, whole in zip(a, b, strict=True) if isinstance(b, tuple) else [(a, b)]:
            assert_close(part, whole, rtol, "state")


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("batch", [None, 1, 3, 9])
@pytest.mark.parametrize("stack", STACKS)
def test_steps_are_the_call(engine, stack, batch, dtype):  # noqa: F811
    lstm = nplstm.LSTM(I, **STACKS[stack], dtype=dtype, rng=0)
    x = draw(T, *(() if batch is None else (batch,)), I, dtype=dtype)
    hx = states_of(lstm, batch, dtype)
    with nplstm.use_engines(engine):
        output, final = lstm(x, hx)
        stream = lstm.stream(batch, hx)
    assert stream.engine.name == engine
    assert_states(stream.state, hx, 0)
    for x_t, expected in zip(x, output, strict=True):
        assert_close(stream.step(x_t), expected, RTOL[dtype], "output")
    assert_states(stream.state, final, RTOL[dtype])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, dict(num_layers=3, residual=True), dict(proj_size=2)], ids=str)
def test_steps_of_variants(cell, options, be):
    spec = nplstm.CellSpec(**CELLS[cell])
    lstm = nplstm.LSTM(5, 5, **options, cell=spec, dtype="float64", backend=be.name, rng=0)
    x = be.asarray(draw(T, 2, 5))
    output, final = lstm(x)
    stream = lstm.stream(2)
    for x_t, expected in zip(x, output, strict=True):
        assert_close(be.to_numpy(stream.step(x_t)), be.to_numpy(expected), 1e-13, "output")
    assert_states([be.to_numpy(s) for s in stream.state], [be.to_numpy(s) for s in final], 1e-13)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_the_state_is_put_back_taken_and_given(engine):  # noqa: F811
    lstm = nplstm.LSTM(I, 20, num_layers=2, dtype="float64", rng=0)
    x = draw(T, 2, I)
    with nplstm.use_engines(engine):
        stream = lstm.stream(2)
        first = [stream.step(x_t).copy() for x_t in x]
        middle = stream.state
        then = [stream.step(x_t).copy() for x_t in x]
        stream.state = middle
        assert np.array_equal([stream.step(x_t).copy() for x_t in x], then)
        stream.reset()
        assert not any(s.any() for s in stream.state)
        assert np.array_equal([stream.step(x_t).copy() for x_t in x], first)
        stream.reset((middle[0], None))
        assert np.array_equal(stream.state[0], middle[0])
        assert not stream.state[1].any()
        stream.reset((np.ones(20), np.ones(20)))  # one vector for all, as a call takes it
        assert (stream.state[0] == 1).all()


@pytest.mark.parametrize("engine", FAST, indirect=True)
@pytest.mark.parametrize("layers", [1, 3])
def test_a_step_allocates_no_array(engine, layers):  # noqa: F811
    """tracemalloc sees NumPy's memory; what is left are Python's small objects, smaller than one gate."""
    lstm = nplstm.LSTM(256, 256, num_layers=layers, rng=0)
    x = draw(1, 256, dtype="float32")
    with nplstm.use_engines(engine):
        stream = lstm.stream(1)
        for _ in range(10):
            stream.step(x)
        gc.disable()
        tracemalloc.start()
        try:
            stream.step(x)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for _ in range(50):
                stream.step(x)
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert after - before < 256 * 4  # a state
    assert peak - before < 256 * 4 * 4 / 2  # half of the gates of one layer


def test_the_allocation_test_sees_an_allocation():
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        np.zeros(4 * 256, np.float32)
        assert tracemalloc.get_traced_memory()[1] - before > 256 * 4 * 4 / 2
    finally:
        tracemalloc.stop()


def test_what_a_step_returns_cannot_be_written_to():
    stream = nplstm.LSTM(2, 3, rng=0).stream()
    with pytest.raises(ValueError, match="read-only"):
        stream.step(np.zeros(2, np.float32))[0] = 1


def test_a_stream_keeps_the_parameters_that_it_was_made_with():
    lstm = nplstm.LSTM(2, 3, rng=0)
    x = np.ones((1, 2), np.float32)
    expected = lstm.stream(1).step(x).copy()
    stream = lstm.stream(1)
    lstm.parameters["weight_ih_l0"] = np.zeros((12, 2), np.float32)
    assert np.array_equal(stream.step(x), expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(bidirectional=True), "stream: bidirectional=True reads the sequence from its end"),
        (dict(reverse=True), "stream: reverse=True reads the sequence from its end"),
        (dict(hidden_transform=nplstm.Projection(2)), "stream: hidden_transform may read a context"),
        (dict(recurrent_size=5), "stream: recurrent_size without hidden_transform"),
    ],
)
def test_layers_that_cannot_stream_say_why(options, match):
    with pytest.raises(nplstm.ArgumentError, match=match):
        nplstm.LSTM(2, 3, **options, rng=0).stream()


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (np.zeros((2, 2), np.float32), nplstm.ShapeError, r"input: expected shape \(B=1, I=2\), got \(2, 2\)"),
        (np.zeros((1, 3), np.float32), nplstm.ShapeError, r"input: expected shape \(B=1, I=2\), got \(1, 3\)"),
        (np.zeros((1, 2)), nplstm.DTypeError, "input: is float64, but the stream is float32"),
        ([[0.0, 0.0]], nplstm.BackendError, "input: expected an array of NumPy or CuPy"),
    ],
)
def test_a_wrong_step_is_refused_and_changes_nothing(wrong, error, match):
    stream = nplstm.LSTM(2, 3, rng=0).stream(1)
    stream.step(np.ones((1, 2), np.float32))
    before = stream.state
    with pytest.raises(error, match=match):
        stream.step(wrong)
    assert all(np.array_equal(a, b) for a, b in zip(before, stream.state, strict=True))


@pytest.mark.parametrize(
    ("hx", "error", "match"),
    [
        ((np.zeros((1, 2, 3), np.float32), None), nplstm.ShapeError, r"h: expected shape .*B=1"),
        ((np.zeros((1, 1, 3)), None), nplstm.DTypeError, "h: is float64, but the stream is float32"),
        (np.zeros((1, 1, 3), np.float32), nplstm.ArgumentError, "state: expected"),
    ],
)
def test_a_wrong_state_is_refused(hx, error, match):
    stream = nplstm.LSTM(2, 3, rng=0).stream(1)
    with pytest.raises(error, match=match):
        stream.state = hx
    with pytest.raises(nplstm.ArgumentError, match="batch_size: expected an integer >= 1, got 0"):
        nplstm.LSTM(2, 3).stream(0)
    stream.step(np.ones((1, 2), np.float32))
    before = stream.state
    with pytest.raises(error, match=match):
        stream.reset(hx)
    assert all(np.array_equal(a, b) for a, b in zip(before, stream.state, strict=True))


# --- whole stacks in one kernel call ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(num_layers=2, bidirectional=True),
        dict(num_layers=3, batch_first=True),
        dict(reverse=True, bias=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("states", [None, "both", "h", "c"])
@pytest.mark.parametrize("strided", [False, True])
def test_a_stack_in_one_call_is_its_layers_to_the_bit(options, dtype, states, strided, monkeypatch):
    from nplstm.engines.compiled import CompiledEngine

    lstm = nplstm.LSTM(I, 21, **options, dtype=dtype, rng=0)
    lead = (3, T) if lstm.batch_first else (T, 3)
    x = draw(*lead, 2 * I, dtype=dtype)[..., ::2] if strided else draw(*lead, I, dtype=dtype)
    count = lstm.num_layers * (2 if lstm.bidirectional else 1)
    h_0, c_0 = (draw(count, 3, 42, dtype=dtype, seed=k)[..., ::2] for k in (1, 2))
    hx = {None: None, "both": (h_0, c_0), "h": (h_0, None), "c": (None, c_0)}[states]
    with nplstm.use_engines("compiled"):
        together = lstm(x, hx)
        monkeypatch.setattr(CompiledEngine, "forward_stack", lambda *arguments, **options: None)
        whole = lstm(x, hx)
    for found, expected in zip((together[0], *together[1]), (whole[0], *whole[1]), strict=True):
        assert np.array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_nothing_of_the_old_parameters_is_left():
    x = draw(4, 2, I, dtype="float32")
    lstm = nplstm.LSTM(I, 8, rng=0)
    for name in ("compiled", "numpy", "plain"):
        with nplstm.use_engines(name, "plain"):
            before = lstm(x)[0]
            lstm.parameters["bias_ih_l0"] = lstm.parameters["bias_ih_l0"] + 1
            assert not np.array_equal(lstm(x)[0], before)
