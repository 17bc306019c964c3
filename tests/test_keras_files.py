"""Files that Keras wrote, of several versions and live, and what is done to them."""

import importlib
import io
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import require
from damage import CASES, check_damaged, damages
from helpers import assert_close
from hypothesis import given, settings
from test_keras import ACTIVATIONS, MERGES, draw, float64_table

import nplstm
from nplstm import CellSpec
from nplstm.io import open_file, read_tensors
from nplstm.io.keras import hdf5
from nplstm.io.keras.keras_weights import keras_weights

# Keras's get_weights() under NumPy 2: its variables lack a keyword
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FOLDER = Path(__file__).parent / "files" / "keras"
T, B, I, H = 5, 3, 2, 7
RTOL = 1e-6  # float32 rounds at 6e-8; T steps of sums over I + H terms in another order

FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".npz")
DESCRIBED = [name for name in FILES if "weights" not in name]


@pytest.fixture(scope="module")
def h5py():
    """The library that Keras writes HDF5 with: here it makes files that Keras would not."""
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        require("keras", f"h5py, which comes with keras, is not installed: {error}")
        raise


def numbers_of(name):
    """Return what the layers of a file computed: input and output of each."""
    stem = name.partition("_weights")[0] if "_weights" in name else name.partition(".")[0]
    with np.load(FOLDER / f"{stem}.npz") as saved:
        x, found = saved["x"], {}
        for key in saved.files:
            if key.startswith("output/"):
                found[key.removeprefix("output/")] = x, saved[key]
                x = saved[key]
    return found


def check_file(path, expected):
    """Compare the layers of a file with what they computed in Keras."""
    with open_file(path) as file:
        found = {layer.name: layer for layer in file.layers()}
    assert list(found) == list(expected)
    for name, (x, output) in expected.items():
        assert found[name].problem is None
        assert_close(nplstm.load(path, layer=name)(x)[0], output, RTOL, name)


@pytest.mark.parametrize("name", DESCRIBED)
def test_files_of_several_versions(name):
    check_file(FOLDER / name, numbers_of(name))


@pytest.mark.parametrize("name", ["nested_2_15_weights.h5", "nested_3_15.weights.h5"])
def test_weights_alone(name):
    """What the file does not say is assumed, and can be set right."""
    with open_file(FOLDER / name) as file:
        found = {layer.name: layer for layer in file.layers()}
        assert file.format == ("Keras (HDF5)" if "_weights" in name else "Keras weights")
    assert sorted(found) == ["first", "inner/last"]
    for layer in found.values():
        assert any("its configuration is not in the file" in caution for caution in layer.cautions)
    with pytest.warns(UserWarning, match=f"{name}: 'inner/last': its configuration is not in the file"):
        last = nplstm.load(FOLDER / name, layer="last")
    assert not last.bias
    x, output = numbers_of(name)["inner/last"]
    softsign = CellSpec(activations=("sigmoid", "softsign", "softsign"))
    options = dict(bias=False, batch_first=True, reverse=True, output_order="processing", cell=softsign)
    assert_close(nplstm.LSTM(3, 2, **options, rng=last.state_dict())(x)[0], output, RTOL)


def test_a_wrong_option_is_seen(monkeypatch):
    """What the comparison above would say of another slope, and of another order."""
    path = FOLDER / "nested_2_15.keras"
    monkeypatch.setattr("nplstm.io.keras.layer_options._HARD_SIGMOID", {"2": 1 / 6})
    with pytest.raises(AssertionError, match="first: differs"):
        check_file(path, numbers_of(path.name))
    monkeypatch.undo()
    names = {"softsign": "Tanh", "tanh": "Tanh", "sigmoid": "Sigmoid"}
    monkeypatch.setattr("nplstm.io.keras.layer_options._ACTIVATIONS", names)
    with pytest.raises(AssertionError, match="inner/last: differs"):
        check_file(path, numbers_of(path.name))


def test_what_a_file_says_of_itself():
    with open_file(FOLDER / "both_3_15.keras") as file:
        assert file.format == "Keras"
        assert file.metadata["keras_version"] == "3.15.1"
        assert file.metadata["date_saved"]
    with open_file(FOLDER / "both_2_15.h5") as file:
        assert file.format == "Keras (HDF5)"
        assert file.metadata == {"keras_version": "2.15.0", "backend": "tensorflow"}
        (layer,) = file.layers()
        assert layer.options == {
            "kind": "LSTM",
            "input_size": I,
            "hidden_size": 2,
            "bidirectional": True,
            "merge": "product",
            "batch_first": True,
            "bias": True,
            "cell": {
                "init_ih": "xavier_uniform",
                "init_hh": "orthogonal",
                "init_bias": "zeros",
                "forget_bias": 1.0,
            },
        }
        assert layer.dtype == "float32"
        assert layer.num_parameters == 2 * (I * 8 + 2 * 8 + 8)


@pytest.mark.parametrize("name", FILES)
def test_tensors_are_what_h5py_reads(name, h5py):
    path = FOLDER / name
    data = path.read_bytes()
    if name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            data = archive.read("model.weights.h5")
    expected, texts = {}, {}

    def visit(place, found):
        if isinstance(found, h5py.Dataset):
            expected[place] = found[()]
        for key, value in found.attrs.items():
            values = [value] if isinstance(value, str | bytes) else list(value)
            texts[place, key] = [v.decode() if isinstance(v, bytes) else v for v in values]

    with h5py.File(io.BytesIO(data), "r") as file:
        visit("", file)
        file.visititems(visit)
    tensors = read_tensors(path)
    assert list(tensors) == list(expected)
    for place, array in expected.items():
        assert tensors[place].dtype == array.dtype
        assert np.array_equal(tensors[place], array)
    with open_file(path) as opened:
        for (place, key), value in texts.items():
            assert opened._hdf5.texts(place, key) == value


