"""Saves public objects as the installed version pickles them, with what the layers compute.

PYTHONPATH=<a checkout of that version> python tests/make_pickles.py tests/files/pickles/<name>.pkl

``test_pickles.py`` reads them with the version of the day.
"""

import pickle
import sys
from pathlib import Path

import numpy as np

import nplstm

T, B, I, H = 5, 3, 4, 6

VARIANT = nplstm.CellSpec(
    peephole="diagonal", clip=3.0, zoneout_h=0.1, activations=("hard_sigmoid", nplstm.Activation("tanh"), "tanh")
)
LAYERS = {
    "plain": nplstm.LSTM(I, H, rng=0),
    "stack": nplstm.LSTM(I, (6, 5), 2, batch_first=True, dropout=0.2, bidirectional=True, dtype="float64", rng=1),
    "independent": nplstm.LSTM(I, H, 2, bidirectional=True, stacking="independent", merge="sum", rng=1),
    "variant": nplstm.LSTM(I, H, cell=VARIANT, reverse=True, output_order="processing", rng=2),
    "residual": nplstm.LSTM(I, H, 3, bias=False, residual=True, rng=3),
    "projected": nplstm.LSTM(I, H, proj_size=2, hidden_transform=nplstm.Projection(3), rng=3),
    "cell": nplstm.LSTMCell(I, H, cell=nplstm.CellSpec(coupled_input_forget=True), rng=4),
    "linear": nplstm.Linear(I, H, rng=5),
}


def draw(dtype: np.dtype) -> np.ndarray:
    """Return the input (T, B, I) of all layers."""
    return np.random.default_rng(7).standard_normal((T, B, I)).astype(dtype)


def result(layer):
    """Return what a layer computes, as one array."""
    x = draw(layer.dtype)
    found = layer(x[0] if isinstance(layer, nplstm.LSTMCell) else x)
    return found[0] if isinstance(found, tuple) else found


def main() -> None:
    """Write the file."""
    results = {name: np.array(result(layer)) for name, layer in LAYERS.items()}  # before they are pickled: used
    linear = LAYERS["linear"]
    sequences = [draw(np.dtype("float32"))[:n, 0] for n in (3, 5)]
    others = {
        "parameters": LAYERS["plain"].parameters,
        "packed": nplstm.pack_sequence(sequences, enforce_sorted=False),
        "spec": VARIANT,
        "embedding": nplstm.Embedding(7, I, rng=6),
        "adam": nplstm.Adam(linear.parameters, lr=0.1),
        "gradients": LAYERS["plain"].record(draw(np.dtype("float32"))).backward(np.ones((T, B, H), np.float32)),
    }
    written = {"layers": LAYERS, "results": results, "others": others}
    Path(sys.argv[1]).write_bytes(pickle.dumps(written, protocol=4))


if __name__ == "__main__":
    main()
