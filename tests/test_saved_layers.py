"""A layer in a file: every option, and files that are not what they should be."""

import json

import numpy as np
import pytest
from cases import CELLS, LAYERS
from variants import Variant

import nplstm
from nplstm.io import open_file, read_tensors, write_tensors

SAVED = [name for name, row in LAYERS.items() if row.transform != "state"]


@pytest.mark.parametrize("layer", SAVED)
@pytest.mark.parametrize("cell", CELLS)
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
        nplstm.ArgumentError, match=r"hidden_transform: Decay is none of Projection, .* cannot hold it"
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
        r"bad: (its weights and options are no layer's|its options are not those that nplstm.save writes): ."
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
    with pytest.raises(nplstm.FileFormatError, match="no LSTM is in this safetensors file; its 1 tensors: a"):
        nplstm.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        nplstm.load(tmp_path / "none")
