"""What must hold of any LSTM, whatever its weights: padding, splitting, directions, tapes, seeds."""

import threading

import numpy as np
import pytest
from cases import B, H, I, P, T
from conftest import needs_kernels
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

import nplstm


def random(be, *shape, seed=0, dtype=np.float64):
    return be.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype))


def build(be, **options):
    return nplstm.LSTM(I, H, dtype="float64", backend=be.name, rng=0, **options)


def equal(be, a, b):
    return np.array_equal(be.to_numpy(a), be.to_numpy(b))


EVERYTHING = dict(num_layers=2, bidirectional=True, proj_size=P)


@given(
    lengths=st.lists(st.integers(0, T), min_size=1, max_size=4), fill=st.sampled_from([np.nan, np.inf, 1e30, 0])
)
def test_what_lies_in_the_padding_changes_nothing(lengths, fill, be):
    lstm = build(be, **EVERYTHING)
    n = len(lengths)
    x, cotangent = (np.random.default_rng(k).standard_normal((T, n, w)) for k, w in ((0, I), (1, 2 * P)))
    padding = np.arange(T)[:, None] >= np.array(lengths)
    results = []
    for value in (0.0, fill):
        dirty, dirty_cotangent = x.copy(), cotangent.copy()
        dirty[padding] = value
        dirty_cotangent[padding] = value
        tape = lstm.record(be.asarray(dirty), lengths=lengths)
        grads = tape.backward(be.asarray(dirty_cotangent))
        results.append([tape.output, tape.h_n, tape.c_n, grads.input, *grads.parameters.values()])
        assert (be.to_numpy(tape.output)[padding] == 0).all()
        assert (be.to_numpy(grads.input)[padding] == 0).all()
    assert all(equal(be, clean, dirty) for clean, dirty in zip(*results, strict=True))


def test_each_sequence_of_a_batch_runs_as_if_alone(be):
    lstm = build(be, **EVERYTHING)
    x, lengths = random(be, T, 4, I), [3, 0, 7, 1]
    h_0, c_0 = random(be, 4, 4, P), random(be, 4, 4, H)
    output, (h_n, c_n) = lstm(x, (h_0, c_0), lengths=lengths)
    for b, length in enumerate(lengths):
        if length == 0:
            assert equal(be, h_n[:, b], h_0[:, b])
            assert equal(be, c_n[:, b], c_0[:, b])
            continue
        alone, (h, c) = lstm(x[:length, b], (h_0[:, b], c_0[:, b]))
        for actual, expected in ((output[:length, b], alone), (h_n[:, b], h), (c_n[:, b], c)):
            assert_close(be.to_numpy(actual), be.to_numpy(expected), 1e-13)


def test_a_batch_of_empty_sequences_returns_its_initial_state(be):
    lstm = build(be, **EVERYTHING)
    h_0, c_0 = random(be, 4, B, P), random(be, 4, B, H)
    tape = lstm.record(random(be, T, B, I), (h_0, c_0), lengths=[0] * B)
    grads = tape.backward(random(be, T, B, 2 * P), (h_0, c_0))
    assert equal(be, tape.h_n, h_0)
    assert equal(be, grads.h_0, h_0)  # d h_n / d h_0 is the identity
    assert equal(be, grads.c_0, c_0)
    assert all((be.to_numpy(grad) == 0).all() for grad in grads.parameters.values())


@given(cut=st.integers(1, T - 1))
def test_two_halves_are_the_whole(cut, be):
    lstm = build(be, num_layers=2, proj_size=P)
    x, cotangent = random(be, T, B, I), random(be, T, B, P, seed=1)
    whole = lstm.record(x)
    first = lstm.record(x[:cut])
    second = lstm.record(x[cut:], (first.h_n, first.c_n))
    assert_close(be.to_numpy(second.output), be.to_numpy(whole.output[cut:]), 1e-13)
    assert_close(be.to_numpy(second.c_n), be.to_numpy(whole.c_n), 1e-13)
    expected = whole.backward(cotangent)
    back_second = second.backward(cotangent[cut:])
    back_first = first.backward(cotangent[:cut], (back_second.h_0, back_second.c_0))
    for name, grad in expected.parameters.items():
        both = back_first.parameters[name] + back_second.parameters[name]
        assert_close(be.to_numpy(both), be.to_numpy(grad), 1e-12, name)


def test_the_padding_property_sees_a_leak(be, monkeypatch):
    """Break the code: run over the padding as if every sequence had full length."""
    from nplstm.batch import choose_layout

    monkeypatch.setattr(
        choose_layout, "check_lengths", lambda lengths, *, steps, batch, minimum: np.full(batch, steps)
    )
    with pytest.raises(AssertionError):
        test_what_lies_in_the_padding_changes_nothing.hypothesis.inner_test([2, 5], 0.0, be)


