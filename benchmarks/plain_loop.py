"""The plain time loop: inference and training, float32, beside torch where torch is installed.

    python benchmarks/plain_loop.py [--threads 2]
    python benchmarks/plain_loop.py --backend cupy

Runs are interleaved, medians are printed; results are compared before anything is timed. On a GPU each
run is waited for.
"""

import argparse
import os
import platform
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seconds", type=float, default=1.5, help="for each row and library")
arguments = parser.parse_args()
os.environ.setdefault("OPENBLAS_NUM_THREADS", str(arguments.threads))  # before NumPy is imported
os.environ["NPLSTM_ENGINES"] = "plain"  # what is timed here is the loop that runs everything

import numpy as np  # noqa: E402

import nplstm  # noqa: E402
from nplstm.backends import get_backend  # noqa: E402

try:
    import torch
except ImportError:
    torch = None

CASES = [(1, 32, 100), (1, 128, 100), (8, 128, 100), (32, 128, 100), (32, 512, 100), (128, 128, 20)]
backend = get_backend(arguments.backend)
device = "cpu" if arguments.backend == "numpy" else "cuda"
if torch and device == "cuda" and not torch.cuda.is_available():
    torch = None
if torch:
    torch.backends.cudnn.allow_tf32 = False  # float32 against float32


def ours(B, H, T):
    """Return the layer, and what to time."""
    lstm = nplstm.LSTM(H, H, rng=0, backend=backend.name)
    x = backend.asarray(np.random.default_rng(0).standard_normal((T, B, H), dtype=np.float32))
    ones = backend.asarray(np.ones((T, B, H), np.float32))
    return lstm, lambda: lstm(x)[0], lambda: lstm.record(x).backward(ones).input


def theirs(lstm, B, H, T):
    """Return what to time of torch, with the same weights and input."""
    layer = torch.nn.LSTM(H, H)
    layer.load_state_dict({name: torch.tensor(backend.to_numpy(a)) for name, a in lstm.state_dict().items()})
    layer.to(device)
    x = torch.tensor(np.random.default_rng(0).standard_normal((T, B, H), dtype=np.float32), device=device)
    x.requires_grad_()

    def infer():
        with torch.no_grad():
            return layer(x)[0]

    def train():
        x.grad = None
        layer.zero_grad()
        layer(x)[0].sum().backward()
        return x.grad

    return infer, train


def synchronize():
    """Wait for the GPU, where there is one."""
    backend.synchronize()
    if torch and device == "cuda":
        torch.cuda.synchronize()


def seconds(*functions):
    """Medians over interleaved runs, after one that is not counted."""
    times = [[] for _ in functions]
    for function in functions:
        function()
    end = time.perf_counter() + arguments.seconds * len(functions)
    while time.perf_counter() < end or len(times[0]) < 3:
        for function, column in zip(functions, times, strict=True):
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            column.append(time.perf_counter() - start)
    return [statistics.median(column) for column in times]


print(f"{platform.machine()}, {arguments.backend}, ", end="")
print(f"{arguments.threads} threads, " if device == "cpu" else "", end="")
print(f"numpy {np.__version__}, {'torch ' + torch.__version__ if torch else 'no torch'}")
if torch:
    torch.set_num_threads(arguments.threads)
print(f"{'B':>4} {'H':>4} {'T':>4}  {'':9} {'nplstm':>10} {'torch':>10}  torch/nplstm")
for case in CASES:
    lstm, *functions = ours(*case)
    rivals = theirs(lstm, *case) if torch else [None, None]
    for name, function, rival in zip(("inference", "training"), functions, rivals, strict=True):
        if rival is not None:
            np.testing.assert_allclose(backend.to_numpy(function()), rival().cpu().numpy(), rtol=1e-3, atol=1e-5)
        own, *other = seconds(function, rival) if rival else seconds(function)
        row = "{:4} {:4} {:4}  {:9} {:7.2f} ms".format(*case, name, own * 1000)
        print(row + (f" {other[0] * 1000:7.2f} ms  {other[0] / own:.2f}" if other else ""), flush=True)
