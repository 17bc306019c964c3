"""Compute the six equations of the LSTM by hand, and compare with the library.

python examples/six_equations.py
"""

import argparse

import numpy as np
from tqdm import tqdm

import nplstm
from nplstm.backends import get_backend

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="cupy runs on a GPU")
parser.add_argument("--steps", type=int, default=1000, help="T, the length of the sequence")
arguments = parser.parse_args()

T, B, I, H = arguments.steps, 4, 3, 5  # steps, sequences, inputs, cells
backend = get_backend(arguments.backend)
xp = backend.xp

lstm = nplstm.LSTM(I, H, dtype="float64", backend=arguments.backend, rng=0)
x = backend.asarray(np.random.default_rng(1).standard_normal((T, B, I)))

# as in torch, the rows of each parameter are those of the gates i, f, g, o, in this order
W_ih, W_hh, b_ih, b_hh = (
    lstm.parameters[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
)
rows = {"i": slice(0, H), "f": slice(H, 2 * H), "g": slice(2 * H, 3 * H), "o": slice(3 * H, 4 * H)}


def preactivation(gate, x_t, h):
    k = rows[gate]
    return x_t @ W_ih[k].T + b_ih[k] + h @ W_hh[k].T + b_hh[k]


def sigmoid(a):
    return 1 / (1 + xp.exp(-a))


h = c = xp.zeros((B, H))
by_hand = []
for x_t in tqdm(x, desc="by hand", unit="step"):
    i = sigmoid(preactivation("i", x_t, h))  # how much of the candidate is written
    f = sigmoid(preactivation("f", x_t, h))  # how much of the cell is kept
    g = xp.tanh(preactivation("g", x_t, h))  # the candidate
    o = sigmoid(preactivation("o", x_t, h))  # how much of the cell is put out
    c = f * c + i * g
    h = o * xp.tanh(c)
    by_hand.append(h)

output, (h_n, c_n) = lstm(x)

largest = float(abs(xp.stack(by_hand) - output).max())
print(f"\n{lstm} over {T} steps of {B} sequences, on {arguments.backend}")
print(f"by hand  h_n[0] = {backend.to_numpy(h)[0].round(6)}")
print(f"library  h_n[0] = {backend.to_numpy(h_n)[0, 0].round(6)}")
print(f"largest difference over all steps: {largest:.1e}")

# Backward: the derivative of sum(output) with respect to one weight, by the library and by finite differences.
tape = lstm.record(x)
analytic = float(tape.backward(xp.ones_like(tape.output)).parameters["weight_hh_l0"][0, 0])


def total(change):
    weight = W_hh.copy()
    weight[0, 0] += change
    lstm.parameters["weight_hh_l0"] = weight
    return float(lstm(x)[0].sum())


numerical = (total(1e-5) - total(-1e-5)) / 2e-5
print(f"d sum(output) / d weight_hh[0, 0]: analytic {analytic:.8f}, finite difference {numerical:.8f}")