def test_bidirectional_is_two_unidirectional_ones(be):
    both = build(be, bidirectional=True)
    forward, backward = build(be), build(be)
    forward.load_state_dict({k: v for k, v in both.parameters.items() if not k.endswith("_reverse")})
    backward.load_state_dict(
        {k.removesuffix("_reverse"): v for k, v in both.parameters.items() if k.endswith("_reverse")}
    )
    x = random(be, T, B, I)
    output, (h_n, _) = both(x)
    ahead, (h_ahead, _) = forward(x)
    back, (h_back, _) = backward(x[::-1])
    assert_close(be.to_numpy(output[..., :H]), be.to_numpy(ahead), 1e-14)
    assert_close(be.to_numpy(output[..., H:]), be.to_numpy(back[::-1]), 1e-14)
    assert_close(be.to_numpy(h_n[0]), be.to_numpy(h_ahead[0]), 1e-14)
    assert_close(be.to_numpy(h_n[1]), be.to_numpy(h_back[0]), 1e-14)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_batch_first_is_a_transposition(be, bidirectional):
    options = dict(bidirectional=bidirectional, num_layers=2)
    time_major, batch_first = build(be, **options), build(be, batch_first=True, **options)
    x, lengths = random(be, T, B, I), [7, 2, 5]
    expected, (h, c) = time_major(x, lengths=lengths)
    actual, (h_first, c_first) = batch_first(x.swapaxes(0, 1), lengths=lengths)
    assert equal(be, actual, expected.swapaxes(0, 1))
    assert equal(be, h, h_first)
    assert equal(be, c, c_first)


def test_one_vector_serves_as_the_state_of_all(be):
    lstm = build(be, **EVERYTHING)
    h, c, x = random(be, P), random(be, H), random(be, T, B, I)
    full_h = be.asarray(np.broadcast_to(be.to_numpy(h), (4, B, P)).copy())
    full_c = be.asarray(np.broadcast_to(be.to_numpy(c), (4, B, H)).copy())
    shared, full = lstm.record(x, (h, c)), lstm.record(x, (full_h, full_c))
    assert equal(be, shared.output, full.output)
    cotangent = random(be, T, B, 2 * P)
    grad_shared, grad_full = shared.backward(cotangent), full.backward(cotangent)
    assert_close(be.to_numpy(grad_shared.h_0), be.to_numpy(grad_full.h_0).sum((0, 1)), 1e-13)
    assert_close(be.to_numpy(grad_shared.c_0), be.to_numpy(grad_full.c_0).sum((0, 1)), 1e-13)


def test_one_state_may_be_a_vector_and_the_other_not(be):
    lstm = build(be, proj_size=P)
    x, cotangent = random(be, T, B, I), random(be, T, B, P)
    shared = lstm.record(x, (random(be, P), random(be, 1, B, H))).backward(cotangent)
    assert (shared.h_0.shape, shared.c_0.shape) == ((P,), (1, B, H))
    shared = lstm.record(x, (random(be, 1, B, P), random(be, H))).backward(cotangent)
    assert (shared.h_0.shape, shared.c_0.shape) == ((1, B, P), (H,))
    only_c = lstm.record(x, (None, random(be, H))).backward(cotangent)
    assert (only_c.h_0.shape, only_c.c_0.shape) == ((1, B, P), (H,))


def test_backward_is_linear_in_the_cotangents_and_any_may_be_left_out(be):
    lstm = build(be, **EVERYTHING)
    tape = lstm.record(random(be, T, B, I))
    output, h, c = random(be, T, B, 2 * P), random(be, 4, B, P), random(be, 4, B, H)
    parts = [tape.backward(output), tape.backward(None, (h, None)), tape.backward(grad_state=(None, c))]
    whole = tape.backward(output, (h, c))
    for name, grad in whole.parameters.items():
        total = sum(be.to_numpy(part.parameters[name]) for part in parts)
        assert_close(total, be.to_numpy(grad), 1e-12, name)
    nothing = tape.backward()
    assert all((be.to_numpy(grad) == 0).all() for grad in nothing.parameters.values())


def test_backward_may_be_called_again(be):
    tape = build(be, **EVERYTHING).record(random(be, T, B, I), lengths=[7, 3, 1])
    cotangent = random(be, T, B, 2 * P)
    first, second = tape.backward(cotangent), tape.backward(cotangent)
    assert equal(be, first.input, second.input)
    assert all(equal(be, first.parameters[k], second.parameters[k]) for k in first.parameters)


