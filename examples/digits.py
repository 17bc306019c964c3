"""Classify handwritten digits: each 8 x 8 picture is a sequence of 8 steps, its rows of 8 pixels.

    python examples/digits.py

The data set comes with scikit-learn. A bidirectional LSTM reads the rows; a linear layer classifies from the
final states of both directions. Prints the accuracy on pictures that were not used in training.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import nplstm
from nplstm.backends import get_backend

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="cupy runs on a GPU")
parser.add_argument("--epochs", type=int, default=30, help="passes over the training pictures (default: 30)")
parser.add_argument("--seed", type=int, default=0, help="seed of the split, the initial weights and the batches")
arguments = parser.parse_args()

HIDDEN, BATCH = 64, 64
rng = np.random.default_rng(arguments.seed)
place = get_backend(arguments.backend).asarray

digits = load_digits()
order = rng.permutation(len(digits.images))
images = (digits.images[order] / 16).astype(np.float32)  # (1797, 8, 8): batch, step, pixel
classes = digits.target[order]
cut = len(images) * 4 // 5
test_images, test_classes = place(images[cut:]), classes[cut:]

lstm = nplstm.LSTM(8, HIDDEN, bidirectional=True, batch_first=True, backend=arguments.backend, rng=rng)
head = nplstm.Linear(2 * HIDDEN, 10, backend=arguments.backend, rng=rng)
parameters = nplstm.JoinedParameters(lstm=lstm.parameters, head=head.parameters)
optimizer = nplstm.Adam(parameters, lr=5e-3)


def side_by_side(h_n):
    """Concatenate the final states of both directions: (2, B, H) to (B, 2 H)."""
    return h_n.swapaxes(0, 1).reshape(-1, 2 * HIDDEN)


def train(x, y):
    """Update the parameters on a batch, x (B, 8, 8) and y (B,); return the loss."""
    recurrent = lstm.record(x)
    scores = head.record(side_by_side(recurrent.h_n))
    loss, grad_scores = nplstm.cross_entropy(scores.output, y)
    grad_head = scores.backward(grad_scores)
    grad_h_n = grad_head.input.reshape(-1, 2, HIDDEN).swapaxes(0, 1)
    grad_lstm = recurrent.backward(None, (grad_h_n, None))  # the loss reads the final h only
    optimizer.step(nplstm.JoinedParameters(lstm=grad_lstm.parameters, head=grad_head.parameters))
    return loss


def accuracy():
    """Return the share of test pictures that are classified correctly."""
    _, (h_n, _) = lstm(test_images)
    predicted = head(side_by_side(h_n)).argmax(axis=1)
    return float((predicted == place(test_classes)).mean())


with tqdm(range(arguments.epochs), desc="digits", unit="epoch") as epochs:
    for _ in epochs:
        batches = np.array_split(rng.permutation(cut), cut // BATCH)
        losses = [train(place(images[batch]), place(classes[batch])) for batch in batches]
        epochs.set_postfix(loss=f"{np.mean(losses):.4f}", test_accuracy=f"{accuracy():.3f}")

print(f"test accuracy {accuracy():.4f} on {len(test_classes)} pictures (chance is 0.1)")
