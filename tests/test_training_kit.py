"""Linear, Embedding, losses, optimizers, clipping: against torch's saved results, and by finite differences."""

import math

import numpy as np
import pytest
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

import nplstm

OPTIMIZERS = {
    "sgd": (nplstm.SGD, dict(lr=0.1)),
    "sgd_momentum": (nplstm.SGD, dict(lr=0.1, momentum=0.9)),
    "sgd_everything": (nplstm.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True, maximize=True)),
    "sgd_dampening": (nplstm.SGD, dict(lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.01)),
    "adam": (nplstm.Adam, dict(lr=0.1)),
    "adam_everything": (nplstm.Adam, dict(lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, amsgrad=True)),
    "adamw": (nplstm.AdamW, dict(lr=0.1)),
    "adamw_everything": (nplstm.AdamW, dict(lr=0.1, weight_decay=0.2, amsgrad=True, maximize=True)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("interrupted", [False, True])
def test_optimizers_follow_torchs_path(name, interrupted, golden, be):
    """Also where a parameter has no gradient for once, and where the state is saved and loaded half way."""
    reference = golden("training", name)
    kind, options = OPTIMIZERS[name]
    parameters = {"p": be.asarray(reference["start"]), "other": be.asarray(np.ones(1))}
    optimizer = kind(parameters, **options)
    for k, gradient in enumerate(reference["gradients"]):
        if interrupted and k == 4:
            state = optimizer.state_dict()
            optimizer.step({"p": be.asarray(gradient)})  # must not reach the saved state
            parameters["p"] = be.asarray(reference["path"][k - 1])
            optimizer = kind(parameters, **options)
            optimizer.load_state_dict(state)
        grads = {"other": be.asarray(np.ones(1))} | ({} if k == 3 else {"p": be.asarray(gradient)})
        optimizer.step(grads)
        assert_close(be.to_numpy(parameters["p"]), reference["path"][k], 1e-13, f"update {k}")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse_loss", "huber_loss"])
def test_losses_are_torchs(loss, reduction, golden, be):
    reference = golden("training", "losses")
    point, target = ("logits", "classes") if loss == "cross_entropy" else ("prediction", "target")
    options = {"delta": 0.7} if loss == "huber_loss" else {}
    value, grad = getattr(nplstm, loss)(
        be.asarray(reference[point]), be.asarray(reference[target]), reduction=reduction, **options
    )
    assert isinstance(value, float)
    assert abs(value - reference[f"{loss}.{reduction}"]) <= 1e-14 * abs(value)
    assert_close(be.to_numpy(grad), reference[f"{loss}.{reduction}.grad"], 1e-14)


@given(loss=st.sampled_from(["cross_entropy", "mse_loss", "huber_loss"]), seed=st.integers(0, 2**31))
def test_losses_have_their_gradients(loss, seed, be):
    rng = np.random.default_rng(seed)
    point = rng.standard_normal((3, 2, 4)) * 2
    target = rng.integers(0, 4, (3, 2)) if loss == "cross_entropy" else rng.standard_normal((3, 2, 4))
    function = getattr(nplstm, loss)
    if loss == "huber_loss":  # stay clear of the kinks in the second derivative
        near = np.abs(np.abs(point - target) - 1) < 0.02
        point = np.where(near, target, point)
    y = be.asarray(target)
    inputs = {"x": be.asarray(point)}
    nplstm.gradcheck(lambda p: function(p["x"], y)[0], lambda p: {"x": function(p["x"], y)[1]}, inputs)


def test_cross_entropy_survives_large_logits(be):
    logits = be.asarray(np.array([[1e4, 0.0], [-1e4, 1e4]], dtype=np.float32))
    loss, grad = nplstm.cross_entropy(logits, be.asarray(np.array([0, 1])))
    assert loss == 0
    assert (be.to_numpy(grad) == 0).all()


def test_cross_entropy_of_nothing_is_nan_and_has_no_gradient(be):
    loss, grad = nplstm.cross_entropy(be.asarray(np.zeros((2, 3))), be.asarray(np.array([-100, -100])))
    assert math.isnan(loss)
    assert (be.to_numpy(grad) == 0).all()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_cross_entropy_takes_any_integers(dtype, be):
    logits = be.asarray(np.zeros((2, 3)))
    assert nplstm.cross_entropy(logits, be.asarray(np.array([0, 2], dtype)))[0] == pytest.approx(math.log(3))


Z = np.zeros((2, 3))
LOSSES = {
    "classes shape": (
        lambda: nplstm.cross_entropy(Z, np.array([0])),
        r"target: expected shape \(2,\), got \(1,\)",
    ),
    "classes floats": (lambda: nplstm.cross_entropy(Z, np.zeros(2)), "target: expected integers, got float64"),
    "classes range": (lambda: nplstm.cross_entropy(Z, np.array([0, 3])), r"classes in \[0, C=3\), got 0 to 3"),
    "classes list": (lambda: nplstm.cross_entropy(Z, [0, 1]), "target: expected an array"),
    "logits": (lambda: nplstm.cross_entropy(Z.astype(int), np.array([0, 1])), "logits: expected floats"),
    "reduction": (
        lambda: nplstm.mse_loss(Z, Z, reduction="none"),
        "reduction: expected 'mean' or 'sum', got 'none'",
    ),
    "target": (lambda: nplstm.mse_loss(Z, Z[:1]), r"target: expected shape \(2, 3\) like the input, got \(1, 3\)"),
    "target dtype": (lambda: nplstm.huber_loss(Z, Z.astype("f")), "target: is float32"),
    "integers": (lambda: nplstm.mse_loss(Z.astype(int), Z.astype(int)), "input: expected floats"),
    "delta": (lambda: nplstm.huber_loss(Z, Z, delta=0), r"delta: expected a number in \(0.0, inf\], got 0"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_bad_targets_are_named(name):
    call, message = LOSSES[name]
    with pytest.raises(nplstm.NplstmError, match=message):
        call()


@given(shape=st.sampled_from([(3,), (2, 3), (4, 2, 3), (0, 3)]), bias=st.booleans())
def test_linear(shape, bias, be):
    rng = np.random.default_rng(0)
    layer = nplstm.Linear(3, 5, bias, dtype="float64", backend=be.name, rng=0)
    x, cotangent = rng.standard_normal(shape), rng.standard_normal((*shape[:-1], 5))
    expected = x @ be.to_numpy(layer.parameters["weight"]).T
    if bias:
        expected = expected + be.to_numpy(layer.parameters["bias"])
    assert_close(be.to_numpy(layer(be.asarray(x))), expected, 1e-14)
    weight = be.asarray(cotangent)

    def record(point):
        layer.load_state_dict({name: point[name] for name in layer.parameters})
        return layer.record(point["input"])

    def gradient(point):
        grads = record(point).backward(weight)
        return {"input": grads.input, **grads.parameters}

    inputs = {"input": be.asarray(x), **layer.parameters}
    nplstm.gradcheck(lambda p: float((record(p).output * weight).sum()), gradient, inputs)


def test_embedding(be):
    table = nplstm.Embedding(6, 4, padding_idx=-1, dtype="float64", backend=be.name, rng=0)
    assert (be.to_numpy(table.parameters["weight"])[5] == 0).all()
    index = be.asarray(np.array([[1, 5], [1, 0]]))
    tape = table.record(index)
    assert np.array_equal(be.to_numpy(tape.output), be.to_numpy(table.parameters["weight"])[be.to_numpy(index)])
    cotangent = np.random.default_rng(0).standard_normal((2, 2, 4))
    index[...] = 0  # the tape has its own
    grad = be.to_numpy(tape.backward(be.asarray(cotangent)).parameters["weight"])
    expected = np.zeros((6, 4))
    expected[1] = cotangent[0, 0] + cotangent[1, 0]
    expected[0] = cotangent[1, 1]
    assert_close(grad, expected, 1e-15)


@pytest.mark.parametrize(
    ("norm_type", "norm"), [(2.0, 13.0), (1.0, 19.0), (math.inf, 12.0), (3.0, 1819 ** (1 / 3))]
)
def test_clipping_by_norm(norm_type, norm, be):
    grads = {
        "a": be.asarray(np.array([3.0, -4.0])),
        "b": be.asarray(np.array([[12.0]])),
        "c": be.asarray(np.ones(0)),
    }
    clipped, found = nplstm.clip_grad_norm(grads, 1.0, norm_type)
    assert found == pytest.approx(norm)
    assert_close(be.to_numpy(clipped["a"]), np.array([3.0, -4.0]) / (norm + 1e-6), 1e-12)
    untouched, _ = nplstm.clip_grad_norm(grads, 100.0, norm_type)
    assert np.array_equal(be.to_numpy(untouched["a"]), [3.0, -4.0])


def test_clipping_is_torchs(torch_reference):
    import torch

    for norm_type in (1.0, 2.0, math.inf):
        arrays = [np.random.default_rng(k).standard_normal((3, k + 1)) * 5 for k in range(3)]
        parameters = [torch.nn.Parameter(torch.zeros(a.shape, dtype=torch.float64)) for a in arrays]
        for parameter, array in zip(parameters, arrays, strict=True):
            parameter.grad = torch.from_numpy(array.copy())
        expected = torch.nn.utils.clip_grad_norm_(parameters, 0.7, norm_type)
        clipped, norm = nplstm.clip_grad_norm({str(k): a for k, a in enumerate(arrays)}, 0.7, norm_type)
        assert norm == pytest.approx(expected.item(), rel=1e-13)
        for k, parameter in enumerate(parameters):
            assert_close(clipped[str(k)], parameter.grad.numpy(), 1e-13)


def test_clipping_by_value(be):
    clipped = nplstm.clip_grad_value({"a": be.asarray(np.array([-3.0, 0.5, 2.0]))}, 1.0)
    assert be.to_numpy(clipped["a"]).tolist() == [-1.0, 0.5, 1.0]


def test_the_elements_type_is_kept(be):
    """A Python number or a float64 accumulator must not widen float32."""
    ones = be.asarray(np.ones((2, 3), np.float32))
    classes = be.asarray(np.array([0, 1]))
    parameters = {"p": ones}
    for kind, options in OPTIMIZERS.values():
        kind(parameters, **options).step({"p": ones})
        assert parameters["p"].dtype == np.float32
    grads = [f(ones, ones)[1] for f in (nplstm.mse_loss, nplstm.huber_loss)]
    grads += [nplstm.cross_entropy(ones, classes)[1], nplstm.clip_grad_norm({"p": ones}, 0.1)[0]["p"]]
    assert all(grad.dtype == np.float32 for grad in grads)


def sgd(**options):
    return nplstm.SGD({"p": np.zeros(2)}, **options)


KIT = {
    "lr": (lambda: sgd(lr=-1.0), r"lr: expected a number in \[0.0, inf\], got -1.0"),
    "nesterov": (lambda: sgd(nesterov=True), "nesterov: needs momentum > 0 and dampening = 0, got momentum=0.0"),
    "betas": (lambda: nplstm.Adam({}, betas=(0.9, 1.0)), r"betas: expected two numbers in \[0, 1\), got"),
    "one beta": (lambda: nplstm.Adam({}, betas=(0.9,)), r"betas: expected a pair \(b1, b2\), got a tuple of 1"),
    "unknown": (lambda: sgd().step({"q": np.zeros(2)}), r"grads: 'q' is no parameter; there are \['p'\]"),
    "shape": (lambda: sgd().step({"p": np.zeros(3)}), r"grads: p: expected shape \(2,\), got \(3,\)"),
    "dtype": (lambda: sgd().step({"p": np.zeros(2, "f")}), "p: is float32, but the parameter 'p' is float64"),
    "state": (
        lambda: sgd().load_state_dict({"exp_avg.p": np.zeros(2), "momentum_buffer.p": np.zeros(3)}),
        r"unexpected: exp_avg.p\n  momentum_buffer.p: expected float64 \(2,\), got float64 \(3,\)",
    ),
    "norm": (lambda: nplstm.clip_grad_norm({}, -1.0), "max_norm: expected a number"),
    "norm_type": (lambda: nplstm.clip_grad_norm({}, 1.0, 0), "norm_type: expected a number"),
    "value": (lambda: nplstm.clip_grad_value({}, -1.0), "clip_value: expected a number"),
    "linear": (
        lambda: nplstm.Linear(3, 2)(np.zeros((2, 4), "f")),
        r"input: expected shape \(\.\.\., in_features=3\)",
    ),
    "linear grad": (
        lambda: nplstm.Linear(3, 2).record(np.zeros((5, 3), "f")).backward(np.zeros((5, 3), "f")),
        r"grad_output: expected shape \(5, 2\), got \(5, 3\)",
    ),
    "index": (
        lambda: nplstm.Embedding(4, 2)(np.array([0, 4])),
        r"index: expected integers in \[0, num_embeddings=4\)",
    ),
    "negative index": (lambda: nplstm.Embedding(4, 2)(np.array([-1])), "index: expected integers in"),
    "float index": (lambda: nplstm.Embedding(4, 2)(np.zeros(1)), "index: expected integers, got float64"),
    "list index": (lambda: nplstm.Embedding(4, 2)([1]), "index: expected an array"),
    "padding_idx": (
        lambda: nplstm.Embedding(4, 2, padding_idx=4),
        "padding_idx: expected an index of num_embeddings=4",
    ),
    "parameters": (
        lambda: nplstm.Adam(nplstm.LSTM(2, 2)),
        "parameters: expected a mapping .*, got LSTM; pass its",
    ),
    "grads": (lambda: sgd().step([1.0]), "grads: expected a mapping of name to array, got list"),
    "clip grads": (lambda: nplstm.clip_grad_norm([1.0], 1.0), "grads: expected a mapping"),
    "clip element": (lambda: nplstm.clip_grad_norm({"a": [1.0]}, 1.0), "a: expected an array"),
    "state none": (lambda: sgd().load_state_dict(None), "state_dict: expected a mapping"),
    "state count": (
        lambda: sgd().load_state_dict({"step.p": np.array(-1)}),
        "step.p: expected a count of steps, got -1",
    ),
    "beta": (lambda: nplstm.Adam({}, betas=0.9), r"betas: expected a pair \(b1, b2\), got float"),
    "no classes": (lambda: nplstm.cross_entropy(np.zeros((0, 0)), np.zeros(0, int)), "logits: expected floats of"),
    "ignore": (
        lambda: nplstm.cross_entropy(Z, np.array([0, 1]), ignore_index=None),
        "ignore_index: expected an integer",
    ),
    "padding float": (lambda: nplstm.Embedding(4, 2, padding_idx=1.5), "padding_idx: expected an integer"),
}


@pytest.mark.parametrize("name", KIT)
def test_bad_input_is_named(name):
    call, message = KIT[name]
    with pytest.raises(nplstm.NplstmError, match=message):
        call()


@pytest.mark.parametrize("value", [np.float64(0.01), np.float32(0.01), 0.01])
def test_a_learning_rate_may_be_set_and_widens_nothing(value):
    parameters = {"p": np.zeros(2, np.float32)}
    for optimizer in (nplstm.SGD(parameters), nplstm.Adam(parameters)):
        optimizer.lr = value
        optimizer.step({"p": np.ones(2, np.float32)})
        assert parameters["p"].dtype == np.float32
        with pytest.raises(nplstm.ArgumentError, match="lr: expected a number"):
            optimizer.lr = -1


def test_an_optimizer_whose_parameters_were_moved_says_so_and_changes_nothing():
    layer = nplstm.Linear(2, 2, rng=0)
    optimizer = nplstm.Adam(layer.parameters)
    grads = {name: np.ones_like(array) for name, array in layer.parameters.items()}
    optimizer.step(grads)
    before = optimizer.state_dict()
    layer.to(dtype="float64")
    with pytest.raises(nplstm.DTypeError, match=r"exp_avg.weight: is float32, .* \(move it before"):
        optimizer.step({name: np.ones_like(array) for name, array in layer.parameters.items()})
    assert all(np.array_equal(before[key], array) for key, array in optimizer.state_dict().items())


def test_numbers_without_axes_are_parameters_too(be):
    number = be.asarray(np.array(1.0, np.float32))
    for kind, options in OPTIMIZERS.values():
        parameters = {"t": number}
        optimizer = kind(parameters, **options)
        for _ in range(3):
            clipped, _ = nplstm.clip_grad_norm({"t": number}, 0.5)
            optimizer.step(nplstm.clip_grad_value(clipped, 0.3))
        assert be.is_array(parameters["t"])
        assert parameters["t"].dtype == np.float32
    for loss in (nplstm.mse_loss, nplstm.huber_loss):
        assert be.is_array(loss(number, number)[1])


def test_parameters_are_floats():
    with pytest.raises(nplstm.DTypeError, match="w: expected a parameter of floats, got int64"):
        nplstm.SGD({"w": np.ones(2, int)}).step({"w": np.ones(2, int)})


def test_norms_do_not_overflow(be):
    for value, dtype in ((1e20, np.float32), *([(300.0, np.float16)] if "float16" in be.float_dtypes else [])):
        clipped, norm = nplstm.clip_grad_norm({"a": be.asarray(np.array([value, 0], dtype))}, 1.0)
        assert norm == pytest.approx(value, rel=1e-3)
        assert be.to_numpy(clipped["a"])[0] == pytest.approx(1, rel=1e-3)


def test_tapes_have_copies_of_what_they_were_given(be):
    x = be.asarray(np.ones((2, 3), np.float32))
    tape = nplstm.Linear(3, 2, backend=be.name, rng=0).record(x)
    expected = be.to_numpy(tape.backward(tape.output).parameters["weight"]).copy()
    x[...] = 0.0
    assert np.array_equal(be.to_numpy(tape.backward(tape.output).parameters["weight"]), expected)


def test_a_loaded_state_is_the_optimizers_own(be):
    parameters = {"p": be.asarray(np.zeros(2))}
    first, second = nplstm.Adam(parameters), nplstm.Adam(parameters)
    first.step({"p": be.asarray(np.ones(2))})
    state = first.state_dict()
    kept = be.to_numpy(state["exp_avg.p"]).copy()
    second.load_state_dict(state)
    second.step({"p": be.asarray(np.ones(2))})
    assert np.array_equal(be.to_numpy(state["exp_avg.p"]), kept)


def test_a_refused_step_changes_nothing():
    parameters = {"p": np.zeros(2), "q": np.zeros(2)}
    optimizer = nplstm.Adam(parameters)
    with pytest.raises(nplstm.NplstmError):
        optimizer.step({"p": np.ones(2), "q": np.ones(3)})
    assert (parameters["p"] == 0).all()
    assert not optimizer.state_dict()


def test_an_lstm_learns_to_remember(be):
    """The kit's parts together: the sign of the first step has to be told after four of noise."""
    rng = np.random.default_rng(0)
    lstm = nplstm.LSTM(1, 8, backend=be.name, rng=0)
    head = nplstm.Linear(8, 2, backend=be.name, rng=1)
    optimizer = nplstm.Adam(nplstm.JoinedParameters(lstm=lstm.parameters, head=head.parameters), lr=0.02)
    for _ in range(200):
        x = rng.standard_normal((5, 32, 1)).astype(np.float32)
        x[1:] *= 0.1
        recurrent = lstm.record(be.asarray(x))
        scores = head.record(recurrent.h_n[0])
        loss, grad = nplstm.cross_entropy(scores.output, be.asarray((x[0, :, 0] > 0).astype(int)))
        grad_head = scores.backward(grad)
        grad_lstm = recurrent.backward(None, (grad_head.input[None], None))
        optimizer.step(nplstm.JoinedParameters(lstm=grad_lstm.parameters, head=grad_head.parameters))
    assert loss < 0.35  # chance is log(2) = 0.69
