"""LSTMs found by names and shapes: sizes, layers, directions, projection, bias, and what is no LSTM."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nplstm
from nplstm.io import open_file, write_tensors
from nplstm.io.model_file import TensorInfo
from nplstm.io.torch_names import layers_by_name
from nplstm.layers.config import layer_of


def layers_of(shapes):
    infos = {name: TensorInfo(shape, "float32") for name, shape in shapes.items()}
    return layers_by_name(infos, lambda name: np.zeros(shapes[name], np.float32))


def shapes_of(layer, prefix=""):
    return {prefix + name: array.shape for name, array in layer.parameters.items()}


@st.composite
def layers(draw):
    """Draw a layer of which names and shapes tell everything."""
    I, H, L = draw(st.integers(1, 9)), draw(st.integers(2, 9)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        return nplstm.LSTMCell(I, H, bias=draw(st.booleans()), rng=0)
    options = dict(bias=draw(st.booleans()), bidirectional=draw(st.booleans()))
    options["proj_size"] = draw(st.integers(0, H - 1))
    if draw(st.booleans()):
        options["cell"] = nplstm.CellSpec(peephole=draw(st.sampled_from(["diagonal", "full"])))
    sizes = draw(st.lists(st.integers(H, 9), min_size=L, max_size=L))
    if len(set(sizes)) == 1:
        sizes = sizes[0]
    if options["bidirectional"] and L > 1 and draw(st.booleans()):
        options["stacking"] = "independent"
    return nplstm.LSTM(I, sizes if isinstance(sizes, int) else tuple(sizes), L, **options, rng=0)


@given(layers(), st.sampled_from(["", "lstm.", "module.encoder.rnn.", "a b/"]), st.sampled_from([".npz", ""]))
def test_a_layer_is_found_by_its_names_and_shapes(tmp_path_factory, layer, prefix, suffix):
    path = tmp_path_factory.mktemp("names") / f"layer{suffix}"
    write_tensors(path, {prefix + name: a for name, a in layer.parameters.items()} | {"other": np.zeros(3)})
    loaded = nplstm.load(path)
    assert repr(loaded) == repr(layer)
    assert all(np.array_equal(loaded.parameters[name], array) for name, array in layer.parameters.items())


def test_another_shape_is_another_layer():
    """What the test above relies on: a size that is wrong does not come back as the same layer."""
    shapes = shapes_of(nplstm.LSTM(3, 5, 2, bidirectional=True, rng=0))
    (right,) = layers_of(shapes)
    for name in shapes:
        spoilt = {**shapes, name: (*shapes[name][:-1], shapes[name][-1] + 4)}
        for found in layers_of(spoilt):
            if found.options == right.options:
                with pytest.raises(nplstm.StateDictError):
                    layer_of(found.options, found.read(), backend="numpy", dtype="float32")


@pytest.mark.parametrize("gates", [1, 3])
def test_a_gru_and_a_plain_rnn_are_no_lstm(gates):
    H = 4
    assert not layers_of({"weight_ih_l0": (gates * H, 3), "weight_hh_l0": (gates * H, H)})
    assert not layers_of({"weight_ih": (gates * H, 3), "weight_hh": (gates * H, H)})


def test_what_only_looks_like_one():
    H = 4
    assert not layers_of({"weight_hh_l0": (4 * H, H)})
    assert not layers_of({"weight_ih_l0": (4 * H,), "weight_hh_l0": (4 * H, H)})
    assert not layers_of({"weight_ih_l0": (0, 3), "weight_hh_l0": (0, 0)})
    assert not layers_of({"weight_ih_l0x": (4 * H, 3), "weight_hh_l0x": (4 * H, H)})
    assert not layers_of({"weight_ih_l00": (4 * H, 3), "weight_hh_l00": (4 * H, H)})


def test_a_recurrent_input_of_another_width():
    (found,) = layers_of({"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 8)})
    assert (found.options["hidden_size"], found.options["recurrent_size"]) == (4, 8)


def test_what_the_weights_do_not_say_is_a_problem():
    cell = nplstm.CellSpec(layer_norm="cell_state")
    (found,) = layers_of(shapes_of(nplstm.LSTM(2, 3, cell=cell, rng=0)))
    assert "layer normalisation is one of two kinds" in found.problem
    (found,) = layers_of(
        {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "weight_ih_l2": (16, 4), "weight_hh_l2": (16, 4)}
    )
    assert "not every layer, by its number" in found.problem
    (found,) = layers_of({"weight_ih": (16, 3), "weight_hh": (16, 2), "weight_hr": (2, 4)})
    assert "no projection" in found.problem


def test_several_are_listed_and_chosen_by_name(tmp_path):
    one, two = nplstm.LSTM(2, 3, rng=0), nplstm.LSTM(4, 5, bidirectional=True, dtype="float64", rng=0)
    cell = nplstm.LSTMCell(6, 7, rng=0)
    parts = {"encoder.lstm.": one, "decoder.lstm.": two, "decoder.": cell}
    path = tmp_path / "model.npz"
    write_tensors(
        path, {prefix + name: a for prefix, layer in parts.items() for name, a in layer.parameters.items()}
    )
    with open_file(path) as file:
        assert {found.name for found in file.layers()} == set(parts)
    with pytest.raises(nplstm.ArgumentError, match=r"3 LSTMs are in this file; name one of them:\n") as caught:
        nplstm.load(path)
    for line in (
        "  encoder.lstm.: LSTM(2, 3), float32",
        "  decoder.lstm.: LSTM(4, 5, bidirectional=True), float64",
        "  decoder.: LSTMCell(6, 7), float32",
    ):
        assert line in str(caught.value)
    for name, layer in {
        **parts,
        "encoder.lstm": one,
        "encoder": one,
        "decoder.lstm": two,
        "decoder": cell,
    }.items():
        if name == "encoder":
            with pytest.raises(nplstm.ArgumentError, match="no LSTM by the name 'encoder'; there are"):
                nplstm.load(path, prefix=name)
        else:
            assert repr(nplstm.load(path, prefix=name)) == repr(nplstm.load(path, layer=name)) == repr(layer)
    with pytest.raises(nplstm.ArgumentError, match="several LSTMs by the name 'lstm'"):
        nplstm.load(path, prefix="lstm")
    with pytest.raises(nplstm.ArgumentError, match="layer: means the same as prefix"):
        nplstm.load(path, prefix="lstm", layer="lstm")


def test_batch_first_is_the_callers_to_say(tmp_path):
    path = tmp_path / "layer.npz"
    write_tensors(path, nplstm.LSTM(2, 3, rng=0).parameters)
    assert not nplstm.load(path).batch_first
    assert nplstm.load(path, batch_first=True).batch_first
    nplstm.save(nplstm.LSTM(2, 3, batch_first=True), path)
    assert nplstm.load(path).batch_first
    assert not nplstm.load(path, batch_first=False).batch_first
    nplstm.save(nplstm.LSTMCell(2, 3), path)
    with pytest.raises(nplstm.ArgumentError, match="batch_first: the file holds an LSTMCell"):
        nplstm.load(path, batch_first=True)


def test_float16_is_widened_where_nothing_computes_with_it(tmp_path, be):
    lstm = nplstm.LSTM(2, 3, rng=0)
    halves = {name: a.astype(np.float16) for name, a in lstm.parameters.items()}
    write_tensors(tmp_path / "half.npz", halves)
    loaded = nplstm.load(tmp_path / "half.npz", backend=be.name)
    assert loaded.dtype.name == ("float16" if "float16" in be.float_dtypes else "float32")
    for name, array in loaded.parameters.items():
        assert np.array_equal(be.to_numpy(array), halves[name].astype(loaded.dtype))
    assert nplstm.load(tmp_path / "half.npz", dtype="float64").dtype == np.float64
    write_tensors(tmp_path / "int.npz", {name: a.astype(np.int32) for name, a in lstm.parameters.items()})
    with pytest.raises(nplstm.FileFormatError, match="weight_ih_l0 is int32, and weights are floating"):
        nplstm.load(tmp_path / "int.npz")
    with pytest.raises(nplstm.FileFormatError, match="weight_ih_l0 is int32"):
        nplstm.load(tmp_path / "int.npz", dtype="float32")  # a cast would lose the scale
    with pytest.raises(nplstm.DTypeError):
        nplstm.load(tmp_path / "int.npz", dtype="int32")


PARTS = {
    "pruned direction": {
        f"{name}_l0_reverse{part}" for name in ("weight_ih", "weight_hh") for part in ("_orig", "_mask")
    },
    "pruned layer": {
        f"{name}_l1{part}" for name in ("weight_ih", "weight_hh", "bias_ih") for part in ("_orig", "_mask")
    },
    "pruned biases": {f"{name}_l0{part}" for name in ("bias_ih", "bias_hh") for part in ("_orig", "_mask")},
    "pruned weight_hh": {"weight_hh_l0_orig", "weight_hh_l0_mask"},
    "weight norm": {"weight_hr_l0_g", "weight_hr_l0_v"},
    "weight norm of weight_hh": {"weight_hh_l0_g", "weight_hh_l0_v"},
    "parametrized": {"parametrizations.weight_hh_l0.original0", "parametrizations.weight_hh_l0.original1"},
    "spectral norm": {"weight_hh_l0_orig", "weight_hh_l0_u", "weight_hh_l0_v"},
    "cell": {"weight_hh_orig", "weight_hh_mask"},
}


@pytest.mark.parametrize("name", PARTS)
def test_weights_in_parts_are_named(name):
    """A pruned or normalised weight has another name, and must not be taken for one that is not there."""
    layer = nplstm.LSTM(3, 5, 2, bidirectional=True, proj_size=2, rng=0)
    shapes = shapes_of(nplstm.LSTMCell(3, 5)) if name == "cell" else shapes_of(layer)
    shapes = {f"rnn.{key}": shape for key, shape in shapes.items()}
    whole_shapes = dict(shapes)
    for part in PARTS[name]:
        whole = re.sub(r"(_orig|_mask|_[guv]|\.original\d)$", "", part).removeprefix("parametrizations.")
        shape = whole_shapes[f"rnn.{whole}"]
        shapes.pop(f"rnn.{whole}", None)
        vector = part.endswith(("_u",)) or (name == "spectral norm" and part.endswith("_v"))
        shapes[f"rnn.{part}"] = (
            (shape[0],) if vector else (shape[0], 1) if part.endswith(("_g", "original0")) else shape
        )
    (found,) = layers_of(shapes)
    assert found.name == "rnn."
    assert "is a part of a weight that is pruned or normalised; make it whole in torch" in found.problem


def test_layers_that_are_not_all_there():
    matrices = {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4)}
    for wrong in (
        {"weight_hh_l2": (16, 4), "weight_hh_l3": (16, 4)},
        {"weight_hh_l1": ()},
        {"weight_hh_l1": (16,)},
        {"weight_hh_l1": (16, 4, 4)},
    ):
        (found,) = layers_of(matrices | wrong)
        assert found.problem is not None


def test_a_gru_with_a_projection_is_no_lstm():
    assert not layers_of({"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 4), "weight_hr_l0": (4, 4)})
