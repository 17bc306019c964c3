"""Write the ONNX files that ``test_onnx_files.py`` reads, with the numbers that their own frameworks compute.

Not a test. ``python tests/make_files_onnx.py torch`` in an environment with torch (2.13.0, onnx 1.23.2 and
onnxscript 0.7.2 made the files that are kept), ``... keras`` in one with TensorFlow and tf2onnx (2.21.0 with Keras
3.15.1, and 1.17.0). Each model's outputs are those of its LSTMs. Beside each ``.onnx`` stands an ``.npz``: the
input ``x``, the outputs (``output``, and from torch ``h_n`` and ``c_n``), lengths where there are some, ``layer``,
which is what the layer is in Python, and ``versions``.
"""

import os
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "files" / "onnx"
BATCH = 3
STEPS = 5

# name: options of torch.nn.LSTM, exported by (dynamo, with the constants folded), with lengths or without
TORCH = {
    "torch_one": (dict(input_size=2, hidden_size=3), True, True, False),
    "torch_one_unfolded": (dict(input_size=2, hidden_size=3, bias=False), True, False, False),
    "torch_two": (dict(input_size=2, hidden_size=3, num_layers=2), True, True, False),
    "torch_bidirectional": (
        dict(input_size=2, hidden_size=3, num_layers=2, bidirectional=True),
        True,
        True,
        False,
    ),
    "torch_batch_first": (dict(input_size=2, hidden_size=3, num_layers=2, batch_first=True), True, True, False),
    "torch_script_one": (dict(input_size=2, hidden_size=3), False, True, False),
    "torch_script_two": (dict(input_size=2, hidden_size=3, num_layers=2), False, True, False),
    "torch_script_unfolded": (dict(input_size=2, hidden_size=3, num_layers=2), False, False, False),
    "torch_script_bidirectional": (
        dict(input_size=2, hidden_size=3, num_layers=2, bidirectional=True),
        False,
        True,
        False,
    ),
    "torch_script_batch_first": (
        dict(input_size=2, hidden_size=3, bidirectional=True, batch_first=True),
        False,
        True,
        False,
    ),
    # torch.export does not take packed sequences: the older exporter alone has them
    "torch_script_lengths": (
        dict(input_size=2, hidden_size=3, num_layers=2, bidirectional=True),
        False,
        True,
        True,
    ),
}


def write(name, model, layer, versions, **arrays):
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.onnx").write_bytes(model.SerializeToString())
    np.savez_compressed(FOLDER / f"{name}.npz", layer=layer, versions=versions, **arrays)
    print(name, (FOLDER / f"{name}.onnx").stat().st_size, layer)


def written(options):
    """What the layer is, as ``repr`` of ours has it."""
    given = dict(options)
    sizes = [given.pop("input_size"), given.pop("hidden_size")]
    return f"LSTM({', '.join([*map(str, sizes), *(f'{k}={v}' for k, v in given.items())])})"


def stripped(model):
    """Leave out what is said of nodes beside what they compute: the place in the source that they come from."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    return model


def torch_model(torch, options, *, with_lengths):
    """A module that is an LSTM and nothing more."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(**options)

        def forward(self, x, lengths=None):
            if with_lengths:
                x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, options.get("batch_first", False))
            output, (h_n, c_n) = self.lstm(x)
            if with_lengths:
                output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, options.get("batch_first", False))
            return output, h_n, c_n

    return Model().eval()


def export(torch, model, arguments, *, dynamo, folded, batch_first, path):
    """Write a model in which steps and batch may be any."""
    axes = ("batch", "steps") if batch_first else ("steps", "batch")
    names = ["output", "h_n", "c_n"]
    if dynamo:
        shapes = ({k: torch.export.Dim(axis) for k, axis in enumerate(axes)},)
        settings = dict(dynamic_shapes=shapes, optimize=folded)
    else:
        named = {"x": dict(enumerate(axes))}
        settings = dict(
            dynamic_axes=named, do_constant_folding=folded, input_names=["x", "lengths"][: len(arguments)]
        )
    torch.onnx.export(model, arguments, path, dynamo=dynamo, output_names=names, verbose=False, **settings)


def make_torch():
    import tempfile
    import warnings

    import onnx
    import onnxscript
    import torch

    versions = f"torch {torch.__version__}, onnx {onnx.__version__}, onnxscript {onnxscript.__version__}"
    warnings.simplefilter("ignore")
    for seed, (name, (options, dynamo, folded, with_lengths)) in enumerate(TORCH.items()):
        torch.manual_seed(seed)
        model = torch_model(torch, options, with_lengths=with_lengths)
        batch_first = options.get("batch_first", False)
        x = torch.randn((BATCH, STEPS, 2) if batch_first else (STEPS, BATCH, 2))
        lengths = [torch.tensor([5, 3, 2])] if with_lengths else []
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            path = str(Path(folder) / "m.onnx")
            export(torch, model, (x, *lengths), dynamo=dynamo, folded=folded, batch_first=batch_first, path=path)
            output, h_n, c_n = (array.numpy() for array in model(x, *lengths))
            proto = stripped(onnx.load(path))
        arrays = dict(x=x.numpy(), output=output, h_n=h_n, c_n=c_n)
        arrays |= {"lengths": lengths[0].numpy()} if with_lengths else {}
        # the graph exchanges the axes itself, around nodes that have the steps first
        shown = {k: v for k, v in options.items() if k != "batch_first"}
        write(name, proto, written(shown), versions, batch_first=batch_first, **arrays)


def make_keras():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf
    import tf2onnx

    versions = f"tensorflow {tf.__version__}, keras {keras.__version__}, tf2onnx {tf2onnx.__version__}"
    layers = keras.layers
    models = {
        "keras_two": (
            [layers.LSTM(3, return_sequences=True), layers.LSTM(4, return_sequences=True)],
            "LSTM(2, (3, 4), num_layers=2)",
        ),
        "keras_bidirectional": (
            [
                layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
                layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
            ],
            "LSTM(2, (3, 4), num_layers=2, bidirectional=True)",
        ),
        "keras_dropout": (
            [layers.LSTM(3, return_sequences=True), layers.Dropout(0.3), layers.LSTM(3, return_sequences=True)],
            "LSTM(2, 3, num_layers=2)",
        ),
    }
    for seed, (name, (parts, layer)) in enumerate(models.items()):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((None, 2)), *parts])
        for weight in model.weights:  # Keras's biases are zeros and ones
            weight.assign(keras.random.normal(weight.shape, stddev=0.5))
        signature = (tf.TensorSpec((None, None, 2), tf.float32, name="x"),)
        function = tf.function(lambda x, model=model: model(x), input_signature=signature)
        proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=17)
        x = np.random.default_rng(seed).standard_normal((BATCH, STEPS, 2)).astype(np.float32)
        write(name, proto, layer, versions, x=x, output=np.asarray(model(x)), batch_first=True)


if __name__ == "__main__":
    {"torch": make_torch, "keras": make_keras}[sys.argv[1]]()
