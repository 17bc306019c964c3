"""A layer in a file: every option, and files that are not what they should be."""

import dataclasses
import json

import hypothesis
import numpy as np
import pytest
from cases import CELLS, LAYERS
from hypothesis import given
from hypothesis import strategies as st
from variants import Variant

import nplstm
from nplstm import Activation
from nplstm.core.ops.activations import _FUNCTIONS as FUNCTIONS
from nplstm.io import open_file, read_tensors, write_tensors

SAVED = [name for name, row in LAYERS.items() if row.transform != "state"]


# every cell in a few layers, every layer with a few cells; any of both are drawn below
PAIRS = [(cell, layer) for cell in CELLS for layer in ("plain", "bidirectional")]
PAIRS += [(cell, layer) for cell in ("standard", "everything") for layer in SAVED]


@pytest.mark.parametrize(("cell", "layer"), PAIRS)
def test_a_layer_comes_back_bit_for_bit(cell, layer, be, tmp_path):
    variant = Variant(cell, layer, be)
    saved, point = variant.lstm, variant.place()
    expected = variant.results(variant.call(point))
    for suffix in ("safetensors", "npz"):
        nplstm.save(saved, tmp_path / f"layer.{suffix}")
        variant.lstm = nplstm.load(tmp_path / f"layer.{suffix}", backend=be.name)
        assert repr(variant.lstm) == repr(saved)
        assert variant.lstm.cell == saved.cell
        actual = variant.results(variant.call(point))
        assert all(np.array_equal(be.to_numpy(actual[name]), be.to_numpy(expected[name])) for name in expected)


def test_a_cell_comes_back(tmp_path):
    cell = nplstm.LSTMCell(2, 3, cell=nplstm.CellSpec(peephole="full", clip=3), recurrent_size=6, dtype="float64")
    nplstm.save(cell, tmp_path / "cell")
    loaded = nplstm.load(tmp_path / "cell")
    assert repr(loaded) == repr(cell)
    assert all(np.array_equal(loaded.parameters[name], array) for name, array in cell.parameters.items())


@pytest.mark.parametrize(
    "options",
    [
        dict(hidden_size=(4, 6), num_layers=2, recurrent_size=5),
        dict(hidden_size=(4,), recurrent_size=5),
        dict(hidden_size=(4, 6), num_layers=2, hidden_transform=nplstm.Projection(3)),
        dict(hidden_size=4, reverse=np.True_, cell=nplstm.CellSpec(coupled_input_forget=np.True_)),
        dict(hidden_size=4, recurrent_size=4),
    ],
)
def test_what_is_printed_and_saved_makes_the_same_layer(options, tmp_path):
    lstm = nplstm.LSTM(2, **options, rng=0)
    nplstm.save(lstm, tmp_path / "layer")
    for other in (nplstm.load(tmp_path / "layer"), eval(repr(lstm), vars(nplstm))):
        assert repr(other) == repr(lstm)
        assert {n: a.shape for n, a in other.parameters.items()} == {
            n: a.shape for n, a in lstm.parameters.items()
        }


def test_a_transform_of_the_users_own_is_named(tmp_path):
    lstm = Variant("standard", "state", nplstm.backends.get_backend("numpy")).lstm
    with pytest.raises(
        nplstm.ArgumentError, match=r"hidden_transform: expected one of Projection, .* got Decay, which cannot"
    ):
        nplstm.save(lstm, tmp_path / "layer")
    assert not list(tmp_path.iterdir())
    with pytest.raises(nplstm.ArgumentError, match="layer: expected an LSTM or an LSTMCell, got Linear"):
        nplstm.save(nplstm.Linear(2, 3), tmp_path / "layer")


def spoil(config, **changes):
    return json.dumps({**config, **changes})


