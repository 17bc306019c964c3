"""Save what torch computes for the table of cases, so that the tests need no torch.

Run in an environment with torch, from any folder::

    python tests/make_golden.py

The files hold the producer's versions; ``tests/test_parity.py`` reads them.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from cases import CASES
from torch_reference import OPTIMIZERS, run_cell, run_losses, run_lstm, run_optimizer, run_training

FOLDER = Path(__file__).parent / "golden"
CELLS = [
    (dtype, bias, batched)
    for dtype in ("float64", "float32")
    for bias in (True, False)
    for batched in (True, False)
]


def save(name: str, parts: dict[str, dict[str, np.ndarray]]) -> None:
    producer = f"torch {torch.__version__}, numpy {np.__version__}, python {sys.version.split()[0]}"
    arrays = {f"{part}/{key}": array for part, values in parts.items() for key, array in values.items()}
    path = FOLDER / f"{name}.npz"
    np.savez_compressed(path, producer=np.array(producer), **arrays)
    print(f"{path}: {len(parts)} parts, {path.stat().st_size / 1e3:.0f} kB, {producer}")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    save("lstm", {str(case): run_lstm(case, seed) for seed, case in enumerate(CASES)})
    save("cell", {str(key): run_cell(*key, seed=k) for k, key in enumerate(CELLS)})
    training = {"run": run_training(steps=100, seed=0)}
    optimizers = {name: run_optimizer(name, seed=k) for k, name in enumerate(OPTIMIZERS)}
    save("training", training | optimizers | {"losses": run_losses(seed=0)})
