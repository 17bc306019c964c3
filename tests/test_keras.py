"""Keras's LSTM through our options, live: what ``docs/keras.md`` says, row by row.

``like`` makes our layer of one of Keras's, ``results`` makes of our results what Keras returns, and ``check``
compares the two. Keyword arguments spoil an option on purpose.
"""

import importlib
import importlib.util
import inspect
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from conftest import require
from helpers import assert_close

import nplstm
from nplstm import Activation, CellSpec
from nplstm.io import from_weight_format, to_weight_format

# Keras's get_weights() under NumPy 2: its variables lack a keyword
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

T, B, I, H = 7, 5, 3, 11

# gaps at the start, in the middle, at the end, several, and nothing but a gap
MASK = np.array([[step == "1" for step in row] for row in "0011111 1100111 1111100 0101010 0000000".split()])
FILLED = MASK.copy()  # no gap at either end
FILLED[:, [0, -1]] = True

# float32 rounds at 6e-8, float64 at 1e-16; T steps of sums over I + H terms in another order
RTOL = {"float32": 1e-6, "float64": 1e-14}

MERGES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "product", None: "none"}
ACTIVATIONS = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "elu": "Elu",
    "celu": "Elu",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "leaky_relu": Activation("LeakyRelu", alpha=0.2),
    "linear": "Affine",
    "hard_sigmoid": Activation("HardSigmoid", alpha=1 / 6, beta=0.5),
}
START = dict(init_ih="xavier_uniform", init_hh="orthogonal", init_bias="zeros", forget_bias=1.0)


def float64_table():
    """Return the table by which Keras, but for TensorFlow, computes in float32 what is declared float64."""
    return importlib.import_module("keras.src.backend.common.dtypes").BIT64_TO_BIT32_DTYPE


@pytest.fixture(scope="module")
def keras(keras):
    """Keras with a float64 that is float64."""
    module = keras
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(float64_table(), "float64", "float64")
        if module.config.backend() != "torch":
            yield module
            return
        torch = importlib.import_module("torch")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # on arrays so small, threads wait for each other
        yield module
        torch.set_num_threads(threads)


def shows_initial_h(keras):
    """Tell whether Keras shows h_0 at a gap at the start, or, on other backends than these, zero."""
    return keras.config.backend() in {"numpy", "jax"}


