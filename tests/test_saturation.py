"""Gates that are almost closed, or almost open, keep their digits: see docs/decisions/0003.

Each check is also run on a sigmoid with absolute accuracy only, 1/2 + tanh(a/2) / 2, and has to fail on it.
"""

from decimal import Decimal, localcontext

import numpy as np
import pytest

import nplstm
from nplstm.core import cell as core_cell
from nplstm.engines._numpy import cell as numpy_cell

ENGINES = ("compiled", "numpy", "plain")
"""Those whose sigmoid keeps its digits."""

KEEP_ONE_MINUS = ("compiled", "numpy")
"""Those whose recording also has the digits of 1 - sigmoid(a). The others have the gate, as torch has: where that
is 1 to the last place, its derivative is 0."""

each_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture
def tanh_form(monkeypatch):
    """Break the engines: their sigmoids become 1/2 + tanh(a/2) / 2."""

    def sigmoid(a, out):
        np.multiply(np.tanh(a * 0.5), 0.5, out=out)
        return np.add(out, 0.5, out=out)

    def exp(minus_a, out):  # what the engine makes of it, 1 / (1 + exp), is the sigmoid above
        return np.subtract(1 / sigmoid(-minus_a, np.empty_like(minus_a)), 1, out=out)

    monkeypatch.setattr(core_cell, "sigmoid_forward", sigmoid)
    monkeypatch.setattr(numpy_cell, "exp", exp)


def exact_sigmoid(a):
    """Return the sigmoid of each element to 40 digits."""
    with localcontext() as context:
        context.prec = 40
        return [1 / (1 + (-Decimal(float(value))).exp()) for value in a]


def ulps(found, a):
    """Return the largest error in units in the last place."""
    with localcontext() as context:
        context.prec = 40
        pairs = zip(found, exact_sigmoid(a), strict=True)
        return max(
            float(abs(Decimal(float(y)) - exact) / Decimal(float(np.spacing(y.dtype.type(exact)))))
            for y, exact in pairs
        )


def whole_range(dtype):
    """Return pre-activations from where the sigmoid is the smallest normal number to where it is 1."""
    low = float(np.ceil(np.log(np.finfo(dtype).tiny)))
    rng = np.random.default_rng(0)
    values = np.linspace(low, 50, 1500), np.linspace(-4, 4, 301), 10 * rng.standard_normal(300), [0, -0.0, 1e-30]
    return np.maximum(np.concatenate(values), low).astype(dtype)


def forget_gate(engine, a):
    """Return what the engine's forget gates are: c_1 = f c_0 + i g, with c_0 = 1 and g = 0."""
    lstm = nplstm.LSTM(1, 1, bias=False, dtype=a.dtype, rng=0)
    lstm.load_state_dict({
        "weight_ih_l0": np.array([[0], [1], [0], [0]], a.dtype), "weight_hh_l0": np.zeros((4, 1), a.dtype)
    })  # fmt: skip
    ones = np.ones((1, len(a), 1), a.dtype)
    with nplstm.use_engines(engine):
        return lstm(a.reshape(1, -1, 1), (0 * ones, ones))[1][1].ravel()


def check_sigmoid(engine, dtype):
    # Of 5: NumPy's float32 exponential may be 2.5 off, the sum and the quotient are rounded, and each can be worth
    # twice as much in the result's last place as in its own. Measured: 3.4 in float32, 2.2 in float64.
    a = whole_range(dtype)
    assert ulps(forget_gate(engine, a), a) <= 5


@each_engine
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gate_is_right_to_a_few_units_in_the_last_place(engine, dtype):
    check_sigmoid(engine, dtype)


@each_engine
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_of_far_values_the_gate_is_0_or_1(engine, dtype):
    """Warnings are errors, so nothing overflows aloud; below the smallest normal number digits may be missing."""
    info = np.finfo(dtype)
    a = np.array([np.log(info.tiny) - 2, -800, -1e4, -info.max, 50, 800, info.max], dtype)
    found = forget_gate(engine, a)
    assert (found[:4] <= info.tiny).all()
    assert (found[1:4] == 0).all()
    assert (found[4:] == 1).all()
    assert np.isnan(forget_gate(engine, np.array([np.nan, 1], dtype))).tolist() == [True, False]
    assert (forget_gate(engine, np.array([-0.0, 0.0], dtype)) == 0.5).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_sigmoid_of_each_backend(dtype, be):
    if dtype not in be.float_dtypes:
        dtype = "float32"
    a = whole_range(dtype)
    out = be.asarray(np.zeros_like(a))
    core_cell.sigmoid_forward(be.asarray(a), out)
    assert ulps(be.to_numpy(out), a) <= 5
    far = be.asarray(np.array([-np.finfo(dtype).max, -np.inf, np.inf, np.finfo(dtype).max, np.nan], dtype))
    far = be.to_numpy(core_cell.sigmoid_forward(far, far))
    assert far[:4].tolist() == [0, 0, 1, 1]
    assert np.isnan(far[4])