def test_nothing_but_numpy_is_imported():
    program = (
        "import sys, nplstm; assert 'nplstm.io.keras' not in sys.modules\n"
        f"nplstm.load({str(FOLDER / 'both_3_15.keras')!r})\n"
        "print(sorted({'h5py', 'keras', 'tensorflow', 'onnx', 'safetensors'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# Live


def save(keras, model, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    (model.save_weights if "weights" in suffix else model.save)(path)
    return path


def draw_weights(model):
    model.set_weights([draw(*w.shape, dtype="float32", seed=n) for n, w in enumerate(model.weights)])


def sequential(keras, *layers, width=I):
    model = keras.Sequential([keras.Input((T, width)), *layers])
    draw_weights(model)
    return model


def keras_output(keras, layer, x):
    return np.array(keras.ops.convert_to_numpy(layer(x)))


def check_layer(keras, layer, tmp_path, suffix=".keras", name="it", **options):
    """Compare the output of a layer with that of ours, from a file."""
    model = sequential(keras, layer)
    lstm = nplstm.load(save(keras, model, tmp_path, suffix), layer=name)
    for option, value in options.items():
        assert getattr(lstm, option) == value
    x = draw(B, T, I, dtype="float32", seed=9)
    output, (h_n, _) = lstm(x)
    expected = keras_output(keras, model, x)
    assert_close(output if expected.ndim == 3 else h_n[-1], expected, RTOL)
    return lstm


LAYERS = {
    "plain": {},
    "no bias": dict(use_bias=False),
    "the last output": dict(return_sequences=False),
    "go_backwards": dict(go_backwards=True),
    "the last output backwards": dict(go_backwards=True, return_sequences=False),
    "drops": dict(dropout=0.25, recurrent_dropout=0.5),
    "other starts": dict(kernel_initializer="he_normal", bias_initializer="ones", unit_forget_bias=False),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of older formats
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", LAYERS)
def test_options(keras, name, suffix, tmp_path):
    options = dict(return_sequences=True) | LAYERS[name]
    lstm = check_layer(keras, keras.layers.LSTM(H, name="it", **options), tmp_path, suffix, bias=name != "no bias")
    assert lstm.batch_first
    cell = lstm.cell
    assert (cell.input_dropout, cell.recurrent_dropout) == ((0.25, 0.5) if name == "drops" else (0, 0))
    usual = ("xavier_uniform", "orthogonal", "zeros", None if name == "no bias" else 1.0)
    other = ("uniform", "orthogonal", "uniform", None)
    starts = (cell.init_ih, cell.init_hh, cell.init_bias, cell.forget_bias)
    assert starts == (other if name == "other starts" else usual)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(keras, name, tmp_path):
    gates = name if name in {"hard_sigmoid", "tanh", "softsign"} else "sigmoid"  # with others values explode
    layer = keras.layers.LSTM(H, activation=name, recurrent_activation=gates, return_sequences=True, name="it")
    expected = CellSpec(activations=(ACTIVATIONS[gates], ACTIVATIONS[name], ACTIVATIONS[name]))
    assert check_layer(keras, layer, tmp_path).cell.activations == expected.activations


@pytest.mark.parametrize("name", ["LeakyReLU", "ReLU", "a ReLU with a slope", "a ReLU with a threshold", "ELU"])
def test_activations_that_are_layers(keras, name, tmp_path):
    activation = {
        "LeakyReLU": lambda: keras.layers.LeakyReLU(0.1),
        "ReLU": keras.layers.ReLU,
        "a ReLU with a slope": lambda: keras.layers.ReLU(negative_slope=0.4),
        "a ReLU with a threshold": lambda: keras.layers.ReLU(threshold=0.2),
        "ELU": lambda: keras.layers.ELU(alpha=0.7),
    }[name]()
    layer = keras.layers.LSTM(H, activation=activation, return_sequences=True, name="it")
    assert (
        check_layer(keras, layer, tmp_path).cell.activations[1].name.lower()
        in name.lower() + " thresholdedrelu leakyrelu"
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("merge", MERGES)
def test_both_directions(keras, merge, suffix, tmp_path):
    layer = keras.layers.Bidirectional(keras.layers.LSTM(H, return_sequences=True), merge_mode=merge, name="it")
    if merge is not None:
        check_layer(keras, layer, tmp_path, suffix, merge=MERGES[merge])
        return
    x = keras.Input((T, I))
    model = keras.Model(x, layer(x))
    draw_weights(model)
    lstm = nplstm.load(save(keras, model, tmp_path, suffix), layer="it")
    given = draw(B, T, I, dtype="float32", seed=9)
    for ours, theirs in zip(lstm(given)[0], model(given), strict=True):
        assert_close(ours, np.array(keras.ops.convert_to_numpy(theirs)), RTOL)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["one cell", "a stack", "a stack backwards", "other sizes", "both ways"])
def test_cells(keras, name, suffix, tmp_path):
    sizes = {"one cell": [H], "other sizes": [H, 3, 5]}.get(name, [H, H])
    cells = [keras.layers.LSTMCell(size, activation="softsign") for size in sizes]
    options = dict(return_sequences=True, go_backwards=name == "a stack backwards")
    layer = keras.layers.RNN(cells[0] if name == "one cell" else cells, **options, name="it")
    if name == "both ways":
        layer = keras.layers.Bidirectional(layer, name="it")
    check_layer(keras, layer, tmp_path, suffix, num_layers=len(sizes))


@pytest.mark.filterwarnings("ignore:.*its options are Keras's defaults is assumed:UserWarning")
def test_a_stack_of_many_cells_is_in_order(keras, tmp_path):
    cells = [keras.layers.LSTMCell(H) for _ in range(12)]
    layer = keras.layers.RNN(cells, return_sequences=True, name="it")
    check_layer(keras, layer, tmp_path, num_layers=12)
    check_layer(keras, keras.layers.RNN(cells, return_sequences=True, name="x"), tmp_path, ".weights.h5", name="x")


def big_model(keras):
    """Layers in models in models, in a wrapper, frozen, several of a kind, and others between."""
    k = keras.layers
    x = keras.Input((T, I))
    y = k.LSTM(4, return_sequences=True, name="first")(x)
    y = k.GRU(4, return_sequences=True, name="gru")(y)
    inner_x = keras.Input((T, 4))
    deep = keras.Sequential(
        [
            keras.Input((T, 4)),
            k.LSTM(4, return_sequences=True, name="frozen", trainable=False),
            k.Dense(4, name="dense"),
            k.Bidirectional(k.LSTM(4, return_sequences=True), merge_mode="sum", name="two"),
        ],
        name="deep",
    )
    inner = keras.Model(inner_x, k.LSTM(4, return_sequences=True, name="second")(deep(inner_x)), name="inner")
    y = inner(y)
    y = k.LSTM(4, return_sequences=True, go_backwards=True, name="third")(y)
    y = k.SimpleRNN(4, return_sequences=True)(y)
    y = k.Reshape((T, 4, 1))(y)
    y = k.TimeDistributed(k.LSTM(2, name="wrapped"), name="around")(y)
    model = keras.Model(x, k.Dense(1, name="out")(y))
    draw_weights(model)
    return model


BIG = ["first", "inner/deep/frozen", "inner/deep/two", "inner/second", "third", "around/wrapped"]


def layer_at(model, name):
    for part in name.split("/"):
        model = model.layer if hasattr(model, "layer") and not hasattr(model, "layers") else model.get_layer(part)
    return model


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_layers_in_models_in_models(keras, suffix, tmp_path):
    model = big_model(keras)
    path = save(keras, model, tmp_path, suffix)
    with open_file(path) as file:
        found = {layer.name: layer for layer in file.layers()}
    assert sorted(found) == sorted(BIG)
    for name in BIG:
        layer = layer_at(model, name)
        lstm = nplstm.load(path, layer=name)
        assert all(np.array_equal(a, b) for a, b in zip(keras_weights(lstm), layer.get_weights(), strict=True))
        if suffix != ".weights.h5":
            x = draw(B, T, lstm.input_size, dtype="float32", seed=9)
            output, (h_n, _) = lstm(x)
            expected = keras_output(keras, layer, x)
            assert_close(output if expected.ndim == 3 else h_n[-1], expected, RTOL, name)


FROZEN = {
    "forwards": lambda k: (
        both := k.Bidirectional(k.LSTM(H, return_sequences=True), name="it"),
        both.forward_layer,
    ),
    "backwards": lambda k: (
        both := k.Bidirectional(k.LSTM(H, return_sequences=True), name="it"),
        both.backward_layer,
    ),
    "a backward_layer": lambda k: (
        k.Bidirectional(
            k.LSTM(H, return_sequences=True),
            backward_layer=(back := k.LSTM(H, return_sequences=True, go_backwards=True, name="back")),
            name="it",
        ),
        back,
    ),
    "a cell": lambda k: (
        k.RNN([one := k.LSTMCell(H), k.LSTMCell(H)], return_sequences=True, name="it"),
        one,
    ),
    "a cell of a direction": lambda k: (
        both := k.Bidirectional(k.RNN([k.LSTMCell(H), k.LSTMCell(H)], return_sequences=True), name="it"),
        both.forward_layer.cell.cells[0],
    ),
    "all": lambda k: (both := k.Bidirectional(k.LSTM(H, return_sequences=True), name="it"), both),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("part", FROZEN)
def test_parts_that_do_not_train(keras, part, nested, tmp_path):
    """A ``.h5`` lists their weights after all the others of the model's layer."""
    layer, frozen = FROZEN[part](keras.layers)
    inner = [layer, keras.layers.LSTM(H, return_sequences=True, name="after")]
    model = sequential(keras, keras.Sequential([keras.Input((T, I)), *inner], name="in")) if nested else None
    model = model or sequential(keras, *inner)
    frozen.trainable = False
    path = save(keras, model, tmp_path, ".h5")
    x = draw(B, T, I, dtype="float32", seed=9)
    output, _ = nplstm.load(path, layer="it")(x)
    assert_close(output, keras_output(keras, layer, x), RTOL)
    after = nplstm.load(path, layer="after")(output)[0]
    assert_close(after, keras_output(keras, model, x), RTOL)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_between_do_not_count_in_keras_3(keras, tmp_path):
    """An RNN made with trainable=False freezes no cell of its: the weights stay where they are."""
    k = keras.layers
    inner = [k.RNN(k.LSTMCell(I), return_sequences=True, trainable=False, name="it"), k.LSTM(I, name="after")]
    model = sequential(keras, keras.Sequential([keras.Input((T, I)), *inner], name="in"))
    path = save(keras, model, tmp_path, ".h5")
    for layer in inner:
        ours = keras_weights(nplstm.load(path, layer=layer.name))
        assert all(np.array_equal(a, b) for a, b in zip(ours, layer.get_weights(), strict=True))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_does_not_train_and_is_not_in_the_configuration(keras, tmp_path):
    """The cell of an LSTM is not: names show that weights are not where they should be."""
    inner = [keras.layers.LSTM(I, return_sequences=True, name=name) for name in ("one", "two")]
    model = sequential(keras, keras.Sequential([keras.Input((T, I)), *inner], name="in"))
    inner[0].cell.trainable = False
    path = save(keras, model, tmp_path, ".h5")
    with pytest.raises(nplstm.FileFormatError, match=r"'in/one': the order of its weights is not clear: .*/two/"):
        nplstm.load(path, layer="one")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_frozen_cell_without_a_configuration(keras, h5py, tmp_path):
    """Directions are told apart by their names, the cells of a stack are not."""
    k = keras.layers
    layers = {part: FROZEN[part](k) for part in ("forwards", "a cell")}
    for part, (layer, frozen) in layers.items():
        model = sequential(keras, layer)
        frozen.trainable = False
        path = save(keras, model, tmp_path, ".h5")
        with h5py.File(path, "a") as file:
            del file.attrs["model_config"]
        if part == "a cell":
            with pytest.raises(
                nplstm.FileFormatError, match="it': its cells are not in the order of their numbers"
            ):
                nplstm.load(path)
        else:
            x = draw(B, T, I, dtype="float32", seed=9)
            with pytest.warns(UserWarning, match="its options are Keras's defaults is assumed"):
                assert_close(nplstm.load(path)(x)[0], keras_output(keras, layer, x), RTOL)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["a cell", "a cell of a stack", "a stack", "a layer", "a layer called LSTM"])
def test_classes_of_the_users_own(keras, name, suffix, tmp_path):
    """They may compute anything, whatever they are called."""
    k = keras.layers

    def own(kind, name=None):
        return type(name or kind.__name__, (kind,), {})

    layer, message = {
        "a cell": lambda: (k.RNN(own(k.LSTMCell)(H), name="it"), "the class of its 'LSTMCell' is the user's own"),
        "a cell of a stack": lambda: (
            k.RNN([k.LSTMCell(H), own(k.LSTMCell)(H)], name="it"),
            "the class of its 'LSTMCell' is the user's own",
        ),
        "a stack": lambda: (
            k.RNN(own(k.StackedRNNCells)([k.LSTMCell(H)]), name="it"),
            "the class of its 'StackedRNNCells' is the user's own",
        ),
        "a layer": lambda: (
            own(k.LSTM, "Mine")(H, activation="relu", name="it"),
            "its weights, at '[^']*', are those of no LSTM in the configuration; the class there, 'Mine', is",
        ),
        "a layer called LSTM": lambda: (own(k.LSTM)(H, name="it"), "its class is the user's own"),
    }[name]()
    path = save(keras, sequential(keras, layer), tmp_path, suffix)
    if (name, suffix) == ("a layer called LSTM", ".h5"):  # the one thing that no .h5 says
        nplstm.load(path)
        return
    with pytest.raises(nplstm.FileFormatError, match=f"it': {message}"):
        nplstm.load(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_a_layer_in_two_models(keras, suffix, tmp_path):
    """It is stored once, and a number is left out in the second model; each layer gets its own weights."""
    k = keras.layers
    shared = k.LSTM(2, return_sequences=True, name="shared")

    def model(name, *layers):
        x = y = keras.Input((T, 2))
        for layer in layers:
            y = layer(y)
        return keras.Model(x, y, name=name)

    one = model("one", shared, k.LSTM(2, return_sequences=True, name="x"))
    two = model("two", shared, k.LSTM(2, return_sequences=True, name="y"))
    both = model("both", one, two)
    draw_weights(both)
    path = save(keras, both, tmp_path, suffix)
    with open_file(path) as file:
        names = [layer.name for layer in file.layers()]
    assert names == ["one/shared", "one/x", *["two/shared"] * (suffix == ".h5"), "two/y"]
    for name in names:
        lstm = nplstm.load(path, layer=name)
        expected = layer_at(both, name).get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(keras_weights(lstm), expected, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_element_types_are_as_stored(keras, dtype, tmp_path, monkeypatch):
    monkeypatch.setitem(float64_table(), "float64", "float64")
    starts = {f"{part}_initializer": "ones" for part in ("kernel", "recurrent", "bias")}
    layer = keras.layers.LSTM(H, dtype=dtype, unit_forget_bias=False, **starts, name="it")
    model = keras.Sequential([keras.Input((T, I), dtype=dtype), layer])
    layer.set_weights([draw(*w.shape, seed=n).astype(w.numpy().dtype) for n, w in enumerate(layer.weights)])
    path = save(keras, model, tmp_path, ".keras")
    with open_file(path) as file:
        (found,) = file.layers()
        assert found.dtype == dtype
        parameters = found.read()
    expected = [np.asarray(keras.ops.convert_to_numpy(w)) for w in layer.weights]
    widened = [w.astype("float32") if dtype == "bfloat16" else w for w in expected]
    kernel, recurrent, bias = widened
    names = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T, "bias_ih_l0": bias, "bias_hh_l0": 0 * bias}
    assert list(parameters) == list(names)
    for name, array in names.items():
        assert parameters[name].dtype == array.dtype
        assert np.array_equal(parameters[name], array)
    if dtype == "float64":
        assert nplstm.load(path).dtype == "float64"
    else:
        with pytest.warns(UserWarning, match=f"'it': dtype='{dtype}': the model computes in half precision"):
            assert nplstm.load(path).dtype == "float32"


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["a layer", "a cell", "a direction"])
def test_half_precision_is_warned_of(keras, name, suffix, tmp_path):
    k, options = keras.layers, dict(dtype="mixed_float16")
    layer = {
        "a layer": lambda: k.LSTM(H, name="it", **options),
        "a cell": lambda: k.RNN(k.LSTMCell(H, **options), name="it"),
        "a direction": lambda: k.Bidirectional(k.LSTM(H, **options), name="it"),
    }[name]()
    path = save(keras, sequential(keras, layer), tmp_path, suffix)
    with pytest.warns(UserWarning, match="'it': dtype='mixed_float16': the model computes in half precision"):
        assert nplstm.load(path).dtype == "float32"


def test_a_model_of_the_users_own(keras, tmp_path):
    """Its configuration names no layers: they are found by their shapes, and by the names beside them."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = keras.layers.LSTM(H, return_sequences=True, name="enc")
            self.both = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True), name="two")
            self.gru = keras.layers.GRU(4)
            self.dense = keras.layers.Dense(4)

        def call(self, x):
            return self.dense(self.gru(self.both(self.encoder(x))))

    model = Own()
    x = draw(B, T, I, dtype="float32")
    model(x)
    path = save(keras, model, tmp_path, ".keras")
    with open_file(path) as file:
        assert sorted(layer.name for layer in file.layers()) == ["enc", "two"]
    with pytest.warns(UserWarning, match="its options are Keras's defaults is assumed"):
        encoder, two = (nplstm.load(path, layer=layer) for layer in ("enc", "two"))
    output, _ = encoder(x)
    assert_close(output, keras_output(keras, model.encoder, x), RTOL)
    assert_close(two(output)[0], keras_output(keras, model.both, output), RTOL)


def test_notes_say_what_belongs_to_the_call(keras, tmp_path):
    options = dict(stateful=True, zero_output_for_mask=True)
    model = keras.Sequential([keras.Input((T, I), batch_size=B), keras.layers.LSTM(H, **options)])
    path = save(keras, model, tmp_path, ".keras")
    with open_file(path) as file:
        (layer,) = file.layers()
    assert [note.partition(":")[0] for note in layer.notes] == [
        "return_sequences=False",
        "zero_output_for_mask=True",
    ]
    with pytest.warns(UserWarning, match="stateful=True: the model goes on from the state of the call before"):
        nplstm.load(path)


def own(x):
    return x


PROBLEMS = {
    "gelu": (dict(activation="gelu"), "activation: 'gelu' is not supported"),
    "a function": (dict(recurrent_activation=own), "recurrent_activation: '[^']*own' is not supported"),
    "relu6": (dict(activation="relu6"), "activation: 'relu6' is not supported"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_cannot_be_had_is_named(keras, name, tmp_path):
    options, message = PROBLEMS[name]
    path = save(keras, sequential(keras, keras.layers.LSTM(H, name="it", **options)), tmp_path, ".keras")
    with pytest.raises(nplstm.FileFormatError, match=rf"model\.keras: 'it': {message}"):
        nplstm.load(path)


def test_another_backward_layer_is_named(keras, tmp_path):
    k = keras.layers
    for option, message in (
        (dict(units=3), "units: those of its directions differ, \\[7, 3\\]"),
        (dict(units=H, activation="relu"), "its cells, or its backward_layer, have options that differ"),
    ):
        back = k.LSTM(go_backwards=True, return_sequences=True, **option)
        layer = k.Bidirectional(k.LSTM(H, return_sequences=True), backward_layer=back, name="it")
        path = save(keras, sequential(keras, layer), tmp_path, ".keras")
        with pytest.raises(nplstm.FileFormatError, match=rf"'it': {message}"):
            nplstm.load(path)
    back = k.LSTM(H, go_backwards=True, return_sequences=True, kernel_initializer="zeros")
    check_layer(keras, k.Bidirectional(k.LSTM(H, return_sequences=True), backward_layer=back, name="it"), tmp_path)


def test_cells_of_two_kinds_are_named(keras, tmp_path):
    cells = [keras.layers.LSTMCell(H), keras.layers.GRUCell(H)]
    path = save(keras, sequential(keras, keras.layers.RNN(cells, name="it")), tmp_path, ".keras")
    with pytest.raises(nplstm.FileFormatError, match="'it': one of its cells is a 'GRUCell'"):
        nplstm.load(path)


def test_no_lstm(keras, tmp_path):
    path = save(keras, sequential(keras, keras.layers.GRU(H)), tmp_path, ".keras")
    with pytest.raises(
        nplstm.FileFormatError, match=r"no LSTM is in this Keras file; it has 3 tensors: layers/gru"
    ):
        nplstm.load(path)


# Export


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_weights_go_back(keras, bidirectional, bias):
    lstm = nplstm.LSTM(I, H, 2, bias, batch_first=True, bidirectional=bidirectional, rng=0)
    x = y = draw(B, T, I, dtype="float32")
    for number in range(2):
        layer = keras.layers.LSTM(H, return_sequences=True, use_bias=bias)
        layer = keras.layers.Bidirectional(layer) if bidirectional else layer
        layer.build(y.shape)
        layer.set_weights(keras_weights(lstm, layer=number))
        y = keras_output(keras, layer, y)
    assert_close(lstm(x)[0], y, RTOL)


def test_a_cells_weights_go_back(keras):
    cell = nplstm.LSTMCell(I, H, rng=0)
    layer = keras.layers.LSTMCell(H)
    layer.build((B, I))
    layer.set_weights(keras_weights(cell))
    x, h, c = draw(B, I, dtype="float32"), *draw(2, B, H, dtype="float32")
    ours = cell(x, (h, c))
    _, theirs = layer(x, [h, c])
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, np.array(keras.ops.convert_to_numpy(b)), RTOL)


UNLIKE = {
    "proj_size=2": dict(proj_size=2),
    "recurrent_size=5": dict(recurrent_size=5),
    "residual=": dict(num_layers=2, residual=True),
    "peephole='full'": dict(cell=CellSpec(peephole="full")),
    "coupled_input_forget=True": dict(cell=CellSpec(coupled_input_forget=True)),
    "clip=3.0": dict(cell=CellSpec(clip=3.0)),
    "cell_clip=3.0": dict(cell=CellSpec(cell_clip=3.0)),
    "layer_norm='cell_output'": dict(cell=CellSpec(layer_norm="cell_output")),
    "zoneout_c=0.5": dict(cell=CellSpec(zoneout_c=0.5)),
    "activations=": dict(cell=CellSpec(activations=("sigmoid", "tanh", "relu"))),
    "stacking='independent'": dict(num_layers=2, bidirectional=True, stacking="independent"),
    "hidden_transform=": dict(hidden_transform=nplstm.Projection(2)),
}


@pytest.mark.parametrize("option", UNLIKE)
def test_what_keras_has_not_is_named(option):
    with pytest.raises(nplstm.ArgumentError, match=rf"{option}.*: Keras's LSTM does not have this option"):
        keras_weights(nplstm.LSTM(H, H, **UNLIKE[option], rng=0), layer=0)


def test_which_layer_has_to_be_said():
    lstm = nplstm.LSTM(I, H, 2, rng=0)
    with pytest.raises(
        nplstm.ArgumentError, match=r"layer: Keras has a layer for each of the 2 here; .*from 0 to 1"
    ):
        keras_weights(lstm)
    with pytest.raises(nplstm.ArgumentError, match="layer: expected a number below 2, got 2"):
        keras_weights(lstm, layer=2)
    for number in (-1, "1", True, 1.0):
        with pytest.raises(nplstm.ArgumentError, match=f"layer: expected an integer >= 0, got {number!r}"):
            keras_weights(lstm, layer=number)
    assert np.array_equal(keras_weights(lstm, layer=np.int64(1))[0], keras_weights(lstm, layer=1)[0])
    with pytest.raises(nplstm.ArgumentError, match="lstm: expected an LSTM or an LSTMCell, got dict"):
        keras_weights({})


def test_exported_weights_are_copies():
    lstm = nplstm.LSTM(I, H, rng=0)
    before = lstm.state_dict()
    for array in keras_weights(lstm):
        array[...] = 0
    assert all(np.array_equal(lstm.parameters[name], array) for name, array in before.items())


# Configurations


def rewrite(tmp_path, change, name="nested_3_15.keras"):
    """Write a committed file anew, with its configuration changed."""
    path = tmp_path / "changed.keras"
    with zipfile.ZipFile(FOLDER / name) as archive, zipfile.ZipFile(path, "w") as new:
        for entry in archive.namelist():
            data = archive.read(entry)
            if entry == "config.json":
                config = json.loads(data)
                data = change(config)
                data = (
                    json.dumps(config if data is None else data).encode() if not isinstance(data, bytes) else data
                )
            new.writestr(entry, data)
    return path


def first(config):
    return config["config"]["layers"][1]


WRONG = [
    None,
    True,
    -1,
    0,
    2**70,
    1.5,
    float("nan"),
    "",
    "x" * 2000,
    [],
    [[]],
    {},
    {"class_name": "LSTM"},
    [1, {}],
]


@pytest.mark.filterwarnings("ignore:.*(stateful=True|is assumed):UserWarning")
def test_wrong_types_in_a_configuration(tmp_path):
    """Whatever stands where: errors of ours, which name the file, or a layer."""
    with zipfile.ZipFile(FOLDER / "nested_3_15.keras") as archive:
        config = json.loads(archive.read("config.json"))
    places = [("config",), ("config", "layers"), ("class_name",), ("config", "name"), ("module",)]
    places += [("config", "layers", 1, key) for key in first(config)]
    places += [("config", "layers", 1, "config", key) for key in first(config)["config"]]
    for key in ("kernel_initializer", "recurrent_initializer"):
        places += [("config", "layers", 1, "config", key, part) for part in ("class_name", "config")]
    places += [("config", "layers", 1, "config", "recurrent_initializer", "config", "gain")]
    seen, problems = set(), set()
    for place in places:
        for value in WRONG:

            def change(config, place=place, value=value):
                for key in place[:-1]:
                    config = config[key]
                config[place[-1]] = value

            path = rewrite(tmp_path, change)
            try:
                with open_file(path) as file:
                    for layer in file.layers():
                        seen.add(layer.problem and layer.problem.partition(":")[0])
                nplstm.load(path, layer="first")
            except nplstm.NplstmError as error:
                problems.add(str(error).partition(":")[0])
    assert problems == {str(path)}
    assert {None, "units", "activation", "recurrent_activation", "use_bias", "go_backwards"} <= seen


CONFIGS = {
    "units": (lambda c: first(c)["config"].update(units=4), r"'first': units=4, and .* has 3"),
    "bias": (
        lambda c: first(c)["config"].update(use_bias=False),
        r"'first': use_bias=False, and .* has 3 weights",
    ),
    "dropout": (
        lambda c: first(c)["config"].update(dropout=2),
        r"'first': its options are not valid.*input_dropout",
    ),
    "class": (lambda c: first(c).update(registered_name="own>LSTM"), r"its class is the user's own, 'own>LSTM'"),
    "module": (lambda c: first(c).update(module="own"), r"its class is the user's own, 'own'"),
    "the main program": (
        lambda c: first(c).update(module=None, registered_name="LSTM"),
        r"'first': its class is the user's own, 'LSTM'",
    ),
    "no module": (lambda c: first(c).update(module=None), r"'first': its class is the user's own, 'LSTM'"),
    "like Keras's": (lambda c: first(c).update(module="kerasy.layers"), r"its class is the user's own, 'kerasy"),
    "another name": (
        lambda c: first(c).update(class_name="Mine"),
        r"'first': its weights, at 'layers/lstm', are those of no LSTM in the configuration$",
    ),
    "deep": (lambda c: b'{"config":' * 100_000, r"changed\.keras: 'config\.json' is not JSON"),
    "text": (lambda c: b"\xff\xfe{", r"changed\.keras: 'config\.json' is not JSON"),
    "list": (lambda c: [c], r"changed\.keras: 'config\.json' is not an object, but a list"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_that_do_not_fit(name, tmp_path):
    change, message = CONFIGS[name]
    with pytest.raises(nplstm.FileFormatError, match=message):
        nplstm.load(rewrite(tmp_path, change), layer="first")


def test_a_version_that_is_not_known(tmp_path):
    """hard_sigmoid is two functions; without the version nobody can tell which."""
    path = tmp_path / "changed.keras"
    with zipfile.ZipFile(FOLDER / "nested_3_15.keras") as archive, zipfile.ZipFile(path, "w") as new:
        for entry in archive.namelist():
            new.writestr(entry, b"{}" if entry == "metadata.json" else archive.read(entry))
    with pytest.raises(nplstm.FileFormatError, match="recurrent_activation: hard_sigmoid has the slope"):
        nplstm.load(path, layer="first")
    nplstm.load(path, layer="last")


def test_an_input_whose_first_axis_is_time(tmp_path):
    """Keras 2 has time_major; its outputs are those of the other order of axes."""

    def change(config):
        assert first(config)["config"]["time_major"] is False
        first(config)["config"]["time_major"] = True

    lstm = nplstm.load(rewrite(tmp_path, change, "nested_2_15.keras"), layer="first")
    assert not lstm.batch_first
    x, output = numbers_of("nested_2_15.keras")["first"]
    assert_close(lstm(x.swapaxes(0, 1))[0], output.swapaxes(0, 1), RTOL)


def test_deep_values_of_options(tmp_path):
    """As deep as JSON can be read: what says that they are wrong does not go too deep itself."""
    for depth in (100, 500, 900, 950, 970, 990):

        def change(config, depth=depth):
            first(config)["config"]["dropout"] = "DEEP"
            return json.dumps(config).replace('"DEEP"', "[" * depth + "]" * depth).encode()

        with pytest.raises(nplstm.FileFormatError, match=r"changed\.keras: .*(are not valid|is not JSON)"):
            nplstm.load(rewrite(tmp_path, change), layer="first")


def nest(config):
    inner = config["config"]["layers"]
    for _ in range(40):
        inner = [{"class_name": "Sequential", "config": {"name": "s", "layers": inner}}]
    config["config"]["layers"] = inner


def stack(config):
    cells = {"class_name": "StackedRNNCells", "config": {"cells": [{"class_name": "LSTMCell"}] * 10_001}}
    config["config"]["layers"].append({"class_name": "RNN", "config": {"cell": cells}})


LARGE = {
    "deep": (nest, "models nested more than 32 deep"),
    "many layers": (lambda c: c["config"]["layers"].extend([{}] * 20_000), "more than 10,000 layers or cells"),
    "many cells": (stack, "more than 10,000 layers or cells"),
    "long names": (lambda c: first(c)["config"].update(name="x" * 1025), "names longer than 1,024"),
    "long": (lambda c: b"{" + b" " * 2**24, r"'config\.json' has 16,777,217 bytes; expected at most 16,777,216"),
}


@pytest.mark.parametrize("name", LARGE)
def test_configurations_beyond_all_use(name, tmp_path):
    change, message = LARGE[name]
    with pytest.raises(nplstm.FileFormatError, match=rf"changed\.keras: .*{message}"):
        nplstm.load(rewrite(tmp_path, change))


@pytest.mark.parametrize("two", [False, True])
def test_a_layer_for_gpus_is_named(two, tmp_path):
    def change(config):
        fused = {"class_name": "CuDNNLSTM", "config": {"name": "old", "units": 3}}
        both = {"class_name": "Bidirectional", "config": {"name": "old", "layer": fused}}
        config["config"]["layers"].append(both if two else fused)

    with pytest.raises(nplstm.FileFormatError, match="'old': CuDNNLSTM has another layout"):
        nplstm.load(rewrite(tmp_path, change), layer="old")


def test_a_layer_with_code_in_it_stays_text(tmp_path):
    """A Lambda holds marshalled code; nothing looks at it."""

    def change(config):
        code = {"class_name": "__lambda__", "config": {"code": "4wAAAA==", "defaults": None}}
        config["config"]["layers"].append({"class_name": "Lambda", "config": {"name": "bad", "function": code}})

    path = rewrite(tmp_path, change)
    with open_file(path) as file:
        assert [layer.name for layer in file.layers()] == ["first", "inner/last"]


def test_weights_that_are_elsewhere(tmp_path):
    def change(config):
        config["config"]["layers"].insert(0, first(config))

    with open_file(rewrite(tmp_path, change)) as file:
        problems = [layer.problem for layer in file.layers()]
        with pytest.raises(nplstm.FileFormatError, match=r"changed\.keras: 'first': its weights are not where"):
            file.layers()[1].read()
    assert problems[0] is None
    assert "its weights are not where Keras puts them, at 'layers/lstm_1'" in problems[1]


# HDF5 files that Keras would not write


def test_datasets_that_share_bytes(h5py, tmp_path):
    """A small file could declare a large one's arrays."""

    def fill(file):
        for name in "abc":
            file[f"x/{name}"] = np.full(100, 7, "f4")

    path = make(h5py, tmp_path / "x.h5", fill)
    with h5py.File(path) as file:
        places = [struct.pack("<2Q", file[f"x/{name}"].id.get_offset(), 400) for name in "ab"]
    path.write_bytes(path.read_bytes().replace(places[1], places[0]))
    with pytest.raises(nplstm.FileFormatError, match=r"x\.h5: .*the datasets 'x/a' and 'x/b' overlap"):
        open_file(path)


def make(h5py, path, fill, **options):
    with h5py.File(path, "w", **options) as file:
        file.create_group("layers/lstm/cell/vars")
        file["layers/lstm/cell/vars/0"] = np.zeros((I, 4 * H), "f4")
        file["layers/lstm/cell/vars/1"] = np.zeros((H, 4 * H), "f4")
        file["layers/lstm/cell/vars/2"] = np.zeros(4 * H, "f4")
        fill(file)
    return path


def external(file, h5py, folder):
    (folder / "secret.bin").write_bytes(b"secret!!" * 100)
    file.create_dataset("x", (8,), "f4", external=[(str(folder / "secret.bin"), 0, 32)])


def virtual(file, h5py, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.ones(8)
    layout = h5py.VirtualLayout((8,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (8,))
    file.create_virtual_dataset("x", layout)


def soft(file, h5py, folder):
    file["x"] = h5py.SoftLink("/layers")


def outside(file, h5py, folder):
    file["x"] = h5py.ExternalLink(str(folder / "other.h5"), "/")


def circle(file, h5py, folder):
    file["layers/lstm/again"] = file["layers"]


def twice(file, h5py, folder):
    file["again"] = file["layers/lstm/cell/vars/0"]


def deep(file, h5py, folder):
    file.create_group("/".join("g" * 100))


def ordered(file, h5py, folder):
    file.create_group("x", track_order=True)


REFUSED = {
    "soft link": (soft, "'x' is a soft link, which is not followed"),
    "external link": (
        outside,
        "'/' has a link.* message, of the newer form of HDF5, in which links can lead to other",
    ),
    "circle": (circle, "two links lead to what is at .* or they go round in circles"),
    "two links": (twice, "two links lead to what is at"),
    "deep": (deep, "groups more than 64 deep"),
    "newer groups": (ordered, "the object header at .* has version 79; Keras's have 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_links_that_lead_elsewhere(name, h5py, tmp_path):
    fill, message = REFUSED[name]
    path = make(h5py, tmp_path / "x.h5", lambda file: fill(file, h5py, tmp_path))
    with pytest.raises(nplstm.FileFormatError, match=rf"x\.h5: not as Keras writes it: .*{message}"):
        open_file(path)


UNREAD = {
    "external": (external, "its data lie in other files"),
    "virtual": (virtual, "(it is virtual|its layout has version 4)"),
    "packed": (
        lambda f, *_: f.create_dataset("x", data=np.zeros(10**6), compression="gzip"),
        "it is stored in chunks",
    ),
    "not there": (
        lambda f, *_: f.create_dataset("x", (10**9, 10), "f4", chunks=(10**3, 10)),
        "it is stored in chunks",
    ),
}


@pytest.mark.filterwarnings("ignore:.*its options are Keras's defaults is assumed:UserWarning")
@pytest.mark.parametrize("name", UNREAD)
def test_data_that_are_elsewhere_or_nowhere(name, h5py, tmp_path):
    """The other arrays can be read all the same."""
    fill, message = UNREAD[name]
    path = make(h5py, tmp_path / "x.h5", lambda file: fill(file, h5py, tmp_path))
    with open_file(path, max_bytes=2**40) as file:
        assert [layer.name for layer in file.layers()] == ["layers/lstm"]
        with pytest.raises(nplstm.FileFormatError, match=rf"x\.h5: .*the dataset 'x' cannot be read: {message}"):
            file.read("x")
    nplstm.load(path)
    if name == "not there":
        with pytest.raises(
            nplstm.FileFormatError, match="the tensor 'x' takes 40,000,000,000 bytes, and of max_bytes"
        ):
            read_tensors(path)


def test_what_holds_no_numbers_is_left_out(h5py, tmp_path):
    def fill(file):
        file["compound"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
        file["text"] = "a text"
        file["texts"] = np.array([b"ab", b"c"])
        file["opaque"] = np.zeros(3, "V7")
        file["truth"] = np.array([True])
        file["complex"] = np.zeros(2, "c8")
        file["array"] = np.zeros(2, np.dtype(("f4", (3,))))
        file["null"] = h5py.Empty("f4")
        file.create_dataset("references", data=file["text"].ref, dtype=h5py.ref_dtype)
        file.create_dataset("ragged", (2,), dtype=h5py.vlen_dtype("f4"))
        file["number"] = np.arange(3, dtype=">i2")
        file["scalar"] = np.float16(1.5)
        file["none"] = np.zeros((0, 3))

    with open_file(make(h5py, tmp_path / "x.h5", fill)) as file:
        rest = [name for name in file.tensors if not name.startswith("layers")]
        assert rest == ["array", "none", "number", "scalar"]
        assert file.read("number").tolist() == [0, 1, 2]
        assert file.read("number").dtype == "int16"
        assert file.read("scalar") == np.float16(1.5)
        assert file.read("none").shape == (0, 3)
        assert set(file._hdf5.others) == set(
            "compound text texts opaque truth complex null references ragged".split()
        )


def test_the_newer_form_is_named(h5py, tmp_path):
    path = make(h5py, tmp_path / "x.h5", lambda file: None, libver="latest")
    with pytest.raises(
        nplstm.FileFormatError, match=r"x\.h5: .*superblock \d, the newer form of HDF5; Keras writes 0"
    ):
        open_file(path)


def test_weights_of_two_types_are_named(h5py, tmp_path):
    def fill(file):
        del file["layers/lstm/cell/vars/2"]
        file["layers/lstm/cell/vars/2"] = np.zeros(4 * H)

    path = make(h5py, tmp_path / "x.h5", fill)
    with pytest.raises(
        nplstm.FileFormatError, match=r"'layers/lstm': its weights do not fit each other.*float32, float64"
    ):
        nplstm.load(path)


def patched(name, find, replace, after=0):
    """Return a committed file with bytes changed: those that follow a signature, at a distance."""
    data = bytearray((FOLDER / name).read_bytes())
    place = data.index(find) + after
    data[place : place + len(replace)] = replace
    return bytes(data)


def address_of(data, find):
    return struct.pack("<Q", data.index(find))


WEIGHTS = "nested_3_15.weights.h5"
RAW = (FOLDER / WEIGHTS).read_bytes()
LIES = {
    "a node that is its own child": (
        b"TREE",
        b"\0\1\1\0" + bytes([255] * 16) + bytes(8) + address_of(RAW, b"TREE"),
        4,
    ),
    "a leaf that is a node": (b"TREE", address_of(RAW, b"TREE"), 32),
    "a long heap": (b"HEAP", struct.pack("<Q", 2**62), 8),
    "a heap elsewhere": (b"HEAP", struct.pack("<Q", 2**62), 24),
    "many symbols": (b"SNOD", struct.pack("<H", 65535), 6),
    "a heap of texts": (b"GCOL", struct.pack("<Q", 2**20), 8),
    "another version": (b"\x89HDF", b"\2", 8),
    "narrow addresses": (b"\x89HDF", b"\4", 13),
    "a longer file": (b"\x89HDF", struct.pack("<Q", 2**40), 40),
    "a root elsewhere": (b"\x89HDF", struct.pack("<Q", 2**64 - 2), 64),
    "a root that is the file": (b"\x89HDF", struct.pack("<Q", 0), 64),
}


@pytest.mark.parametrize("name", LIES)
def test_structures_that_lie(name, tmp_path):
    path = tmp_path / "x.h5"
    find, replace, after = LIES[name]
    path.write_bytes(patched(WEIGHTS, find, replace, after))
    with pytest.raises(nplstm.FileFormatError, match=r"x\.h5: not as Keras writes it: "):
        nplstm.load(path)


def test_a_shape_that_lies(tmp_path):
    """No array is larger than what is stored of it."""
    path = tmp_path / "x.h5"
    path.write_bytes(RAW.replace(struct.pack("<2Q", 2, 12), struct.pack("<2Q", 2**30, 12)))
    with pytest.raises(
        nplstm.FileFormatError, match=r"declares float32 \(1073741824, 12\), 51,539,607,552 bytes, and has"
    ):
        open_file(path)


@pytest.mark.parametrize("name", ["nested_2_15.h5", "nested_3_15.weights.h5", "both_3_15.keras"])
def test_only_errors_of_ours(name, tmp_path_factory):
    data = (FOLDER / name).read_bytes()
    path = tmp_path_factory.mktemp("damaged") / f"bad{Path(name).suffix}"

    @settings(max_examples=CASES)
    @given(damages(len(data)))
    def check(changes):
        check_damaged(path, data, changes)

    check()


def test_an_error_of_pythons_own_is_seen(tmp_path, monkeypatch):
    """The check above fails where reading ends in anything else."""
    monkeypatch.setattr(hdf5.Hdf5, "_check_path", lambda file, path: {}[path])
    with pytest.raises(KeyError):
        check_damaged(tmp_path / "bad.h5", RAW, [])