@pytest.mark.parametrize("layout", ["padded", "batch_first", "lengths", "packed", "unbatched"])
@pytest.mark.parametrize("states", ["full", "vector"])
def test_a_tape_is_independent_of_what_comes_later(be, layout, states):
    lstm = build(be, num_layers=2, batch_first=layout == "batch_first")
    x = random(be, *{"batch_first": (B, T, I), "unbatched": (T, I)}.get(layout, (T, B, I)))
    batch = () if layout == "unbatched" else (B,)
    h, c = (random(be, *((2, *batch, H) if states == "full" else (H,)), seed=k) for k in (1, 2))
    given = nplstm.pack_padded_sequence(x, [7, 5, 2]) if layout == "packed" else x
    keywords = {"lengths": [7, 5, 2]} if layout == "lengths" else {}
    tape = lstm.record(given, (h, c), **keywords)
    cotangents = (tape.output, (tape.h_n, tape.c_n))
    expected = tape.backward(*cotangents)
    for array in (x, h, c, given.data if layout == "packed" else x):
        array[...] = 0.0  # the caller reuses its memory
    lstm.record(x).backward(None, cotangents[1])  # another tape
    for name in lstm.parameters:  # the layer is trained on
        lstm.parameters[name] = lstm.parameters[name] + 1
    again = tape.backward(*cotangents)
    for name in ("h_0", "c_0"):
        assert equal(be, getattr(expected, name), getattr(again, name))
    assert all(equal(be, expected.parameters[k], again.parameters[k]) for k in expected.parameters)


def test_a_cells_tape_is_independent_too(be):
    cell = nplstm.LSTMCell(I, H, dtype="float64", backend=be.name, rng=0)
    x, h, c = random(be, B, I), random(be, B, H), random(be, B, H, seed=1)
    tape = cell.record(x, (h, c))
    expected = tape.backward(tape.h, tape.c)
    for array in (x, h, c):
        array[...] = 0.0
    again = tape.backward(tape.h, tape.c)
    assert all(equal(be, expected.parameters[k], again.parameters[k]) for k in expected.parameters)


def test_what_can_be_written_to_reaches_no_gradient(be):
    """Whoever is handed an array may try to change it: it refuses (NumPy), or it is a copy (elsewhere)."""

    def spoil(array):
        try:
            array *= 0.0
        except ValueError:
            assert be.name == "numpy"

    lstm = build(be, num_layers=2)
    tape = lstm.record(random(be, T, B, I))
    cotangent = random(be, T, B, H)
    expected = tape.backward(cotangent)
    for array in (tape.output, tape.h_n, tape.c_n, *lstm.state_dict().values()):
        spoil(array)
    again = tape.backward(cotangent)
    assert all(equal(be, expected.parameters[k], again.parameters[k]) for k in expected.parameters)
    assert not (be.to_numpy(lstm.parameters["weight_hh_l0"]) == 0).any()
    if be.name != "numpy":  # each gradient is an array of its own
        before = be.to_numpy(again.parameters["bias_hh_l0"]).copy()
        spoil(again.parameters["bias_ih_l0"])
        assert np.array_equal(be.to_numpy(again.parameters["bias_hh_l0"]), before)


def test_blocks_of_input_make_no_difference(be, monkeypatch):
    lstm = build(be, **EVERYTHING)
    x, cotangent = random(be, T, 4, I), random(be, T, 4, 2 * P)
    results = []
    for rows in (1, 3, 5, 1000):
        monkeypatch.setattr("nplstm.core.time_loop.BLOCK_ROWS", rows)
        tape = lstm.record(x, lengths=[7, 0, 3, 5])
        results.append((tape.output, tape.backward(cotangent).parameters["weight_ih_l0_reverse"]))
    for output, grad in results[:-1]:
        assert_close(be.to_numpy(output), be.to_numpy(results[-1][0]), 1e-14)
        assert_close(be.to_numpy(grad), be.to_numpy(results[-1][1]), 1e-13)


def test_a_ragged_batch_keeps_no_more_than_its_own_steps():
    import tracemalloc

    lstm, lengths = nplstm.LSTM(8, 32, rng=0), [500] + [5] * 63
    x = np.zeros((500, 64, 8), np.float32)
    tracemalloc.start()
    tape = lstm.record(x, lengths=lengths)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    own = sum(lengths) * (6 * 32 + 32 + 8) * 4 + tape.output.nbytes
    assert kept < own + 500 * 1500  # and some 1.2 kB of Python objects for each step


