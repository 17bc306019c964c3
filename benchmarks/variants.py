"""What a variant costs beside the standard cell, in the plain time loop: inference and training, float32.

    python benchmarks/variants.py [--threads 2] [--backend cupy]

Every row is timed together with the standard cell, runs interleaved; the ratio of the medians is printed. A
variant is meant to cost at most twice the standard cell.
"""

import argparse
import os
import platform
import statistics
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
parser.add_argument("--sizes", type=int, nargs=3, default=(32, 128, 100), metavar=("B", "H", "T"))
parser.add_argument("--only", default="", help="rows whose names contain this")
parser.add_argument("--limit", type=float, help="fail if a ratio is greater")
arguments = parser.parse_args()
os.environ.setdefault("OPENBLAS_NUM_THREADS", str(arguments.threads))  # before NumPy is imported
os.environ["NPLSTM_ENGINES"] = "plain"  # what is timed here is the loop that runs everything

import numpy as np  # noqa: E402

import nplstm  # noqa: E402
from nplstm import CellSpec  # noqa: E402
from nplstm.backends import get_backend  # noqa: E402

B, H, T = arguments.sizes
backend = get_backend(arguments.backend)
x = backend.asarray(np.random.default_rng(0).standard_normal((T, B, H), dtype=np.float32))
support = backend.asarray(np.random.default_rng(1).standard_normal((B, 5, H), dtype=np.float32))
some = np.random.default_rng(2).random((T, B)) < 0.9

VARIANTS = {
    "peephole diagonal": dict(cell=CellSpec(peephole="diagonal")),
    "peephole full": dict(cell=CellSpec(peephole="full")),
    "coupled gates": dict(cell=CellSpec(coupled_input_forget=True)),
    "hard sigmoid, softsign": dict(cell=CellSpec(activations=("HardSigmoid", "Softsign", "Softsign"))),
    "relu, elu": dict(cell=CellSpec(activations=("Sigmoid", "Relu", "Elu"))),
    "clip": dict(cell=CellSpec(clip=3.0)),
    "cell clip": dict(cell=CellSpec(cell_clip=3.0)),
    "layer norm, output": dict(cell=CellSpec(layer_norm="cell_output")),
    "layer norm, state": dict(cell=CellSpec(layer_norm="cell_state")),
    "input dropout": dict(cell=CellSpec(input_dropout=0.2)),
    "recurrent dropout": dict(cell=CellSpec(recurrent_dropout=0.2)),
    "recurrent dropout, by step": dict(cell=CellSpec(recurrent_dropout=0.2, recurrent_dropout_mask="step")),
    "weight dropout": dict(cell=CellSpec(weight_dropout=0.2)),
    "zoneout": dict(cell=CellSpec(zoneout_h=0.1, zoneout_c=0.1)),
    "projection to H/2": dict(proj_size=H // 2),
    "transform: projection to H/2": dict(hidden_transform=nplstm.Projection(H // 2)),
    "transform: attention, 5": dict(hidden_transform=nplstm.AttentionReadout()),
    "mask with gaps": dict(),
    "resets": dict(),
}


def runs(options, said):
    """Return what to time: inference, and training."""
    lstm = nplstm.LSTM(H, H, **options, backend=backend.name, rng=0)
    ones = backend.asarray(np.ones((T, B, options.get("proj_size", H)), np.float32))
    rng = np.random.default_rng(0)
    return (
        lambda: lstm(x, **said),
        lambda: lstm.record(x, **said, rng=rng).backward(ones),
    )


def ratio(function, standard):
    """Medians over interleaved runs, after one that is not counted."""
    times = [[], []]
    for run in (function, standard):
        run()
    end = time.perf_counter() + arguments.seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for run, column in zip((function, standard), times, strict=True):
            backend.synchronize()
            start = time.perf_counter()
            run()
            backend.synchronize()
            column.append(time.perf_counter() - start)
    own, usual = (statistics.median(column) for column in times)
    return own / usual, own, usual


print(f"{platform.machine()}, {arguments.backend}, numpy {np.__version__}; B = {B}, H = {H}, T = {T}, float32")
print(f"{'':30} {'inference':>10} {'training':>10}   times the standard cell's")
worst = 0.0
for name, options in ((n, o) for n, o in VARIANTS.items() if arguments.only in n):
    said = {"transform: attention, 5": {"context": {"support": support}}, "mask with gaps": {"mask": some}}
    said["resets"] = {"reset": ~some}
    found = [
        ratio(variant, standard)[0]
        for variant, standard in zip(runs(options, said.get(name, {})), runs({}, {}), strict=True)
    ]
    worst = max(worst, *found)
    print(f"{name:30} {found[0]:10.2f} {found[1]:10.2f}", flush=True)
if arguments.limit is not None and worst > arguments.limit:
    sys.exit(f"a variant costs {worst:.2f} times the standard cell, more than {arguments.limit}")