def parameters(I, H, biases):
    """Return random weights in float32, and for the gates i, f, g, o what is given of their biases."""
    rng, limit = np.random.default_rng(0), H**-0.5
    bias = np.zeros((4, H))
    for gate, values in biases.items():
        bias["ifgo".index(gate)] = values
    shapes = {"weight_ih_l0": (4 * H, I), "weight_hh_l0": (4 * H, H)}
    found = {name: rng.uniform(-limit, limit, shape) for name, shape in shapes.items()}
    found |= {"bias_ih_l0": bias.ravel(), "bias_hh_l0": np.zeros(4 * H)}
    return {name: array.astype("float32") for name, array in found.items()}


def run(engine, dtype, values, x, grad_output):
    """Return output and gradients."""
    lstm = nplstm.LSTM(x.shape[2], grad_output.shape[2], dtype=dtype, rng=0)
    lstm.load_state_dict({name: array.astype(dtype) for name, array in values.items()})
    with nplstm.use_engines(engine):
        tape = lstm.record(x.astype(dtype))
        return tape.output, dict(tape.backward(grad_output.astype(dtype)).parameters)


def both(engine, values, x, grad_output):
    """Return output and gradients by the engine in float32, and by the plain loop in float64."""
    return run(engine, "float32", values, x, grad_output), run("plain", "float64", values, x, grad_output)


def problem(T=19, B=3, I=5, H=17):
    rng = np.random.default_rng(1)
    return rng.standard_normal((T, B, I)).astype("float32"), rng.standard_normal((T, B, H)).astype("float32")


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def check_closed(engine, bias):
    # a is about 30 and is rounded to float32, by 1e-6 at most; that is the relative error of its sigmoid
    x, grad_output = problem()
    (output, grads), (expected, expected_grads) = both(engine, parameters(5, 17, {"i": bias}), x, grad_output)
    assert error(output, expected) <= 1e-6
    for name, grad in expected_grads.items():
        assert error(grads[name], grad) <= 3e-6, name  # sums over steps of products of such values


@each_engine
@pytest.mark.parametrize("bias", [-8, -12, -16, -30])
def test_a_layer_whose_input_gates_are_almost_closed(engine, bias):
    check_closed(engine, bias)