def peak_of_a_call(lstm, T, lengths):
    import tracemalloc

    x = np.zeros((T, 2, 4), np.float32)
    tracemalloc.start()
    lstm(x, lengths=lengths)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("engine", ["compiled", "numpy", "plain"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_plain_call_needs_no_memory_that_grows_with_time_but_its_output(engine, bidirectional, ragged):
    if engine == "compiled":
        needs_kernels()
    lstm = nplstm.LSTM(4, 64, bidirectional=bidirectional, rng=0)
    with nplstm.use_engines(engine):
        peaks = [peak_of_a_call(lstm, T, [T, T // 2] if ragged else None) for T in (2_000, 2_000, 4_000)]
    output = 2_000 * 2 * 64 * (1 + bidirectional) * 4
    # with lengths the output is packed first, and packed input and the places of the rows are there; and the host
    # has each step's place, in arrays and as a Python integer
    assert peaks[2] - peaks[1] < output * (2 if ragged else 1) + 2_000 * (160 + ragged * 2 * (4 * 4 + 64))


def test_a_packed_tape_refuses_to_be_written_to():
    x = nplstm.pack_sequence([np.zeros((n, I), np.float32) for n in (3, 7)], enforce_sorted=False)
    output = nplstm.LSTM(I, H, rng=0).record(x).output
    for array in (output.data, output.batch_sizes, output.sorted_indices, x.sorted_indices, x.unsorted_indices):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("lengths", [None, [7, 3, 5]])
@pytest.mark.parametrize("batch_first", [False, True])
def test_what_a_tape_shows_refuses_to_be_written_to(lengths, batch_first):
    lstm = nplstm.LSTM(I, H, batch_first=batch_first, rng=0)
    shape = (B, T, I) if batch_first else (T, B, I)
    tape = lstm.record(np.zeros(shape, np.float32), lengths=lengths)
    for array in (tape.output, tape.h_n, tape.c_n, *lstm.parameters.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_the_inputs_are_left_alone(be):
    lstm = build(be, **EVERYTHING)
    given = [random(be, T, B, I), random(be, 4, B, P), random(be, 4, B, H), random(be, T, B, 2 * P)]
    kept = [array.copy() for array in given]
    x, h_0, c_0, cotangent = given
    for lengths in (None, [7, 3, 5]):
        lstm(x, (h_0, c_0), lengths=lengths)
        lstm.record(x, (h_0, c_0), lengths=lengths).backward(cotangent, (h_0, c_0))
    assert all(equal(be, a, b) for a, b in zip(given, kept, strict=True))


def test_results_share_no_memory_with_each_other_or_the_inputs():
    lstm = nplstm.LSTM(I, H, rng=0)
    x, h_0 = np.ones((T, B, I), np.float32), np.ones((1, B, H), np.float32)
    for lengths in (None, [0, 0, 0]):
        output, (h_n, c_n) = lstm(x, (h_0, h_0), lengths=lengths)
        arrays = [x, h_0, output, h_n, c_n]
        pairs = [(a, b) for k, a in enumerate(arrays) for b in arrays[k + 1 :]]
        assert not any(np.shares_memory(a, b) for a, b in pairs)
        assert all(array.flags.writeable for array in (output, h_n, c_n))


def test_dropout_draws_a_fresh_mask_from_the_generator(be):
    lstm = build(be, num_layers=2, dropout=0.5)
    x = random(be, T, B, I)
    rng = np.random.default_rng(0)
    first, second = lstm.record(x, rng=rng), lstm.record(x, rng=rng)
    again = lstm.record(x, rng=np.random.default_rng(0))
    assert not equal(be, first.output, second.output)
    assert equal(be, first.output, again.output)
    assert equal(be, lstm.record(x, training=False).output, lstm(x)[0])


def test_dropout_draws_a_mask_for_each_pair_of_layers(be):
    lstm = build(be, num_layers=4, dropout=0.5)
    by_layer = lstm.record(random(be, T, B, I), rng=np.random.default_rng(0))._pass.tape.dropout
    assert [len(masks) for masks in by_layer] == [1] * 4
    masks = [masks[0] for masks in by_layer[1:]]
    assert not any(equal(be, a, b) for k, a in enumerate(masks) for b in masks[k + 1 :])


def test_dropout_of_everything_cuts_the_layers_apart(be):
    lstm = build(be, num_layers=2, dropout=1.0)
    tape = lstm.record(random(be, T, B, I), rng=np.random.default_rng(0))
    grads = tape.backward(random(be, T, B, H))
    assert (be.to_numpy(grads.input) == 0).all()
    assert np.isfinite(be.to_numpy(tape.output)).all()


def test_dropout_keeps_the_mean(be):
    from nplstm.core.ops.dropout import dropout_mask

    mask = be.to_numpy(dropout_mask(be, np.random.default_rng(0), (400, 500), np.dtype("float64"), 0.25))
    assert set(np.unique(mask)) == {0.0, 1 / 0.75}
    assert abs(mask.mean() - 1) < 0.01  # the standard error is 0.0013


def test_the_same_seed_gives_the_same_bits_in_every_type_and_place(be):
    wide, narrow = nplstm.LSTM(I, H, dtype="float64", rng=3), nplstm.LSTM(I, H, rng=3, backend=be.name)
    for name, array in wide.parameters.items():
        assert np.array_equal(array.astype(np.float32), be.to_numpy(narrow.parameters[name]))
        assert np.abs(array).max() <= H**-0.5
    assert not np.array_equal(wide.parameters["weight_ih_l0"], nplstm.LSTM(I, H, rng=4).parameters["weight_ih_l0"])


def test_initial_weights_are_uniform():
    weights = nplstm.LSTM(64, 64, rng=0).parameters["weight_ih_l0"] * 8  # U(-1, 1)
    assert abs(weights.mean()) < 0.02
    assert abs((weights**2).mean() - 1 / 3) < 0.01


def test_nan_passes_through(be):
    lstm = build(be)
    x = be.to_numpy(random(be, T, B, I)).copy()
    x[3, 1, 0] = np.nan
    output = be.to_numpy(lstm(be.asarray(x))[0])
    assert np.isnan(output[3:, 1]).all()
    assert np.isfinite(output[:3]).all()
    assert np.isfinite(output[:, [0, 2]]).all()


def test_an_empty_batch_runs(be):
    lstm = build(be, **EVERYTHING)
    tape = lstm.record(random(be, T, 0, I))
    assert tape.output.shape == (T, 0, 2 * P)
    assert tape.backward(tape.output).input.shape == (T, 0, I)
    assert nplstm.LSTMCell(I, H, dtype="float64", backend=be.name)(random(be, 0, I))[0].shape == (0, H)


@pytest.mark.parametrize("order", ["F", "strided", "readonly"])
def test_any_memory_layout_is_read(order):
    lstm = nplstm.LSTM(I, H, dtype="float64", rng=0)
    x = np.random.default_rng(0).standard_normal((T, B, I))
    expected = lstm(x)[0]
    if order == "F":
        x = np.asfortranarray(x)
    elif order == "strided":
        x = np.repeat(x, 2, axis=2)[:, :, ::2]
    else:
        x.flags.writeable = False
    assert np.array_equal(lstm(x)[0], expected)


def test_half_precision_where_the_backend_has_it(be):
    if "float16" not in be.float_dtypes:
        with pytest.raises(nplstm.DTypeError, match="float16 needs backend 'cupy'"):
            nplstm.LSTM(I, H, dtype="float16", backend=be.name)
        return
    half = nplstm.LSTM(I, H, **EVERYTHING, dtype="float16", backend=be.name, rng=0)
    single = nplstm.LSTM(I, H, **EVERYTHING, dtype="float32", backend=be.name, rng=0)
    x, cotangent = random(be, T, B, I, dtype=np.float16), random(be, T, B, 2 * P, dtype=np.float16)
    tape, expected = half.record(x), single.record(x.astype("float32"))
    # float16 rounds at 5e-4, and weights, states and sums are all rounded to it
    assert np.abs(be.to_numpy(tape.output).astype(np.float32) - be.to_numpy(expected.output)).max() < 5e-3
    grads, wide = tape.backward(cotangent), expected.backward(cotangent.astype("float32"))
    for name, grad in grads.parameters.items():
        assert grad.dtype == np.float16
        scale = np.abs(be.to_numpy(wide.parameters[name])).max()
        assert np.abs(be.to_numpy(grad) - be.to_numpy(wide.parameters[name])).max() < 2e-2 * scale, name


def test_threads_may_share_a_layer():
    lstm = nplstm.LSTM(I, H, num_layers=2, dtype="float64", rng=0)
    inputs = [np.random.default_rng(k).standard_normal((T, B, I)) for k in range(8)]
    expected = [lstm.record(x).backward(np.ones((T, B, H))).input for x in inputs]
    actual = [None] * len(inputs)

    def work(k):
        for _ in range(20):
            actual[k] = lstm.record(inputs[k]).backward(np.ones((T, B, H))).input

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, e) for a, e in zip(actual, expected, strict=True))