def draw(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(dtype)


def make_layer(keras, dtype="float64", input_size=I, **options):
    """Make one of Keras's layers with drawn weights; with ``merge_mode`` a Bidirectional."""
    wrap = {"merge_mode": options.pop("merge_mode")} if "merge_mode" in options else None
    layer = keras.layers.LSTM(H, dtype=dtype, **options)
    if wrap is not None:
        layer = keras.layers.Bidirectional(layer, dtype=dtype, **wrap)
    layer.build((B, T, input_size))
    layer.set_weights([draw(*w.shape, dtype=dtype, seed=n) for n, w in enumerate(layer.weights)])
    return layer


def directions(layer):
    return [layer.forward_layer, layer.backward_layer] if hasattr(layer, "forward_layer") else [layer]


def states(layer):
    """Draw [h, c] for each direction."""
    return [draw(B, H, dtype=layer.compute_dtype, seed=20 + n) for n in range(2 * len(directions(layer)))]


def weights_of(layer, place=0):
    parts = zip(directions(layer), ("", "_reverse"), strict=False)
    by_part = [
        from_weight_format("keras", one.get_weights(), suffix=f"_l{place}{suffix}") for one, suffix in parts
    ]
    return {name: array for part in by_part for name, array in part.items()}


def weights_for(layer, parameters):
    suffixes = ("_l0", "_l0_reverse")[: len(directions(layer))]
    return [array for s in suffixes for array in to_weight_format("keras", parameters, suffix=s, as_list=True)]


def options_of(layer):
    """Turn a Keras layer's options into ours."""
    one = directions(layer)[0]
    gates, inner = (ACTIVATIONS[f.__name__] for f in (one.recurrent_activation, one.activation))
    options = {"bias": one.use_bias, "batch_first": True, "dtype": one.compute_dtype}
    options["cell"] = CellSpec(activations=(gates, inner, inner))
    if hasattr(layer, "forward_layer"):
        return options | {"bidirectional": True, "merge": MERGES[layer.merge_mode]}
    return options | ({"reverse": True, "output_order": "processing"} if one.go_backwards else {})


def like(layer, **changes):
    """Make our layer for one of Keras's, with its weights."""
    weights = weights_of(layer)
    lstm = nplstm.LSTM(weights["weight_ih_l0"].shape[1], H, **(options_of(layer) | changes), rng=0)
    lstm.load_state_dict(weights)
    return lstm


def words_of(layer, mask):
    if mask is None:
        return {}
    return {"mask": mask, "masked_output": "zero" if directions(layer)[0].zero_output_for_mask else "repeat"}


def hx_of(state):
    """Turn Keras's [h, c] of each direction into our (h_0, c_0)."""
    return None if state is None else (np.stack(state[0::2]), np.stack(state[1::2]))


def merged(ahead, back, merge_mode):
    parts = {"concat": [np.concatenate([ahead, back], axis=-1)], None: [ahead, back]}
    return (parts | {"sum": [ahead + back], "ave": [(ahead + back) / 2], "mul": [ahead * back]})[merge_mode]


def results(lstm, layer, x, mask=None, state=None, words=None):
    """Make of our results what Keras returns: a list of arrays."""
    words = words_of(layer, mask) | (words or {})
    output, (h_n, c_n) = lstm(x, hx_of(state), **words)
    if layer.return_sequences:
        shown = list(output) if isinstance(output, tuple) else [output]
    elif len(h_n) == 2:
        shown = merged(*h_n, layer.merge_mode)
    else:  # h_n, but zero where the step that was processed last is masked out and shows zero
        shown = [output[:, -1] if words.get("masked_output") == "zero" else h_n[0]]
    return shown + [part for pair in zip(h_n, c_n, strict=True) for part in pair] * layer.return_state


def keras_results(keras, layer, x, mask=None, state=None, **words):
    returned = layer(x, mask=mask, initial_state=state, **words)
    arrays = returned if isinstance(returned, list | tuple) else [returned]
    return [np.array(keras.ops.convert_to_numpy(array)) for array in arrays]


def compare(actual, expected, dtype, rtol=0.0):
    assert len(actual) == len(expected)
    for n, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert_close(a, e, max(rtol, RTOL[dtype]), f"result {n}")


def check(keras, layer, mask=None, state=None, *, x=None, words=None, rtol=0.0, **changes):
    """Compare the results; ``words`` replace those of our call, ``changes`` options of our layer."""
    x = draw(B, T, I, dtype=layer.compute_dtype, seed=7) if x is None else x
    actual = results(like(layer, **changes), layer, x, mask, state, words)
    compare(actual, keras_results(keras, layer, x, mask, state), layer.compute_dtype, rtol)


def check_all(keras, layer):
    """Check with and without mask and initial state."""
    masks = [MASK if shows_initial_h(keras) else FILLED, None]
    for mask, state in [(MASK, None), (None, None), *((mask, states(layer)) for mask in masks)]:
        check(keras, layer, mask, state)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("wrap", [{}, {"merge_mode": "concat"}], ids=str)
def test_weights_in_and_out(keras, wrap, use_bias, dtype):
    layer = make_layer(keras, dtype, use_bias=use_bias, return_sequences=True, **wrap)
    check(keras, layer)
    lstm = like(layer)
    back = weights_for(layer, lstm.parameters)
    assert all(np.array_equal(a, b) for a, b in zip(back, layer.get_weights(), strict=True))
    lstm.reset_parameters(1)  # has two biases that are not zero
    layer.set_weights(weights_for(layer, lstm.parameters))
    x = draw(B, T, I, dtype=dtype)
    compare([lstm(x)[0]], keras_results(keras, layer, x), dtype)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("zero", [False, True], ids=["repeat", "zero"])
@pytest.mark.parametrize("go_backwards", [False, True], ids=["ahead", "backwards"])
def test_masks_and_states(keras, go_backwards, zero, return_sequences, dtype):
    options = dict(go_backwards=go_backwards, zero_output_for_mask=zero, return_sequences=return_sequences)
    check_all(keras, make_layer(keras, dtype, return_state=True, **options))


def test_a_gap_at_the_start_shows_the_initial_h(keras):
    layer = make_layer(keras, return_sequences=True)
    x, state = draw(B, T, I), states(layer)
    (ours,), (theirs,) = results(like(layer), layer, x, MASK, state), keras_results(keras, layer, x, MASK, state)
    unrolled = make_layer(keras, return_sequences=True, unroll=True)
    (zero,) = keras_results(keras, unrolled, x, MASK, state)
    for b, steps in ((0, 2), (3, 1), (4, T)):
        assert (ours[b, :steps] == state[0][b]).all()
        assert (theirs[b, :steps] == (state[0][b] if shows_initial_h(keras) else 0)).all()
        assert (zero[b, :steps] == 0).all()


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("return_state", [True, False])
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("merge_mode", MERGES)
def test_bidirectional(keras, merge_mode, return_sequences, return_state, dtype):
    for zero in (False, True):  # Bidirectional overrules it: see docs/keras.md
        options = dict(return_sequences=return_sequences, return_state=return_state, zero_output_for_mask=zero)
        check_all(keras, make_layer(keras, dtype, merge_mode=merge_mode, **options))


@pytest.mark.parametrize("wrap", [{}, {"merge_mode": "concat"}, {"go_backwards": True}], ids=str)
def test_stateful_is_passing_the_state_on(keras, wrap):
    layer = make_layer(keras, stateful=True, return_sequences=True, **wrap)
    lstm, hx = like(layer), None
    for n, mask in enumerate((MASK, None, MASK if shows_initial_h(keras) else FILLED)):
        x, words = draw(B, T, I, seed=n), words_of(layer, mask)
        alone, (output, hx) = lstm(x, **words)[0], lstm(x, hx, **words)
        compare([output], keras_results(keras, layer, x, mask), "float64")
    with pytest.raises(AssertionError, match="result 0: differs"):  # the state matters
        compare([alone], [output], "float64")
    layer.reset_states()
    compare([lstm(x)[0]], keras_results(keras, layer, x), "float64")


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("gates", ACTIVATIONS)
def test_activations(keras, gates, dtype):
    for inner in ACTIVATIONS:
        layer = make_layer(keras, dtype, activation=inner, recurrent_activation=gates, return_state=True)
        kernel, recurrent_kernel, bias = layer.get_weights()
        # pre-activations on both sides of all corners; few steps, because gates without bound blow the state up
        layer.set_weights([4 * kernel, recurrent_kernel / 4, bias])
        # torch's softplus is a where a > 20, off by 2e-9
        rough = keras.config.backend() == "torch" and "softplus" in (gates, inner)
        check(keras, layer, x=draw(B, 3, I, dtype=dtype, seed=7), rtol=1e-9 if rough else 0.0)


def test_activations_with_constants_and_none(keras):
    k = keras.activations
    for theirs, ours in [
        (lambda a: k.leaky_relu(a, negative_slope=0.3), ("LeakyRelu", 0.3)),
        (lambda a: k.relu(a, negative_slope=0.3), ("LeakyRelu", 0.3)),
        (lambda a: k.relu(a, threshold=0.3), ("ThresholdedRelu", 0.3)),
        (lambda a: k.elu(a, alpha=0.3), ("Elu", 0.3)),
        (None, "Affine"),
    ]:
        layer = make_layer(keras, recurrent_activation=theirs)
        if theirs is not None:
            theirs.__name__ = "linear"  # has to have a name in the table, though it is not looked at
        check(keras, layer, cell=CellSpec(activations=(ours, "tanh", "tanh")))


def test_other_activations_raise(keras):
    others = {name for name, value in vars(keras.activations).items() if callable(value)}
    others -= {*ACTIVATIONS, "get", "serialize", "deserialize"}
    assert {"gelu", "silu", "selu", "hard_silu", "exponential", "mish"} <= others
    for name in {"swish", *others}:
        with pytest.raises(nplstm.ArgumentError, match=rf"activations\[1\]: activation: .* got '{name}'"):
            CellSpec(activations=("sigmoid", name, name))


def test_how_the_work_is_cut_has_no_meaning(keras):
    check_all(keras, make_layer(keras, implementation=1, return_sequences=True))
    layer = make_layer(keras, unroll=True, return_sequences=True)
    check(keras, layer, None, states(layer))
    check(keras, layer, MASK)
    check(keras, layer, FILLED, states(layer))
    if shows_initial_h(keras):  # there an unrolled layer forgets zero_output_for_mask
        layer = make_layer(keras, unroll=True, return_sequences=True, zero_output_for_mask=True)
        check(keras, layer, MASK, words={"masked_output": "repeat"})


def masking_model(keras, layers):
    """Put layers on top of each other, and of one that masks out the steps that are zero."""
    return keras.Sequential([keras.Input((T, I), dtype="float64"), keras.layers.Masking(dtype="float64"), *layers])


@pytest.mark.parametrize("wrap", [{}, {"merge_mode": "concat"}], ids=str)
def test_a_stack_is_num_layers(keras, wrap):
    width = 2 * H if wrap else H
    layers = [make_layer(keras, input_size=size, return_sequences=True, **wrap) for size in (I, width)]
    x = np.where(MASK[:, :, None], draw(B, T, I, seed=7), 0.0)
    lstm = nplstm.LSTM(I, H, **options_of(layers[0]), num_layers=2)
    lstm.load_state_dict(weights_of(layers[0], 0) | weights_of(layers[1], 1))
    output, _ = lstm(x, **words_of(layers[1], (x != 0).any(axis=2)))
    compare([output], keras_results(keras, masking_model(keras, layers), x), "float64")


@pytest.mark.parametrize("wrap", [{"merge_mode": "sum"}, {"merge_mode": "mul"}, {"go_backwards": True}], ids=str)
def test_other_stacks_are_separate_layers(keras, wrap):
    layers = [make_layer(keras, input_size=size, return_sequences=True, **wrap) for size in (I, H)]
    x = np.where(MASK[:, :, None], draw(B, T, I, seed=7), 0.0)
    output = x
    for layer in layers:
        output, _ = like(layer)(output, **words_of(layer, MASK))
    compare([output], keras_results(keras, masking_model(keras, layers), x), "float64")


def test_another_backward_layer(keras):
    ahead = keras.layers.LSTM(H, return_sequences=True, dtype="float64")
    back = keras.layers.LSTM(H, activation="relu", return_sequences=True, go_backwards=True, dtype="float64")
    layer = keras.layers.Bidirectional(ahead, backward_layer=back, dtype="float64")
    layer.build((B, T, I))
    layer.set_weights([draw(*w.shape, seed=n) for n, w in enumerate(layer.weights)])
    x = draw(B, T, I, seed=7)
    ours = [like(layer.forward_layer), like(layer.backward_layer, output_order="time")]
    parts = [lstm(x, mask=MASK, masked_output="zero")[0] for lstm in ours]
    compare([np.concatenate(parts, axis=2)], keras_results(keras, layer, x, MASK), "float64")


def test_cells(keras):
    cells = [keras.layers.LSTMCell(H, dtype="float64") for _ in range(2)]
    stacked = keras.layers.StackedRNNCells(cells, dtype="float64")
    layer = keras.layers.RNN(stacked, return_sequences=True, return_state=True, dtype="float64")
    layer.build((B, T, I))
    layer.set_weights([draw(*w.shape, seed=n) for n, w in enumerate(layer.weights)])
    first, second = (from_weight_format("keras", cell.get_weights()) for cell in cells)
    lstm = nplstm.LSTM(I, H, 2, batch_first=True, dtype="float64")
    lstm.load_state_dict({f"{name}_l{n}": a for n, part in enumerate((first, second)) for name, a in part.items()})
    x, h, c = draw(B, T, I), draw(B, H, seed=1), draw(B, H, seed=2)
    output, (h_n, c_n) = lstm(x, mask=MASK)
    returned, *final = layer(x, mask=MASK)
    expected = [keras.ops.convert_to_numpy(a) for a in (returned, *final[0], *final[1])]
    compare([output, h_n[0], c_n[0], h_n[1], c_n[1]], expected, "float64")
    own = nplstm.LSTMCell(I, H, dtype="float64")
    own.load_state_dict(first)
    compare(own(x[:, 0], (h, c)), [keras.ops.convert_to_numpy(a) for a in cells[0](x[:, 0], [h, c])[1]], "float64")


DROPS = {"dropout": {"dropout": 0.3}, "both": {"dropout": 0.3, "recurrent_dropout": 0.4}}


@pytest.mark.parametrize("drops", DROPS)
@pytest.mark.parametrize("masks", ["none", "ours", "one per gate"])
def test_dropout(keras, masks, drops, monkeypatch):
    """In inference there is none; in training Keras with our masks agrees, and with one per gate it does not."""
    drops = DROPS[drops]
    layer, x = make_layer(keras, return_sequences=True, **drops), draw(B, T, I, seed=7)
    spec = CellSpec(input_dropout=drops["dropout"], recurrent_dropout=drops.get("recurrent_dropout", 0.0))
    lstm = like(layer, cell=spec)
    if masks == "none":
        expected = keras_results(keras, layer, x)
        compare([lstm(x)[0]], expected, "float64")
        compare([lstm.record(x, training=False).output], expected, "float64")
        return
    per_gate = "recurrent_dropout" in drops  # with it Keras draws a mask for each gate, else one for all
    assert isinstance(layer.cell.get_dropout_mask(x[:, 0]), list) == per_gate
    rng = np.random.default_rng(0)
    for name, width in (("dropout", I), ("recurrent_dropout", H))[: len(drops)]:
        kept = rng.random((1, B, width)) >= drops[name]  # as ``record`` draws from this generator
        if masks == "one per gate":
            kept = np.concatenate([kept, np.random.default_rng(1).random((3, B, width)) >= drops[name]])
        scaled = keras.ops.convert_to_tensor(kept / (1 - drops[name]))
        drawn = [scaled[n % len(kept)] for n in range(4)] if per_gate else scaled[-1]
        monkeypatch.setattr(layer.cell, f"get_{name}_mask", lambda _, drawn=drawn: drawn)
    output = lstm.record(x, rng=np.random.default_rng(0)).output
    expected = keras_results(keras, layer, x, training=True)
    if masks == "ours":
        compare([output], expected, "float64")
    else:
        with pytest.raises(AssertionError, match="result 0: differs"):
            compare([output], expected, "float64")


def check_start(kernel, recurrent_kernel, bias):
    """Check weights as Keras lays them out against what its default initialisers promise."""
    limit = (6 / sum(kernel.shape)) ** 0.5
    values = np.sort(kernel.reshape(-1)) / limit
    assert np.abs(values).max() <= 1
    # Kolmogorov and Smirnov: P(more) < 1e-9 for this many values
    uniform = np.linspace(-1, 1, len(values))
    assert np.abs(values - uniform).max() / 2 < (np.log(2e9) / 2 / len(values)) ** 0.5
    assert np.abs(values - uniform).max() / 2 > 1e-3 / len(values)  # they are drawn
    # float32, sums over 4H products
    assert np.abs(recurrent_kernel @ recurrent_kernel.T - np.eye(len(recurrent_kernel))).max() < 1e-5
    i, f, g, o = np.split(bias, 4)
    assert (f == 1).all()
    assert not np.any([i, g, o])


def ours_at_start(**changes):
    lstm = nplstm.LSTM(13, 17, bidirectional=True, cell=CellSpec(**(START | changes)), rng=0)
    return [to_weight_format("keras", lstm.parameters, suffix=s, as_list=True) for s in ("_l0", "_l0_reverse")]


def test_initialisers(keras):
    keras.utils.set_random_seed(0)
    layer = keras.layers.LSTM(17)
    layer.build((B, T, 13))
    check_start(*layer.get_weights())
    for arrays in ours_at_start():
        check_start(*arrays)
    layer = keras.layers.LSTM(17, unit_forget_bias=False)
    layer.build((B, T, 13))
    assert not layer.get_weights()[2].any()
    assert not ours_at_start(forget_bias=None)[0][2].any()


@pytest.mark.parametrize("name", ["init_ih", "init_hh", "init_bias", "forget_bias"])
def test_a_wrong_start_is_seen(name):
    wrong = {"init_ih": "xavier_normal", "init_hh": "xavier_uniform", "init_bias": "uniform", "forget_bias": 0.5}
    with pytest.raises(AssertionError):
        check_start(*ours_at_start(**{name: wrong[name]})[0])


GRADIENTS = {
    "mul": {"merge_mode": "mul"},
    "concat": {"merge_mode": "concat", "activation": "leaky_relu", "recurrent_activation": "hard_sigmoid"},
    "backwards": {"go_backwards": True, "activation": "relu", "recurrent_activation": "softsign"},
    "zero": {"zero_output_for_mask": True, "activation": "elu", "recurrent_activation": "softplus"},
    "no bias": {"activation": "linear", "use_bias": False},
}


def gradient_case(keras, name, backend):
    """Return a layer, and x, mask, states and d loss / d output for it."""
    layer = make_layer(keras, return_sequences=True, **GRADIENTS[name])
    width = 2 * H if GRADIENTS[name].get("merge_mode") == "concat" else H
    mask = MASK if backend == "jax" or "merge_mode" in GRADIENTS[name] else FILLED  # as in check_all
    return layer, draw(B, T, I, seed=7), mask, states(layer), draw(B, T, width, seed=8)


def keras_gradients(backend):
    """Return the gradients of x, weights and states by Keras for all cases; runs in a process of its own."""
    keras = importlib.import_module("keras")
    assert keras.config.backend() == backend
    float64_table()["float64"] = "float64"
    library = importlib.import_module(backend)
    found = {}
    for name in GRADIENTS:
        layer, x, mask, state, grad = gradient_case(keras, name, backend)
        if backend == "torch":
            x, *state = (library.tensor(a, requires_grad=True) for a in (x, *state))
            output = layer(x, mask=library.tensor(mask), initial_state=state)
            (output * library.tensor(grad)).sum().backward()
            grads = [x.grad, *(w.value.grad for w in layer.trainable_variables), *(s.grad for s in state)]
        else:
            rest = [v.value for v in layer.non_trainable_variables]

            def loss(x, weights, state):
                out, _ = layer.stateless_call(weights, rest, x, mask=mask, initial_state=state)
                return (out * grad).sum()

            weights = [w.value for w in layer.trainable_variables]
            at_x, at_weights, at_state = library.jit(library.grad(loss, argnums=(0, 1, 2)))(x, weights, state)
            grads = [at_x, *at_weights, *at_state]
        found[name] = [np.array(array) for array in grads]
    return found


@pytest.fixture(scope="module", params=[n for n in ("torch", "jax") if importlib.util.find_spec(n)] or [None])
def by_keras(keras, request):
    """Keras's gradients on a backend that has some."""
    if request.param is None:
        require("keras", "neither torch nor jax is installed, and Keras has no gradients without one of them")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", request.param)
        patch.setenv("JAX_ENABLE_X64", "1")
        patch.setenv("OMP_NUM_THREADS", "1")  # see above
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            return request.param, executor.submit(keras_gradients, request.param).result()


def gradients(keras, name, backend, **changes):
    """Return our gradients in Keras's order and layout."""
    layer, x, mask, state, grad = gradient_case(keras, name, backend)
    tape = like(layer, **changes).record(x, hx_of(state), **words_of(layer, mask))
    grads = tape.backward(grad)
    found = [grads.input]
    for suffix in ("_l0", "_l0_reverse")[: len(directions(layer))]:
        found += [grads.parameters[f"{part}{suffix}"].T for part in ("weight_ih", "weight_hh")]
        if f"bias_ih{suffix}" in grads.parameters:
            found.append(grads.parameters[f"bias_ih{suffix}"])
            assert np.array_equal(found[-1], grads.parameters[f"bias_hh{suffix}"])
    return found + [part for pair in zip(grads.h_0, grads.c_0, strict=True) for part in pair]


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(keras, name, by_keras):
    backend, expected = by_keras
    # torch's hard_sigmoid has the slope 1/6 in float32
    rough = backend == "torch" and GRADIENTS[name].get("recurrent_activation") == "hard_sigmoid"
    compare(gradients(keras, name, backend), expected[name], "float64", 1e-7 if rough else 0.0)


def test_a_wrong_gradient_is_seen(keras, by_keras):
    backend, expected = by_keras
    for name, spoilt in (
        ("mul", {"merge": "sum"}),
        ("concat", {"cell": CellSpec()}),
        ("backwards", {"output_order": "time"}),
    ):
        with pytest.raises(AssertionError, match="result 0: differs"):
            compare(gradients(keras, name, backend, **spoilt), expected[name], "float64")


def cell(gates="sigmoid", candidate="tanh", output="tanh"):
    return CellSpec(activations=(gates, candidate, output))


SPOILT = {  # options of Keras's layer, and what is wrong with ours
    "direction": ({"go_backwards": True}, {"reverse": False, "output_order": "time"}),
    "order": ({"go_backwards": True}, {"output_order": "time"}),
    "merge": ({"merge_mode": "ave"}, {"merge": "sum"}),
    "zero": ({}, {"words": {"masked_output": "zero"}}),
    "repeat": ({"merge_mode": "sum"}, {"words": {"masked_output": "repeat"}}),
    "mask": ({}, {"words": {"mask": ~MASK}}),
    "ONNX's slope": ({"activation": "leaky_relu"}, {"cell": cell("sigmoid", "leaky_relu", "leaky_relu")}),
    "ONNX's hard sigmoid": ({"recurrent_activation": "hard_sigmoid"}, {"cell": cell("hard_sigmoid")}),
    "output's activation": ({"activation": "softsign"}, {"cell": cell("sigmoid", "softsign", "tanh")}),
    "candidate's activation": ({"activation": "softsign"}, {"cell": cell("sigmoid", "tanh", "softsign")}),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_wrong_option_is_seen(keras, name):
    options, wrong = SPOILT[name]
    layer = make_layer(keras, return_sequences=True, **options)
    check(keras, layer, MASK)
    with pytest.raises(AssertionError, match="result 0: differs"):
        check(keras, layer, MASK, **wrong)


def test_wrong_weights_and_states_are_seen(keras, monkeypatch):
    layer = make_layer(keras)
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "hx_of", lambda state: (state[1][None], state[0][None]))
    with pytest.raises(AssertionError, match="result 0: differs"):
        check(keras, layer, None, states(layer))
    names = ("kernel", "recurrent_kernel", "bias")  # Haste's gates stand in another order

    def haste(_, weights, suffix):
        return from_weight_format("haste", dict(zip(names, weights, strict=True)), suffix=suffix)

    monkeypatch.undo()
    monkeypatch.setattr(here, "weights_of", lambda layer: haste("keras", layer.get_weights(), "_l0"))
    with pytest.raises(AssertionError, match="result 0: differs"):
        check(keras, layer)


def unnamed(text, *functions):
    """Return the arguments that a document does not name."""
    known = set(re.findall(r"`([a-z_]+)(?:=[^`]*)?`", text))
    arguments = {name for function in functions for name in inspect.signature(function).parameters}
    return arguments - known - {"self", "kwargs"}


def test_the_document_names_every_option(keras):
    text = (Path(__file__).parent.parent / "docs" / "keras.md").read_text(encoding="utf-8")
    k = keras.layers
    functions = (k.LSTM.__init__, k.LSTM.call, k.RNN.__init__, k.Bidirectional.__init__, k.Bidirectional.call)
    assert not unnamed(text, *functions)
    assert unnamed(text.replace("`unroll", "`"), *functions) == {"unroll"}