WRONG = {
    "no json": lambda config: "{",
    "a list": lambda config: "[]",
    "deep": lambda config: "[" * 100_000,
    "kind": lambda config: spoil(config, kind="GRU"),
    "kind a list": lambda config: spoil(config, kind=[]),
    "no sizes": lambda config: json.dumps({"kind": "LSTM"}),
    "other sizes": lambda config: spoil(config, hidden_size=4),
    "huge": lambda config: spoil(config, hidden_size=10**9),
    "beyond": lambda config: spoil(config, hidden_size=10**400),
    "many": lambda config: spoil(config, num_layers=10**12),
    "float": lambda config: spoil(config, hidden_size=3.0),
    "unknown": lambda config: spoil(config, proj=3),
    "backend": lambda config: spoil(config, backend="cupy"),
    "spec": lambda config: spoil(config, cell={"peepholes": True}),
    "spec a list": lambda config: spoil(config, cell=[1]),
    "activation": lambda config: spoil(config, cell={"activations": [{"name": "os.system"}] * 3}),
    "activation empty": lambda config: spoil(config, cell={"activations": [{}] * 3}),
    "transform": lambda config: spoil(config, hidden_transform={"kind": "os.system", "size": 3}),
    "transform option": lambda config: spoil(config, hidden_transform={"kind": "Projection", "scale": 3}),
    "transform a list": lambda config: spoil(config, hidden_transform=["Projection"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_not_what_it_should_be(name, tmp_path):
    nplstm.save(nplstm.LSTM(2, 3, rng=0), tmp_path / "good")
    with open_file(tmp_path / "good") as file:
        tensors, options = read_tensors(tmp_path / "good"), json.loads(file.metadata["nplstm"])
    write_tensors(tmp_path / "bad", tensors, {"nplstm": WRONG[name](options)})
    expected = (
        r"bad: (its weights and options do not make a layer|its options are not those that nplstm.save writes): ."
    )
    with pytest.raises(nplstm.FileFormatError, match=expected):
        nplstm.load(tmp_path / "bad")


def test_weights_of_two_element_types_are_cast_on_request(tmp_path):
    lstm = nplstm.LSTM(2, 3, rng=0)
    tensors = dict(lstm.state_dict())
    tensors["bias_hh_l0"] = tensors["bias_hh_l0"].astype(np.float64)
    write_tensors(tmp_path / "mixed", tensors)
    with pytest.raises(nplstm.FileFormatError, match="weights of one element type, got float32, float64; dtype="):
        nplstm.load(tmp_path / "mixed")
    loaded = nplstm.load(tmp_path / "mixed", dtype="float64")
    assert all(np.array_equal(loaded.parameters[name], array) for name, array in tensors.items())


def test_a_file_without_a_layer(tmp_path):
    write_tensors(tmp_path / "other", {"a": np.zeros(2)}, {})
    with pytest.raises(nplstm.FileFormatError, match="no LSTM is in this safetensors file; it has 1 tensors: a"):
        nplstm.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        nplstm.load(tmp_path / "none")


def numbers(low, high):
    return st.floats(low, high, exclude_min=low == 0 and high > 1)


@st.composite
def cells(draw, bias):
    """Draw any CellSpec there is; with layer normalisation where the biases allow it."""
    activations = st.sampled_from(sorted(FUNCTIONS)).flatmap(lambda name: st.builds(Activation, st.just(name)))
    constants = st.builds(Activation, st.just("LeakyRelu"), numbers(-2, 2))
    probability = st.one_of(st.just(0.0), st.floats(0, 1))
    coupled = draw(st.booleans())
    return nplstm.CellSpec(
        peephole=draw(st.sampled_from([None, "diagonal", "full"])),
        coupled_input_forget=coupled,
        activations=tuple(draw(st.one_of(activations, constants)) for _ in range(3)),
        clip=draw(st.none() | numbers(0, 9)),
        cell_clip=draw(st.none() | numbers(0, 9)),
        layer_norm=draw(st.sampled_from([None, "cell_output", "cell_state"])),
        layer_norm_eps=draw(numbers(0, 1.5)),
        **{name: draw(probability) for name in nplstm.CellSpec._PROBABILITIES},
        recurrent_dropout_mask=draw(st.sampled_from(["fixed", "step"])),
        init_ih=draw(st.sampled_from(["uniform", "xavier_uniform", "xavier_normal", "orthogonal"])),
        init_hh=draw(st.sampled_from(["uniform", "xavier_uniform", "xavier_normal", "orthogonal"])),
        init_bias=draw(st.sampled_from(["uniform", "zeros"])) if bias else "uniform",
        forget_bias=draw(st.none() | st.floats(-3, 3)) if bias and not coupled else None,
    )


@st.composite
def any_layer(draw):
    """Draw a layer of any options that go together."""
    L, bias, dtype = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.sampled_from(["float32", "float64"]))
    sizes = draw(st.lists(st.integers(2, 5), min_size=L, max_size=L).map(tuple) | st.integers(2, 5))
    H = min(sizes) if isinstance(sizes, tuple) else sizes
    options = dict(bias=bias, cell=draw(cells(bias)), dtype=dtype, rng=draw(st.integers(0, 9)))
    if draw(st.integers(0, 5)) == 0:
        return nplstm.LSTMCell(
            draw(st.integers(1, 4)), H, recurrent_size=draw(st.none() | st.integers(1, 6)), **options
        )
    options |= dict(batch_first=draw(st.booleans()), dropout=draw(st.floats(0, 1)) if L > 1 else 0.0)
    options["bidirectional"] = draw(st.booleans())
    if options["bidirectional"]:
        options["stacking"] = draw(st.sampled_from(["concat", "independent"]))
        options["merge"] = draw(st.sampled_from(["concat", "sum", "mean", "product", "none"]))
    elif draw(st.booleans()):
        options |= dict(reverse=True, output_order=draw(st.sampled_from(["time", "processing"])))
    between = draw(st.sampled_from(["nothing", "projection", "transform", "recurrent"]))
    if between == "projection":
        options["proj_size"] = draw(st.integers(0, H - 1))
    if between == "transform":
        transforms = [nplstm.Projection(3), nplstm.ContextConcatenation(2), nplstm.AttentionReadout(0.5)]
        options["hidden_transform"] = draw(st.sampled_from(transforms))
    if between == "recurrent":
        options["recurrent_size"] = draw(st.integers(1, 6))
    if L > 1:
        options["residual"] = draw(st.sampled_from([False, True, (1,), (L - 1,)]))
    return nplstm.LSTM(draw(st.integers(1, 4)), sizes, L, **options)


@given(st.data(), st.sampled_from(["npz", "safetensors"]))
def test_any_layer_comes_back_bit_for_bit(tmp_path_factory, data, suffix):
    try:
        layer = data.draw(any_layer())
    except nplstm.ArgumentError:  # options that have no meaning together
        hypothesis.reject()
    path = tmp_path_factory.mktemp("layers") / f"layer.{suffix}"
    nplstm.save(layer, path)
    loaded = nplstm.load(path)
    assert repr(loaded) == repr(layer)
    assert loaded.cell == layer.cell
    assert list(loaded.parameters) == list(layer.parameters)
    for name, array in layer.parameters.items():
        assert loaded.parameters[name].tobytes() == array.tobytes()
        assert loaded.parameters[name].dtype == array.dtype


@pytest.mark.parametrize("option", [field.name for field in dataclasses.fields(nplstm.CellSpec)])
def test_an_option_that_is_lost_is_seen(tmp_path, option, monkeypatch):
    """The round trip above notices each option of the cell that is not written."""
    values = {
        "peephole": "full", "coupled_input_forget": True, "activations": ("Sigmoid", "Relu", "Tanh"), "clip": 2.0,
        "cell_clip": 3.0, "layer_norm": "cell_state", "layer_norm_eps": 1e-3, "recurrent_dropout_mask": "step",
        "init_ih": "orthogonal", "init_hh": "orthogonal", "init_bias": "zeros", "forget_bias": 1.0,
    }  # fmt: skip
    layer = nplstm.LSTM(2, 3, cell=nplstm.CellSpec(**{option: values.get(option, 0.5)}))
    to_dict = nplstm.CellSpec.to_dict
    monkeypatch.setattr(
        nplstm.CellSpec, "to_dict", lambda cell: {k: v for k, v in to_dict(cell).items() if k != option}
    )
    nplstm.save(layer, tmp_path / "layer.npz")
    try:
        loaded = nplstm.load(tmp_path / "layer.npz")
    except nplstm.FileFormatError:
        return  # the weights do not fit without it
    assert repr(loaded) != repr(layer)
