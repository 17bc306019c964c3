"""Run a model that was trained in PyTorch, without PyTorch: load ``models/digits.pt`` and classify digits.

    python examples/trained_model.py

``trained_in_torch.py`` wrote the file: a checkpoint with a bidirectional LSTM and a linear layer. The data set
comes with scikit-learn. Prints the accuracy, the same as in PyTorch, and the largest difference of the scores.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import nplstm
from nplstm.backends import get_backend
from nplstm.io import open_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="cupy runs on a GPU")
parser.add_argument("--model", type=Path, default=Path(__file__).parent / "models" / "digits.pt")
arguments = parser.parse_args()
backend = get_backend(arguments.backend)

with open_file(arguments.model) as file:  # list its LSTMs
    for found in file.layers():
        print(f"{file.format}: {found.name} {dict(found.options)}")

# the LSTM's options follow from the names and shapes of its tensors; the linear layer is loaded from arrays
lstm = nplstm.load(arguments.model, prefix="lstm", batch_first=True, backend=backend.name)
arrays = nplstm.read_tensors(arguments.model)
head = nplstm.Linear(48, 10, backend=backend.name)
head.load_state_dict({name: arrays[f"model.head.{name}"] for name in ("weight", "bias")})

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.images))[1437:]
images, classes = (digits.images[order] / 16).astype(np.float32), digits.target[order]


def scores_of(x):
    """Compute the scores as the model in PyTorch does: the head on both directions' final states."""
    _, (h_n, _) = lstm(backend.asarray(x))
    return backend.to_numpy(head(h_n.swapaxes(0, 1).reshape(len(x), 48)))


batches = tqdm(np.array_split(images, 12), desc="digits")
scores = np.concatenate([scores_of(batch) for batch in batches])
difference = np.abs(scores[:5] - arrays["first scores"]).max()
print(f"test accuracy {(scores.argmax(axis=1) == classes).mean():.4f} on {len(classes)} pictures")
print(f"greatest difference from PyTorch's scores: {difference:.1e}")
