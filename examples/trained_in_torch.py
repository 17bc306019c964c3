"""Train a classifier of handwritten digits in PyTorch, and save it with ``torch.save``: ``models/digits.pt``.

    python examples/trained_in_torch.py

Needs torch and scikit-learn, not nplstm. The file that it writes is in the repository: ``trained_model.py`` runs
it without torch.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from tqdm import tqdm

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models" / "digits.pt")
arguments = parser.parse_args()
torch.manual_seed(0)


class Reader(torch.nn.Module):
    """Bidirectional LSTM over the rows of a picture, and a linear layer on its final states."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(8, 24, bidirectional=True, batch_first=True)
        self.head = torch.nn.Linear(48, 10)

    def forward(self, images):
        """Return the scores of ten classes."""
        _, (h_n, _) = self.lstm(images)
        return self.head(torch.cat([h_n[0], h_n[1]], dim=1))


digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.images))
images = torch.tensor(digits.images[order] / 16, dtype=torch.float32)
classes = torch.tensor(digits.target[order])
training, test = slice(0, 1437), slice(1437, None)

model = Reader()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for _ in tqdm(range(30), desc="digits", unit="epoch"):
    for batch in torch.randperm(1437).split(64):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[batch]), classes[batch])
        loss.backward()
        optimizer.step()

with torch.no_grad():
    scores = model(images[test])
accuracy = float((scores.argmax(dim=1) == classes[test]).float().mean())
print(f"test accuracy {accuracy:.4f}")
checkpoint = {"model": model.state_dict(), "accuracy": accuracy, "first scores": scores[:5], "epochs": 30}
torch.save(checkpoint, arguments.out)
