"""Save small models in each of Keras's formats, with what their layers compute beside: ``files/keras/``.

Run ``python tests/make_files_keras.py`` in an environment with TensorFlow; it saves what the Keras there can. The
files that are there were made by TensorFlow 2.13.1, 2.15.1 and 2.21.0, with Keras 2.13.1, 2.15.0 and 3.15.1; each
``.npz`` says by what. The tests that read them need none of it.
"""

import importlib.metadata
from pathlib import Path

import keras
import numpy as np

FOLDER = Path(__file__).parent / "files" / "keras"
T, B, I = 5, 3, 2
MAJOR, MINOR = keras.__version__.split(".")[:2]
layers = keras.layers


def draw_weights(model):
    """Give all weights values that no initialiser gives."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, w.shape).astype(np.float32) for w in model.get_weights()])


def nested():
    """An LSTM, and one in a model of its own; options that tell versions and directions apart."""
    given = keras.Input((T, I))
    first = layers.LSTM(3, return_sequences=True, recurrent_activation="hard_sigmoid", name="first")(given)
    options = dict(go_backwards=True, activation="softsign", use_bias=False, return_sequences=True)
    inner = keras.Sequential([keras.Input((T, 3)), layers.LSTM(2, name="last", **options)], name="inner")
    return keras.Model(given, [first, inner(first)]), ["first", "inner/last"]


def both():
    """Two directions whose outputs are multiplied."""
    given = keras.Input((T, I))
    merged = layers.Bidirectional(layers.LSTM(2, return_sequences=True), merge_mode="mul", name="both")(given)
    return keras.Model(given, merged), ["both"]


def frozen():
    """Parts of layers that do not train: ``.h5`` lists them last; of directions, Keras 2 does not say which."""
    given = keras.Input((T, I))
    both = layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="both")
    cells = [layers.LSTMCell(4), layers.LSTMCell(4)]
    first = both(given)
    model = keras.Model(given, [first, layers.RNN(cells, return_sequences=True, name="stack")(first)])
    both.forward_layer.trainable = cells[0].trainable = False
    return model, ["both", "stack"]


def save(make, suffixes):
    """Save a model, and what its layers compute, each of them reading the one before."""
    model, names = make()
    draw_weights(model)
    x = np.random.default_rng(1).normal(size=(B, T, I)).astype(np.float32)
    outputs = model(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("keras", "tensorflow-cpu", "h5py", "numpy")
    ]
    name = f"{make.__name__}_{MAJOR}_{MINOR}"
    arrays = {f"output/{layer}": np.array(output) for layer, output in zip(names, outputs, strict=True)}
    np.savez(FOLDER / f"{name}.npz", x=x, versions=versions, **arrays)
    for suffix in suffixes:
        write = model.save if suffix in {".keras", ".h5"} else model.save_weights
        write(FOLDER / f"{name}{suffix}")


def main():
    """Save the models; the formats that come again with the next version only in the last."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    formats = {"2.13": [".keras"], "2.15": [".keras", ".h5", "_weights.h5"]}
    save(nested, formats.get(f"{MAJOR}.{MINOR}", [".keras", ".h5", ".weights.h5"]))
    if f"{MAJOR}.{MINOR}" != "2.13":
        save(both, [".keras", ".h5"])
        save(frozen, [".h5"])
    print("\n".join(f"{path.name}: {path.stat().st_size:,}" for path in sorted(FOLDER.iterdir())))


if __name__ == "__main__":
    main()
