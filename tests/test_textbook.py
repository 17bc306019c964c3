"""The library against the six equations, written here as a plain loop over sequences, steps and gates."""

import numpy as np
import pytest
from cases import B, H, I, T
from helpers import assert_close

import nplstm


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def textbook_lstm(x, h, c, weight_ih, weight_hh, bias_ih, bias_hh):
    """One sequence (T, I) from a state (H,): h_t at each step, and the final c."""
    outputs = []
    for x_t in x:
        a = weight_ih @ x_t + bias_ih + weight_hh @ h + bias_hh
        i, f, g, o = sigmoid(a[:H]), sigmoid(a[H : 2 * H]), np.tanh(a[2 * H : 3 * H]), sigmoid(a[3 * H :])
        c = f * c + i * g
        h = o * np.tanh(c)
        outputs.append(h)
    return np.array(outputs), c


@pytest.mark.parametrize("seed", range(5))
def test_the_six_equations(seed, be):
    rng = np.random.default_rng(seed)
    lstm = nplstm.LSTM(I, H, dtype="float64", backend=be.name, rng=seed)
    x, h_0, c_0 = rng.standard_normal((T, B, I)), rng.standard_normal((1, B, H)), rng.standard_normal((1, B, H))
    output, (h_n, c_n) = lstm(be.asarray(x), (be.asarray(h_0), be.asarray(c_0)))
    weights = {name.removesuffix("_l0"): be.to_numpy(array) for name, array in lstm.parameters.items()}
    for b in range(B):
        expected, c = textbook_lstm(x[:, b], h_0[0, b], c_0[0, b], **weights)
        assert_close(be.to_numpy(output)[:, b], expected, 1e-14, "output")
        assert_close(be.to_numpy(h_n)[0, b], expected[-1], 1e-14, "h_n")
        assert_close(be.to_numpy(c_n)[0, b], c, 1e-14, "c_n")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [-40.0, -20.0, -8.0, 8.0, 40.0])
def test_almost_closed_gates_keep_their_digits(shift, dtype, be):
    """What docs/decisions/0003 promises of the sigmoid: relative accuracy; `test_saturation.py` has the rest."""
    from nplstm.core.cell import gates_forward

    a = np.linspace(shift - 1, shift + 1, 40, dtype=dtype).reshape(1, 40)
    gates = be.to_numpy(gates_forward(be.asarray(a.copy()))).astype(float)
    exact = 1 / (1 + np.exp(-a.astype(float)))
    exact[:, 20:30] = np.tanh(a.astype(float)[:, 20:30])
    assert (np.abs(gates - exact) / np.abs(exact)).max() <= 4 * np.finfo(dtype).eps  # 2.5 of the exponential


def test_saturated_gates_stay_finite_and_silent(be):
    lstm = nplstm.LSTM(1, 1, backend=be.name, rng=0)
    x = be.asarray(np.array([[[1e30]], [[-1e30]]], dtype=np.float32))
    assert np.isfinite(be.to_numpy(lstm(x)[0])).all()  # warnings are errors: no overflow either
