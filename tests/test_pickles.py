"""Pickles of layers and of other public objects: of this version, copied, and as older versions made them."""

import copy
import pickle
from pathlib import Path

import make_pickles
import numpy as np
import pytest
from conftest import needs_kernels

import nplstm

FILES = sorted(Path(__file__).with_name("files").glob("pickles/*.pkl"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_layer_of_an_older_version_computes_the_same(path):
    written = pickle.loads(path.read_bytes())
    assert set(written["layers"]) == set(make_pickles.LAYERS)
    for name, layer in written["layers"].items():
        tolerance = 1e-14 if layer.dtype == np.float64 else 1e-6  # rounding of another machine's kernels
        found = np.array(make_pickles.result(layer))
        assert np.abs(found - written["results"][name]).max() <= tolerance, name
        assert repr(layer) == repr(make_pickles.LAYERS[name])
        assert np.array_equal(
            layer.state_dict()[next(iter(layer.parameters))], next(iter(layer.parameters.values()))
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_other_objects_of_an_older_version(path):
    others = pickle.loads(path.read_bytes())["others"]
    assert isinstance(others["parameters"], nplstm.Parameters)
    assert isinstance(others["packed"], nplstm.PackedSequence)
    assert others["packed"].data.shape == (8, 4)
    assert others["spec"] == make_pickles.VARIANT
    assert others["embedding"].num_parameters == 28
    assert others["adam"].lr == 0.1
    assert others["gradients"].input.shape == (5, 3, 4)


@pytest.mark.parametrize("name", make_pickles.LAYERS)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_computes_the_same_and_goes_its_own_way(name, again):
    layer = make_pickles.LAYERS[name]
    before = np.array(make_pickles.result(layer))
    layer.note = "kept"
    other = again(layer)
    del layer.note
    assert other.note == "kept"
    assert repr(other) == repr(layer)
    assert np.array_equal(make_pickles.result(other), before)
    if again is not copy.copy:  # which shares the parameters, as torch's does
        first = next(iter(other.parameters))
        other.parameters[first] = other.parameters[first] * 2
        assert np.array_equal(make_pickles.result(layer), before)


def test_a_pickle_holds_no_name_of_a_private_class():
    """What an option is kept in may change; its name and its value do not."""
    names = pickle.dumps(make_pickles.LAYERS["stack"])
    for private in (b"Options", b"Wiring", b"LayerWeights", b"RecurrentLayer"):
        assert private not in names


def test_an_option_cannot_be_set():
    lstm = nplstm.LSTM(2, 3)
    with pytest.raises(AttributeError, match=r"hidden_size: an option is fixed when the layer is made"):
        lstm.hidden_size = 4
    lstm.dropout, lstm.batch_first = 0.5, True
    assert repr(lstm) == "LSTM(2, 3, batch_first=True, dropout=0.5)"
    assert lstm(np.zeros((1, 5, 2), np.float32))[0].shape == (1, 5, 3)
    with pytest.raises(nplstm.ArgumentError, match=r"dropout: expected a number in \[0.0, 1.0\], got 2"):
        lstm.dropout = 2


class Subclass(nplstm.LSTM):
    """With attributes of its own, of which some have defaults of the class, and one a slot."""

    __slots__ = ("kept",)
    calls = 0
    note = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.calls, self.note, self.options, self.kept = 2, "hi", {"own": True}, [1]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_subclass_keeps_its_attributes(again):
    other = again(Subclass(2, 3, num_layers=2, rng=0))
    assert (other.calls, other.note, other.options, other.kept) == (2, "hi", {"own": True}, [1])
    assert repr(other) == "LSTM(2, 3, num_layers=2)"


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("engine", ["compiled", "numpy", "plain"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda tape: pickle.loads(pickle.dumps(tape))])
def test_a_tape_is_pickled(again, engine, every):
    """Beside other layers of the same sizes, which share the steps."""
    if engine == "compiled":
        needs_kernels()
    lstm, x = nplstm.LSTM(2, 3, 2, dtype="float64", rng=0), np.ones((4, 2, 2))
    with nplstm.use_engines(engine):
        tape = lstm.record(x, checkpoint_every=every)
        expected = tape.backward(np.ones_like(tape.output))
        found = again(tape).backward(np.ones_like(tape.output))
    assert np.array_equal(found.input, expected.input)
    assert all(np.array_equal(found.parameters[name], expected.parameters[name]) for name in expected.parameters)
