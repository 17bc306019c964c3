"""The compiled engine where it depends on the machine: other vectors, a system without a call or a cache."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba")

from nplstm.engines.compiled._numba import njit
from nplstm.engines.compiled.functions import tanh
from nplstm.engines.compiled.simd import lanes, load, store

BESIDE_PLAIN = """
import numpy as np, nplstm
from nplstm.engines.compiled import shares, simd, forward
for name in ("WORTH_A_THREAD", "_WORTH_WAITING", "_STEP_WORTH_A_THREAD"):
    setattr(shares, name, 0)
forward.WORTH_A_THREAD = 0
nplstm.set_num_threads(2)
for B, I, H, lengths in ((1, 3, 5, None), (7, 11, 37, [9, 4, 0, 9, 1, 6, 2]), (13, 20, 70, None)):
    rng = np.random.default_rng(0)
    lstm = nplstm.LSTM(I, H, 2, bidirectional=True, dtype=dtype, rng=0)
    x, grad = rng.standard_normal((9, B, I)).astype(dtype), rng.standard_normal((9, B, 2 * H)).astype(dtype)
    found = []
    for engine in ("plain", "compiled"):
        with nplstm.use_engines(engine):
            tape = lstm.record(x, lengths=lengths)
            grads = tape.backward(grad)
            found.append({"output": tape.output, "input": grads.input, **grads.parameters})
    for name, expected in found[0].items():
        assert np.abs(found[1][name] - expected).max() <= tolerance * np.abs(expected).max(), (B, name)
    column = nplstm.LSTM(I, H, 2, dtype=dtype, rng=0)
    with nplstm.use_engines("compiled"):
        output, _ = column(x)
        stream = column.stream(B)
        steps = np.array([stream.step(x_t).copy() for x_t in x])
    assert np.abs(steps - output).max() < 1e-5
"""


def run_python(code, tmp_path):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("features", "width", "dtype", "tolerance"), [({"avx": True}, 32, "float32", 1e-5), ({}, 16, "float64", 1e-12)]
)
def test_another_machine(features, width, dtype, tolerance, tmp_path):
    """As on a CPU with other registers: narrower vectors, lower tiles; and a system where no thread can yield."""
    code = f"""
import os
from types import SimpleNamespace
from nplstm.engines.compiled import _numba
_numba.binding = SimpleNamespace(get_host_cpu_features=lambda: {features})
if {width} == 16:
    del os.sched_yield
from nplstm.engines.compiled.simd import _BYTES
from nplstm.engines.compiled.waiting import CAN_WAIT
assert (_BYTES, CAN_WAIT) == ({width}, {width} != 16)
dtype, tolerance = {dtype!r}, {tolerance}
"""
    found = run_python(code + BESIDE_PLAIN, tmp_path)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(("dtype", "roundings"), [("float32", 3), ("float64", 3)])
def test_tanh_is_exact_to_a_few_roundings(dtype, roundings):
    @njit
    def of_all(values, into):
        for k in range(0, len(values), lanes(values)):
            store(into, k, tanh(load(values, k)))

    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(-30, 4, 1 << 16))
    x = (size * rng.choice([-1, 1], size.shape)).astype(dtype)
    x[:8] = [0.0, -0.0, np.inf, -np.inf, np.nan, 20.0, -20.0, 1e-30]
    found = np.empty_like(x)
    of_all(x, found)
    expected = np.tanh(x.astype(np.longdouble))
    there = ~np.isnan(x)
    assert np.isnan(found[~there]).all()
    off = np.abs(found[there] - expected[there]) / np.spacing(np.abs(found[there]))
    assert off.max() <= roundings
    assert (np.signbit(found[there]) == np.signbit(x[there])).all()
    assert np.abs(found[there]).max() <= 1