def row_error(found, expected):
    """Return the largest relative error of a row."""
    found, expected = found.reshape(len(found), -1), expected.reshape(len(expected), -1)
    return (np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()


def of_gate(grad, gate):
    k, H = "ifgo".index(gate), len(grad) // 4
    return grad[k * H : (k + 1) * H]


def check_input_gates_among_saturated_ones(engine):
    """Inputs of 1e4 saturate f, g and o; a_i of row j is between -j/4 and -25 j, by an exact product."""
    T, B, H = 23, 3, 64
    rng = np.random.default_rng(2)
    x = np.stack(
        [rng.choice([-1e4, 1e4], (T, B)), np.full((T, B), 1e4), 64.0 * rng.integers(1, 100, (T, B))], axis=2
    )
    values = parameters(3, H, {})
    values["weight_ih_l0"] = np.zeros((4 * H, 3), "float32")
    for gate, column, weight in (("i", 2, -np.arange(1, H + 1) / 256), ("f", 1, 1), ("g", 0, 1), ("o", 1, 1)):
        of_gate(values["weight_ih_l0"], gate)[:, column] = weight
    (output, grads), (expected, expected_grads) = both(engine, values, x, rng.standard_normal((T, B, H)))
    assert error(output, expected) <= 1e-6
    for name, grad in expected_grads.items():
        # W_hh h is added, of the size of 1. a is between -16 and -32 in the last rows: a few roundings of 1e-6
        assert row_error(of_gate(grads[name], "i"), of_gate(grad, "i")) <= 3e-5, name


@each_engine
def test_input_gates_among_saturated_ones(engine):
    check_input_gates_among_saturated_ones(engine)


def check_saturated(engine):
    """Compare where inputs of 1e4 saturate most gates, and the gradient comes from the few that are not.

    With weights in 256ths and inputs in multiples of 16, W_ih x has 21 bits: a is exact but for what h adds.
    """
    I, H, T, B = 7, 13, 31, 5
    rng = np.random.default_rng(3)
    x = 16 * np.round(rng.standard_normal((T, B, I)) * 1e4 / 16)
    values = {name: np.round(array * 256) / 256 for name, array in parameters(I, H, {}).items()}
    (_, grads), (_, expected) = both(engine, values, x, rng.standard_normal((T, B, H)))
    for name, grad in expected.items():
        assert np.isfinite(grads[name]).all(), name
        for gate in "ifo" if engine in KEEP_ONE_MINUS else "i":  # the gradients of f and o come from open ones
            # a is up to 20 where it matters: a few roundings of 1e-6 in each gate that a gradient passes
            assert error(of_gate(grads[name], gate), of_gate(grad, gate)) <= 5e-5, f"{name}: {gate}"


@each_engine
def test_saturated_gates(engine):
    check_saturated(engine)


def check_chrono(engine):
    """Start as Tallec & Ollivier (2018) do: forget bias log(U(1, T_max - 1)), input bias its negative."""
    x, grad_output = problem(H=61)
    forget = np.log(np.random.default_rng(4).uniform(1, 1e8 - 1, 61))
    (_, grads), (_, expected) = both(engine, parameters(5, 61, {"i": -forget, "f": forget}), x, grad_output)
    for name, grad in expected.items():
        # in float32 1 - f is rounded by 6e-8, and is 6e-8 for a = 16.6
        for gate in "ifgo" if engine in KEEP_ONE_MINUS else "igo":
            rows, expected_rows = of_gate(grads[name], gate), of_gate(grad, gate)
            assert rows.reshape(61, -1).any(axis=1).all(), f"{name}: {gate} has a row of zeros"
            # a is up to 18.4 and rounded by 1e-6. In some rows terms cancel to a thousandth
            assert error(rows, expected_rows) <= 1e-5, f"{name}: {gate}"
            assert row_error(rows, expected_rows) <= 1e-2, f"{name}: {gate}"


@each_engine
def test_chrono_initialisation(engine):
    check_chrono(engine)


def check_learns_to_remember(engine):
    """Train W_ih on a sign that is shown, beside a 1, at the first of 100 steps, from input gates of 2e-9 on.

    By a sigmoid that is 0 there the cell stays 0, and so do all gradients.
    """
    T, B, H = 100, 4, 3
    sign = np.array([-1, 1, -1, 1], "float32")
    x = np.zeros((T, B, 2), "float32")
    x[0] = np.stack([sign, np.ones(B)], axis=1)
    lstm = nplstm.LSTM(2, H, rng=0)
    lstm.load_state_dict(parameters(2, H, {"i": -20, "f": 20}))
    optimizer = nplstm.Adam(lstm.parameters, lr=0.3, eps=1e-20)  # gradients are of the size of Adam's usual eps
    with nplstm.use_engines(engine):
        for _ in range(120):
            tape = lstm.record(x)
            loss, grad = nplstm.mse_loss(tape.h_n.sum(axis=2), 0.3 * sign[None])  # each cell may hold one sign
            grad_h_n = np.repeat(grad[:, :, None], H, axis=2)
            grads = tape.backward(None, (grad_h_n, np.zeros_like(grad_h_n))).parameters
            optimizer.step({"weight_ih_l0": grads["weight_ih_l0"]})
    assert loss < 0.005, loss  # of 0.09 for an output of 0


@each_engine
def test_learns_to_remember(engine):
    check_learns_to_remember(engine)


@pytest.mark.parametrize("engine", ["numpy", "plain"])  # whose sigmoid is Python's, and can be replaced
@pytest.mark.parametrize(
    "check",
    [
        lambda engine: check_sigmoid(engine, "float32"),
        lambda engine: check_sigmoid(engine, "float64"),
        *(lambda engine, bias=bias: check_closed(engine, bias) for bias in (-8, -12, -16, -30)),
        check_input_gates_among_saturated_ones,
        check_chrono,
        check_learns_to_remember,
    ],
)
def test_the_checks_fail_on_a_sigmoid_with_absolute_accuracy(check, engine, tanh_form):
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        check(engine)


def test_the_check_of_saturated_gates_fails_without_the_digits_of_an_open_gate(tanh_form):
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        check_saturated("numpy")
