"""ONNX model files: the LSTMs in them as layers, beside onnxruntime and the frameworks that wrote them.

Needed, and skipped without: the packages onnx and onnxruntime. What other frameworks write stands in
``files/onnx``; where torch is installed, it writes anew. Hostile files are in ``test_onnx_attacks.py``.
"""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import (
    ARRANGE,
    F32,
    OPERATORS,
    N,
    called,
    chained,
    compare,
    constant,
    draw_x,
    if_model,
    layers_of,
    loop_model,
    lstm_node,
    model_of,
    one_node,
    run,
    side_by_side,
    tensors,
    two_nodes,
    weights,
    without,
    write,
)
from test_onnx import DIRECTIONS, FUNCTIONS, fill_in_constants

import nplstm
from nplstm.errors import ArgumentError, FileFormatError
from nplstm.io import open_file, read_tensors
from nplstm.io.listing import list_layers
from nplstm.io.onnx.exported_layer import export_metadata
from nplstm.io.weight_formats import single_layer

FILES = Path(__file__).parent / "files" / "onnx"
KEPT = sorted(path.stem for path in FILES.glob("*.onnx"))


# Every attribute, beside onnxruntime


def draw(seed):
    """Weights, what is fed, and attributes: each option in about half of the models."""
    rng = np.random.default_rng(seed)
    I, H, T, B = (int(rng.choice(sizes)) for sizes in ((1, 2, 5), (1, 3, 7), (1, 5), (1, 2, 3)))
    direction = str(rng.choice(DIRECTIONS))
    D = 2 if direction == "bidirectional" else 1
    arrays = weights(D, I, H, seed, bias=rng.random() < 0.7, peephole=rng.random() < 0.5)
    attributes = {"direction": direction}
    if rng.random() < 0.5:
        names = [str(name) for name in rng.choice([n for n in FUNCTIONS if n != "Softplus"], 3)]
        attributes["activations"] = names * D
        for position, constant in ((1, "activation_alpha"), (2, "activation_beta")):
            count = sum(FUNCTIONS[name][position] is not None for name in names)
            if count:
                attributes[constant] = [float(F32(n)) for n in rng.uniform(0.2, 0.8, count)] * D
    if rng.random() < 0.5:
        attributes["clip"] = float(F32(rng.uniform(0.2, 1)))
    if rng.random() < 0.5:
        attributes["input_forget"] = 1
    feed = {"X": rng.normal(0, 0.5, (T, B, I)).astype(F32)}
    if rng.random() < 0.5:
        feed["sequence_lens"] = rng.integers(1, T + 1, B).astype(np.int32)
    if rng.random() < 0.5:
        feed |= {name: rng.normal(0, 0.5, (D, B, H)).astype(F32) for name in ("initial_h", "initial_c")}
    return arrays, feed, attributes


@pytest.mark.parametrize("seed", range(60))
def test_each_attribute_beside_onnxruntime(seed, tmp_path):
    arrays, feed, attributes = draw(seed)
    axes = {name: [None] * array.ndim for name, array in feed.items()}
    outputs = ("Y", "Y_h", "Y_c")
    model = one_node(
        arrays | {k: None for k in feed if k != "X"}, (7, 14, 22)[seed % 3], axes, outputs, **attributes
    )
    expected = run(
        one_node(arrays | {k: None for k in feed if k != "X"}, 14, axes, outputs, **fill_in_constants(attributes)),
        feed,
    )
    lstm = nplstm.load(write(tmp_path, model))
    hx = (feed["initial_h"], feed["initial_c"]) if "initial_h" in feed else None
    output, (h_n, c_n) = lstm(feed["X"], hx, lengths=feed.get("sequence_lens"))
    for actual, name in ((output, "Y"), (h_n, "Y_h"), (c_n, "Y_c")):
        compare(actual, side_by_side(expected[name]) if name == "Y" else expected[name])


def test_the_drawn_models_have_everything():
    models = [draw(seed) for seed in range(60)]
    for name in ("clip", "input_forget", "activations", "activation_alpha", "activation_beta"):
        assert 10 <= sum(name in attributes for _, _, attributes in models) < 60, name
    for name in ("B", "P"):
        assert 10 <= sum(name in arrays for arrays, _, _ in models) < 60
    assert {attributes["direction"] for _, _, attributes in models} == set(DIRECTIONS)


@pytest.mark.parametrize("order", ["oifg", "ifog", "iogf"])
def test_the_comparison_sees_swapped_gates(order, tmp_path, monkeypatch):
    layout = single_layer.LAYER_FORMATS["onnx"]
    monkeypatch.setitem(single_layer.LAYER_FORMATS, "onnx", layout._replace(order=order))
    model, x = one_node(), draw_x()
    with pytest.raises(AssertionError, match="differs by"):
        compare(nplstm.load(write(tmp_path, model))(x)[0], side_by_side(run(model, {"X": x})["Y"]), 1e-3)


def test_the_batch_first(tmp_path):
    """onnxruntime refuses ``layout=1``; the function that is compared with ONNX's own tests does not."""
    arrays, x = weights(2), np.ascontiguousarray(draw_x().swapaxes(0, 1))
    lstm = nplstm.load(write(tmp_path, one_node(arrays, direction="bidirectional", layout=1)))
    assert lstm.batch_first
    Y, Y_h, _ = nplstm.onnx.lstm(x, *arrays.values(), direction="bidirectional", layout=1)
    output, (h_n, _) = lstm(x)
    compare(output, Y.reshape(3, 5, -1))
    compare(h_n, Y_h.swapaxes(0, 1))


def test_what_the_layer_is(tmp_path):
    arrays = weights(2, peephole=True)
    model = one_node(arrays, direction="bidirectional", clip=3.0, activations=["HardSigmoid", "Tanh", "Relu"] * 2)
    (found,) = layers_of(write(tmp_path, model))
    assert (found.name, found.dtype, found.problem, found.cautions, found.parts) == (
        "lstm",
        "float32",
        None,
        (),
        (),
    )
    lstm = nplstm.load(write(tmp_path, model))
    assert repr(lstm) == (
        "LSTM(2, 3, bidirectional=True, cell=CellSpec(peephole='diagonal', "
        "activations=('HardSigmoid', 'Tanh', 'Relu'), clip=3.0))"
    )
    assert found.num_parameters == lstm.num_parameters
    assert repr(nplstm.load(write(tmp_path, one_node(direction="reverse")))) == "LSTM(2, 3, reverse=True)"
    coupled = write(tmp_path, one_node(weights(peephole=True), input_forget=1))
    assert layers_of(coupled)[0].num_parameters == nplstm.load(coupled).num_parameters


def test_nodes_are_chosen_by_name(tmp_path):
    one, other = weights(), weights(seed=1)
    nodes = [lstm_node(one, prefix="a", name="enc/lstm"), lstm_node(other, prefix="b", name="", y="Z")]
    path = write(tmp_path, model_of(nodes, [*tensors(one, "a"), *tensors(other, "b")], outputs=("Y", "Z")))
    with pytest.raises(ArgumentError, match=r"2 LSTMs are in this file(.|\n)*enc/lstm: LSTM\(2, 3\)(.|\n)*lstm:Z"):
        nplstm.load(path)
    assert np.array_equal(nplstm.load(path, layer="lstm:Z").parameters["weight_ih_l0"][:3], other["W"][0, :3])
    assert np.array_equal(nplstm.load(path, layer="lstm").parameters["weight_ih_l0"][:3], one["W"][0, :3])


def test_names_are_told_apart(tmp_path):
    given = weights()
    nodes = [lstm_node(given, name="same", y=f"Y{k}") for k in range(3)]
    path = write(tmp_path, model_of(nodes, tensors(given), outputs=("Y0",)))
    assert [found.name for found in layers_of(path)] == ["same", "same (2)", "same (3)"]


# Element types, and where weights stand


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_weights_of_each_type(dtype, tmp_path):
    arrays = weights(dtype=dtype)
    path = write(tmp_path, one_node(arrays))
    found = layers_of(path)[0]
    assert found.dtype == dtype
    assert {array.dtype for array in found.read().values()} == {np.dtype(dtype)}
    lstm = nplstm.load(path)
    assert lstm.dtype == ("float32" if dtype == "float16" else dtype)
    assert np.array_equal(lstm.parameters["weight_hh_l0"][:3], arrays["R"][0, :3])


def test_bfloat16_is_widened_exactly(tmp_path):
    halves = {name: array.view(np.uint32) & 0xFFFF0000 for name, array in weights().items()}
    arrays = {name: bits.view(F32) for name, bits in halves.items()}
    for raw in (True, False):
        stored = [bfloat16(name, bits, raw) for name, bits in halves.items()]
        path = write(tmp_path, model_of([lstm_node(arrays)], stored))
        assert layers_of(path)[0].dtype == "bfloat16"
        assert np.array_equal(nplstm.load(path).parameters["weight_hh_l0"][:3], arrays["R"][0, :3])
        assert np.array_equal(read_tensors(path)["W"], arrays["W"])


def bfloat16(name, bits, raw):
    tensor = TensorProto(name=name, dims=bits.shape, data_type=TensorProto.BFLOAT16)
    upper = (bits >> 16).astype("<u2")
    if raw:
        tensor.raw_data = upper.tobytes()
    else:
        tensor.int32_data.extend(upper.ravel().tolist())
    return tensor


def test_bfloat16_that_is_moved_is_bfloat16_still(tmp_path):
    """Operators that compute would have to round as the model does."""
    bits = {name: array.view(np.uint32) & 0xFFFF0000 for name, array in weights().items()}
    stored = [bfloat16("w" if name == "W" else name, b, True) for name, b in bits.items()]
    for operator, problem in (("Neg", None), ("Add", "which would have to round to bfloat16")):
        node = helper.make_node(operator, ["w", "w"][: 1 if operator == "Neg" else 2], ["W"])
        path = write(tmp_path, model_of([node, lstm_node(weights())], stored))
        (found,) = layers_of(path)
        assert found.dtype == "bfloat16" or problem in found.problem
    cast = helper.make_node("Cast", ["w"], ["W"], to=1)
    (found,) = layers_of(write(tmp_path, model_of([cast, lstm_node(weights())], stored)))
    assert found.dtype == "bfloat16, float32"


READABLE = [
    "float32",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "bool",
    "float16",
    "float64",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", READABLE)
def test_tensors_of_each_type(dtype, raw, tmp_path):
    array = (np.arange(-6, 6).reshape(3, 4) * (1 + 1j if "complex" in dtype else 1)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensor = helper.make_tensor(
        "t", kind, array.shape, array.tobytes() if raw else array.ravel().tolist(), raw=raw
    )
    assert np.array_equal(numpy_helper.to_array(tensor), array)
    empty = helper.make_tensor("none", kind, (0, 4), b"" if raw else [], raw=raw)
    path = write(tmp_path, one_node(extra=[tensor, empty]))
    with open_file(path) as file:
        assert file.tensors["t"] == ((3, 4), dtype)
        assert file.tensors["W"] == ((1, 12, 2), "float32")
        assert np.array_equal(file.read("t"), array)
        assert file.read("t").dtype == dtype
        file.read("t")[...] = 0  # an array of one's own
        assert np.array_equal(file.read("t"), array)
        assert file.read("none").shape == (0, 4)


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "INT4", "STRING"])
def test_types_that_are_listed_and_refused(kind, tmp_path):
    tensor = TensorProto(name="t", dims=[2], data_type=getattr(TensorProto, kind))
    if kind == "STRING":
        tensor.string_data.extend([b"a", b"b"])
    else:
        tensor.raw_data = b"ab"
    path = write(tmp_path, one_node(extra=[tensor]))
    with open_file(path) as file:
        assert file.tensors["t"] == ((2,), kind)
        with pytest.raises(
            FileFormatError, match=rf"m\.onnx: the tensor 't' is {kind}, no type of numbers that NumPy has"
        ):
            file.read("t")
    assert nplstm.load(path).hidden_size == 3


def test_constants_are_listed_wherever_they_stand(tmp_path):
    then = helper.make_graph(
        [constant("c", value_ints=[1, 2]), helper.make_node("Cast", ["c"], ["Z"], to=1)],
        "then",
        [],
        [helper.make_tensor_value_info("Z", 1, None)],
        tensors({"W": np.ones(3)}),
    )
    otherwise = helper.make_graph([constant("c", value_float=0.5)], "else", [], [], [])
    nodes = [lstm_node(weights()), constant("c", value=numpy_helper.from_array(np.arange(3)))]
    nodes.append(helper.make_node("If", ["go"], ["Z"], name="if", then_branch=then, else_branch=otherwise))
    function = helper.make_function("f", "f", [], ["c"], [constant("c", value_floats=[1, 2])], [])
    path = write(tmp_path, model_of(nodes, tensors(weights()), functions=[function]))
    with open_file(path) as file:
        assert set(file.tensors) == {
            "W",
            "R",
            "B",
            "c",
            "if/then_branch/W",
            "if/then_branch/c",
            "if/else_branch/c",
            "f/c",
        }
        assert np.array_equal(file.read("c"), np.arange(3))
        assert np.array_equal(file.read("if/then_branch/c"), [1, 2])
        assert file.read("if/else_branch/c") == F32(0.5)
        assert file.read("f/c").dtype == F32


def test_weights_in_constants(tmp_path):
    given = weights(bias=False)
    nodes = [constant(key, value=numpy_helper.from_array(array)) for key, array in given.items()]
    path = write(tmp_path, model_of([*nodes, lstm_node(given)]))
    assert np.array_equal(nplstm.load(path).parameters["weight_ih_l0"][:3], given["W"][0, :3])


def test_metadata(tmp_path):
    model = one_node()
    helper.set_model_props(model, {"author": "ä"})
    with open_file(write(tmp_path, model)) as file:
        assert (file.format, file.metadata) == ("ONNX", {"author": "ä"})


# Operators between stored tensors and weights


def computed(operator, inputs, attributes, outputs, opset):
    """What our table makes of it."""
    from nplstm.io.onnx.operators import OPERATORS as TABLE
    from nplstm.io.onnx.operators import OperatorCall

    given = {
        name: numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
        for name, value in attributes.items()
    }
    taken = []
    results = TABLE[operator].compute(OperatorCall(given, outputs, taken.append, opset), *inputs)
    results = [results] if isinstance(results, np.ndarray) else results
    return results, sum(taken)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_beside_onnxs_reference(name):
    from onnx.reference import ReferenceEvaluator

    inputs, attributes, opset, *count = OPERATORS[name]
    operator, outputs = name.split()[0], [f"y{k}" for k in range(count[0] if count else 1)]
    names = [f"x{k}" for k in range(len(inputs))]
    node = helper.make_node(operator, names, outputs, **attributes)
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, inputs, strict=True)
    ]
    shown = [helper.make_tensor_value_info(n, 1, None) for n in outputs]
    model = helper.make_model(
        helper.make_graph([node], "g", values, shown), opset_imports=[helper.make_opsetid("", opset)]
    )
    expected = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    results, taken = computed(operator, inputs, attributes, len(outputs), opset)
    assert len(results) == len(expected)
    for actual, array in zip(results, expected, strict=True):
        assert np.array_equal(actual, array)
        assert actual.dtype == np.asarray(array).dtype
        own = 0 if any(np.shares_memory(actual, given) for given in inputs) else actual.size
        assert operator in {"Shape", "ConstantOfShape"} or taken >= own  # a byte each, at the least


def test_every_operator_is_compared():
    from nplstm.io.onnx.operators import OPERATORS as TABLE

    assert set(TABLE) == {name.split()[0] for name in OPERATORS}


def test_a_chain_of_operators(tmp_path):
    """As exporters write it: torch's weights, cut, put in ONNX's order, and given an axis of directions."""
    W = weights()["W"][0]
    stored = {"torch": np.concatenate([W[:3], W[6:9], W[9:], W[3:6]]), "zero": N([0])}
    nodes = [
        helper.make_node("Split", ["torch"], ["i", "f", "g", "o"], axis=0),
        helper.make_node("Concat", ["i", "o", "f", "g"], ["flat"], axis=0),
        helper.make_node("Unsqueeze", ["flat", "zero"], ["W"]),
    ]
    model, x = chained(nodes, stored), draw_x()
    lstm = nplstm.load(write(tmp_path, model))
    assert np.array_equal(lstm.parameters["weight_ih_l0"], stored["torch"])
    compare(lstm(x)[0], side_by_side(run(model, {"X": x})["Y"]))


def test_a_weight_may_go_by_sizes_that_cancel(tmp_path):
    """H read off a state whose batch is open, as torch writes it unfolded."""
    stored = {
        "w": np.tile(weights()["W"], (1, 4, 1)),
        "two": N([2]),
        "three": N([3]),
        "zero": N(0.0, F32),
        "cut": N([0]),
        "four": N([4]),
    }
    nodes = [
        helper.make_node("Shape", ["X"], ["sizes"], start=1, end=2),
        helper.make_node("Concat", ["two", "sizes", "three"], ["shape"], axis=0),
        helper.make_node("Expand", ["zero", "shape"], ["state"]),
        helper.make_node("Shape", ["state"], ["H"], start=2, end=3),
        helper.make_node("Mul", ["H", "four"], ["4H"]),
        helper.make_node("Slice", ["w", "cut", "4H", "{}"], ["W"]),
    ]
    for axis, fits in (("one", True), ("zeroth", False)):
        nodes[-1].input[3] = axis
        if not fits:  # along the batch: the sizes do not cancel
            nodes[-2].input[0] = "sizes"
        path = write(tmp_path, chained(nodes, stored | {"one": N([1]), "zeroth": N([1])}, opset=15))
        if fits:
            assert np.array_equal(nplstm.load(path).parameters["weight_ih_l0"][:3], stored["w"][0, :3])
        else:
            with pytest.raises(FileFormatError, match="its W depends on the sizes of the model's inputs"):
                nplstm.load(path)


def test_values_that_depend_on_sizes_are_compared_when_they_are_read(tmp_path):
    """The shape stays and the numbers change: an outline does not see it."""
    big = {"w": np.zeros((1, 8 * 800, 2), F32)}
    H = 800
    given = {"W": np.zeros((1, 4 * H, 2), F32), "R": np.zeros((1, 4 * H, H), F32)}
    stored = big | {"axis": N([1]), "rows": N([4 * H])}
    stored["w"] += np.arange(8 * H, dtype=F32)[:, None]
    nodes = [
        helper.make_node("Shape", ["X"], ["first"], start=1, end=2),
        helper.make_node("Add", ["first", "rows"], ["last"]),
        helper.make_node("Slice", ["w", "first", "last", "axis"], ["W"]),
    ]
    path = write(tmp_path, chained(nodes, stored, given, opset=15))
    (found,) = layers_of(path)
    assert found.problem is None
    with pytest.raises(FileFormatError, match=r"lstm: its W depends on the sizes of the model's inputs"):
        found.read()


def test_listing_reads_no_weights(tmp_path, monkeypatch):
    from nplstm.io.onnx import tensor_protos as module

    H = 80
    given = {"W": np.ones((1, 4 * H, 20), F32), "R": np.ones((1, 4 * H, H), F32)}
    stored = {"w": given["W"], "half": N(0.5, F32)}
    nodes = [helper.make_node("Mul", ["w", "half"], ["W"])]
    path = write(tmp_path, chained(nodes, stored, given, inputs={"X": ["T", "B", 20]}))
    read = []
    original = module._read
    monkeypatch.setattr(module, "_read", lambda *a: read.append(a[3]) or original(*a))
    with open_file(path) as file:
        (found,) = file.layers()
        assert set(read) == {"half"}
        assert set(found.read()["weight_ih_l0"].ravel()) == {0.5}
        assert set(read) == {"half", "w", "R"}


# What the layer cannot hold


def test_initial_states_that_the_file_fixes(tmp_path):
    rng = np.random.default_rng(0)
    states = {name: rng.normal(size=(1, 3, 3)).astype(F32) for name in ("initial_h", "initial_c")}
    x, given = draw_x(), weights()
    model = one_node(given | states, inputs={"X": ["T", 3, 2]})
    path = write(tmp_path, model)
    (found,) = layers_of(path)
    assert [caution.split()[1] for caution in found.cautions] == ["initial_h", "initial_c"]
    with pytest.warns(UserWarning, match=r"m\.onnx: 'lstm': its initial_[hc] is fixed in the file and not zero"):
        lstm = nplstm.load(path)
    compare(lstm(x, tuple(states.values()))[0], side_by_side(run(model, {"X": x})["Y"]))


def test_large_initial_states_are_read(tmp_path):
    H, B = 64, 70
    given = {"W": np.zeros((1, 4 * H, 2), F32), "R": np.zeros((1, 4 * H, H), F32)}
    state = np.zeros((1, B, H), F32)
    for last, notes in ((0.0, 0), (1.0, 1)):
        state[0, -1, -1] = last
        path = write(tmp_path, one_node(given | {"initial_h": state}, inputs={"X": ["T", B, 2]}))
        assert len(layers_of(path)[0].cautions) == notes


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_initial_states_made_of_sizes(value, tmp_path):
    nodes = [
        helper.make_node("Shape", ["X"], ["batch"], start=1, end=2),
        helper.make_node("Concat", ["one", "batch", "H"], ["shape"], axis=0),
        helper.make_node("Expand", ["value", "shape"], ["initial_c"]),
        lstm_node(weights() | {"initial_c": None}),
    ]
    stored = weights() | {"one": N([1]), "H": N([3]), "value": N(value, F32)}
    (found,) = layers_of(write(tmp_path, model_of(nodes, tensors(stored), opset=15)))
    assert len(found.cautions) == (value != 0)


def test_states_and_lengths_of_the_run_are_not_noted(tmp_path):
    inputs = {"X": ["T", "B", 2], "initial_h": [1, "B", 3], "sequence_lens": ["B"]}
    path = write(tmp_path, one_node(weights() | {"initial_h": None, "sequence_lens": None}, inputs=inputs))
    assert layers_of(path)[0].cautions == ()


def test_lengths_that_the_file_fixes(tmp_path):
    x, lens = draw_x(), np.array([5, 2, 3], np.int32)
    model = one_node(weights() | {"sequence_lens": lens}, inputs={"X": [5, 3, 2]})
    path = write(tmp_path, model)
    with pytest.warns(
        UserWarning, match=r"'lstm': its sequence_lens are fixed in the file: give the layer lengths="
    ):
        lstm = nplstm.load(path)
    compare(lstm(x, lengths=lens)[0], side_by_side(run(model, {"X": x})["Y"]))
    all_steps = one_node(weights() | {"sequence_lens": np.array([5, 5, 5], np.int32)}, inputs={"X": [5, 3, 2]})
    assert layers_of(write(tmp_path, all_steps))[0].cautions == ()


def test_lengths_that_are_all_steps_by_the_sizes(tmp_path):
    """As tf2onnx writes them: T, as often as there are sequences."""
    nodes = [
        helper.make_node("Shape", ["X"], ["T"], start=0, end=1),
        helper.make_node("Shape", ["X"], ["batch"], start=1, end=2),
        helper.make_node("Expand", ["T", "batch"], ["long"]),
        helper.make_node("Cast", ["long"], ["sequence_lens"], to=6),
        lstm_node(weights() | {"sequence_lens": None}),
    ]
    for first, notes in (("T", 0), ("batch", 1)):
        nodes[2].input[0] = first
        (found,) = layers_of(write(tmp_path, model_of(nodes, tensors(weights()), opset=15)))
        assert len(found.cautions) == notes


def typed_w(kind):
    model = chained([], {})
    model.graph.initializer.append(TensorProto(name="W", dims=[1, 12, 2], data_type=kind, raw_data=b"\0" * 24))
    return model


def sparse_w():
    model = chained([], {})
    values = helper.make_tensor("W", 1, [1], [5.0])
    places = helper.make_tensor("W_indices", 7, [1], [3])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1, 12, 2]))
    return model


PROBLEMS = {
    "directions": (
        lambda: one_node(
            weights(2),
            direction="bidirectional",
            activations=["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Tanh", "Relu"],
        ),
        "its two directions have different activations",
    ),
    "input": (
        lambda: one_node(inputs={"X": ["T", "B", 2], "W": [1, 12, 2]}),
        "its W comes from the input 'W', which is not a constant",
    ),
    "operator": (
        lambda: chained([helper.make_node("Relu", ["w"], ["W"], name="r")], {"w": weights()["W"]}),
        r"its W comes from the operator Relu \('r'\), which is not evaluated",
    ),
    "operator that exporters do not put before weights": (
        lambda: chained([helper.make_node("Flatten", ["w"], ["W"], name="f")], {"w": weights()["W"]}),
        r"its W comes from the operator Flatten \('f'\), which is not evaluated",
    ),
    "behind": (
        lambda: chained(
            [helper.make_node("Neg", ["v"], ["W"]), helper.make_node("Relu", ["w"], ["v"])], {"w": weights()["W"]}
        ),
        r"its W comes from the operator Relu",
    ),
    "data": (
        lambda: chained(
            [helper.make_node("Add", ["w", "X"], ["W"])], {"w": weights()["W"]}, inputs={"X": [1, 1, 2]}
        ),
        "its W comes from the input 'X'",
    ),
    "training": (
        lambda: chained(
            [helper.make_node("Dropout", ["w", "", "yes"], ["W"])], {"w": weights()["W"], "yes": N(True)}
        ),
        "its W comes from Dropout in training mode",
    ),
    "type": (
        lambda: typed_w(TensorProto.FLOAT8E5M2),
        "its W comes from the tensor 'W' of the type FLOAT8E5M2, which is not read",
    ),
    "integers": (lambda: one_node(weights(dtype=np.int32)), "its weights are of int32"),
    "types": (
        lambda: one_node(weights() | {"B": weights()["B"].astype("f8")}),
        "its weights are of float32, float64",
    ),
    "no W": (lambda: one_node(without("W")), "it has no input W"),
    "no R": (lambda: one_node(without("R")), "it has no input R"),
    "no X": (lambda: model_of([lstm_node(weights(), x="")], tensors(weights())), "it has no input X"),
    "R": (
        lambda: one_node(weights() | {"R": np.zeros((1, 11, 3), F32)}),
        r"its R: expected shape \(D=1, 4H=12, H=3\), got \(1, 11, 3\)",
    ),
    "W": (
        lambda: one_node(weights() | {"W": np.zeros((1, 11, 2), F32)}),
        r"its W: expected shape \(D=1, 4H=12, I=2\)",
    ),
    "D": (lambda: one_node(direction="bidirectional"), r"its R: expected shape \(D=2, 4H, H\), got \(1, 12, 3\)"),
    "B": (lambda: one_node(weights() | {"B": np.zeros((1, 12), F32)}), r"its B: expected shape \(D=1, 8H=24\)"),
    "P": (lambda: one_node(weights() | {"P": np.zeros((1, 12), F32)}), r"its P: expected shape \(D=1, 3H=9\)"),
    "empty": (lambda: one_node(weights(H=0), hidden_size=None), "its weights have H=0 and I=2"),
    "hidden_size": (lambda: one_node(hidden_size=4), "its hidden_size is 4, and its R has H=3"),
    "activation": (lambda: one_node(activations=["Sigmoid", "Gelu", "Tanh"]), r"activations\[1\]: .* got 'Gelu'"),
    "activations": (lambda: one_node(activations=[1, 2, 3]), r"activations\[0\]: expected a name, got 1"),
    "alpha": (lambda: one_node(activation_alpha=[0.5]), "activation_alpha: Sigmoid, Tanh, Tanh take 0 of them"),
    "direction": (lambda: one_node(direction="sideways"), "direction: expected one of .* got 'sideways'"),
    "direction number": (lambda: one_node(direction=3), "direction: .* got 3"),
    "clip": (lambda: one_node(clip=-1.0), "clip: expected a number"),
    "clip tensor": (lambda: one_node(clip=numpy_helper.from_array(N(1.0))), "clip: expected a number"),
    "layout": (lambda: one_node(layout=2), "layout: expected 0 or 1, got 2"),
    "attribute": (lambda: one_node(projection=2), "ONNX's LSTM has no attribute 'projection'"),
    "sparse": (sparse_w, "its W comes from the tensor 'W' of the type sparse float32, which is not read"),
    "sparse constant": (
        lambda: chained([constant("W", sparse_value=sparse_w().graph.sparse_initializer[0])], {}),
        "its W comes from the operator Constant .* of the type sparse float32, which is not read",
    ),
    "quantized": (
        lambda: model_of(
            [helper.make_node("DynamicQuantizeLSTM", ["X"], ["Y"], name="q", domain="com.microsoft")]
        ),
        "it is a DynamicQuantizeLSTM of onnxruntime's, whose weights are not read",
    ),
    "left out by a call": (
        lambda: called(["X"], weights()),
        "it has no input W",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_cannot_be_had_is_named(name, tmp_path):
    make, message = PROBLEMS[name]
    path = write(tmp_path, make())
    (found,) = layers_of(path)
    assert found.problem is not None
    with pytest.raises(FileFormatError, match=message):
        nplstm.load(path)
    with pytest.raises(FileFormatError, match=message):
        found.read()
    assert message.split()[0].replace("\\", "") in list_layers([found])


def test_a_sparse_tensor_is_listed_and_refused(tmp_path):
    with open_file(write(tmp_path, sparse_w())) as file:
        assert file.tensors["W"] == ((1, 12, 2), "sparse float32")
        with pytest.raises(FileFormatError, match="'W' is sparse"):
            file.read("W")


# Stacks

APART = {
    "another order": (
        2,
        [
            helper.make_node("Transpose", ["Y1"], ["turned"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["turned", "0 0 -1"], ["Z"]),
        ],
    ),
    "directions exchanged": (
        2,
        [
            helper.make_node("Split", ["Y1"], ["a", "b"], axis=1),
            helper.make_node("Squeeze", ["a", "one"], ["a1"]),
            helper.make_node("Squeeze", ["b", "one"], ["b1"]),
            helper.make_node("Concat", ["b1", "a1"], ["Z"], axis=2),
        ],
    ),
    "steps and batch exchanged": (
        1,
        [
            helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
            helper.make_node("Transpose", ["a"], ["Z"], perm=[1, 0, 2]),
        ],
    ),
    "doubled": (
        1,
        [
            helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
            helper.make_node("Add", ["a", "a"], ["Z"]),
        ],
    ),
    "with the input": (
        1,
        [
            helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
            helper.make_node("Add", ["a", "X3"], ["Z"]),
        ],
    ),
    "through an operator": (
        1,
        [
            helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
            helper.make_node("Relu", ["a"], ["Z"]),
        ],
    ),
    "dropout in training": (
        1,
        [
            helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
            helper.make_node("Dropout", ["a", "", "yes"], ["Z"]),
        ],
    ),
    "reversed": (
        1,
        [
            helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
            helper.make_node("Slice", ["a", "-1", "least", "zero", "-1"], ["Z"]),
        ],
    ),
    "the last step": (
        1,
        [
            helper.make_node("Gather", ["Y1", "-1"], ["a"]),
            helper.make_node("Squeeze", ["a", "one"], ["Z"]),
        ],
    ),
}


def after_squeeze(*nodes):
    """Nodes that make Z of ``a``, the output of the node below as the node above reads it."""
    made = [helper.make_node(operator, inputs, [output], **more) for operator, inputs, output, more in nodes]
    return 1, [helper.make_node("Squeeze", ["Y1", "one"], ["a"]), *made]


APART |= {
    "masked": after_squeeze(("Where", ["mask", "0.0", "a"], "Z", {})),
    "times a mask": after_squeeze(
        ("Cast", ["mask"], "m", dict(to=1)), ("Sub", ["1.0", "m"], "n", {}), ("Mul", ["a", "n"], "Z", {})
    ),
    "plus integers": after_squeeze(("Cast", ["ids"], "i", dict(to=1)), ("Add", ["a", "i"], "Z", {})),
    "where the input is zero": after_squeeze(
        ("Equal", ["X3", "0.0"], "m", {}), ("Where", ["m", "0.0", "a"], "Z", {})
    ),
    "plus zero": after_squeeze(("Add", ["a", "0.0"], "Z", {})),
    "a sum of three": after_squeeze(("Add", ["a", "0.0", "X3"], "Z", {})),
    "to integers and back": after_squeeze(("Cast", ["a"], "i", dict(to=7)), ("Cast", ["i"], "Z", dict(to=1))),
    "to halves and back": after_squeeze(("Cast", ["a"], "i", dict(to=10)), ("Cast", ["i"], "Z", dict(to=1))),
    "the first hundred": after_squeeze(("Slice", ["a", "zero", "100", "zero"], "Z", {})),
    "the last hundred": after_squeeze(("Slice", ["a", "-100", "most", "zero"], "Z", {})),
    "turned from the hundredth on, twice": after_squeeze(
        ("Slice", ["a", "100", "least", "zero", "-1"], "b", {}),
        ("Slice", ["b", "100", "least", "zero", "-1"], "Z", {}),
    ),
    "a part by sizes that round": after_squeeze(
        ("Shape", ["a"], "sizes", dict(start=0, end=1)),
        ("Div", ["sizes", "100"], "none", {}),
        ("Slice", ["a", "none", "most", "zero"], "Z", {}),
    ),
}


@pytest.mark.parametrize("axes", [["T", "B", 2], [5, 3, 2], [5, 1, 2], None])
@pytest.mark.parametrize("name", ARRANGE)
def test_nodes_that_follow_each_other_are_one_layer(name, axes, tmp_path):
    D, between = ARRANGE[name]
    if axes is None and name == "reshape by sizes":
        axes = ["T", "B", 2]  # without, nothing tells that X and Y1 have the same
    model = two_nodes(D, between, inputs={"X": axes})
    path = write(tmp_path, model)
    (found,) = layers_of(path)
    assert (found.name, [part.name for part in found.parts]) == ("below + above", ["below", "above"])
    lstm, x = nplstm.load(path), draw_x(B=1 if axes == [5, 1, 2] else 3)
    assert repr(lstm) == f"LSTM(2, (3, 4), num_layers=2{', bidirectional=True' if D == 2 else ''})"
    assert found.num_parameters == lstm.num_parameters
    compare(lstm(x)[0], side_by_side(run(model, {"X": x})["Y"]))
    assert np.array_equal(
        nplstm.load(path, layer="below").parameters["weight_hh_l0"], lstm.parameters["weight_hh_l0"]
    )
    nplstm.load(path, layer="below + above")


@pytest.mark.parametrize("name", APART)
def test_what_comes_between_keeps_nodes_apart(name, tmp_path):
    D, between = APART[name]
    inputs = {"X": ["T", "B", 2], "X3": ["T", "B", 3], "mask": ["T", "B", 1], "ids": ["T", "B", 1]}
    found = layers_of(write(tmp_path, two_nodes(D, between, (3, 3), inputs=inputs)))
    assert [layer.name for layer in found] == ["below", "above"]


def test_indices_of_a_run_keep_nodes_apart(tmp_path):
    """One sequence, of which any may be gathered; as many steps as there are, cut where a run says."""
    for inputs, *node in (
        ({"X": ["T", 1, 2], "ids": [1]}, "Gather", ["a", "ids"], dict(axis=1)),
        ({"X": ["T", "B", 2], "ids": [1]}, "Slice", ["a", "ids", "most", "zero"], {}),
        ({"X": ["T", "B", 2], "ids": [3]}, "Reshape", ["a", "ids"], {}),
    ):
        operator, given, more = node
        D, between = after_squeeze((operator, given, "Z", more))
        found = layers_of(write(tmp_path, two_nodes(D, between, inputs=inputs)))
        assert [layer.name for layer in found] == ["below", "above"]


def test_sizes_that_fit_one_run_alone(tmp_path):
    """Whatever sizes are tried: one of these is right for the first of them, and none for all."""
    for T in range(1, 8):
        for B in range(1, 8):
            model = two_nodes(1, [helper.make_node("Reshape", ["Y1", "fixed"], ["Z"])])
            model.graph.initializer.extend(tensors({"fixed": N([T, B, 3])}))
            assert len(layers_of(write(tmp_path, model))) == 2


@pytest.mark.parametrize(
    ("opset", "more", "together"), [(6, {}, False), (6, dict(is_test=1), True), (7, dict(ratio=0.3), True)]
)
def test_dropout_of_each_version(opset, more, together, tmp_path):
    D, between = after_squeeze(("Dropout", ["a"], "Z", more))
    path = write(tmp_path, two_nodes(D, between, opset=opset))
    assert len(layers_of(path)) == (1 if together else 2)


def stacked(tmp_path, below, above, *nodes, H=(3, 3), **inputs):
    """Two nodes one after the other, with these inputs beside their weights: lengths, h and c."""
    model = two_nodes(1, ARRANGE["squeeze"][1], H, inputs={"X": ["T", "B", 2], **inputs})
    first, second = (node for node in model.graph.node if node.op_type == "LSTM")
    first.input.extend(below)
    second.input.extend(above)
    first.output.extend(["h", "c"])
    for node in reversed(nodes):
        where = 0 if "h" not in node.input else 1
        model.graph.node.insert(where, node)
    model.graph.initializer.extend(tensors({"ones": np.ones((1, 3, 3), F32), "zeros": np.zeros((1, 3, 3), F32)}))
    return layers_of(write(tmp_path, model))


STATE = [1, "B", 3]


def test_states_of_a_stack(tmp_path):
    given = dict(h0=STATE, c0=STATE, h1=STATE, c1=STATE)
    (found,) = stacked(tmp_path, ["", "h0", "c0"], ["", "h1", "c1"], **given)
    assert found.cautions == ()
    (found,) = stacked(tmp_path, [], ["", "zeros", "zeros"])
    assert found.cautions == ()
    (found,) = stacked(tmp_path, ["", "ones"], ["", "ones"])
    assert found.cautions[0].startswith("below: its initial_h is fixed in the file and not zero")
    cut = [helper.make_node("Split", ["hh"], ["h0", "h1"], axis=0)]
    (found,) = stacked(tmp_path, ["", "h0"], ["", "h1"], *cut, hh=[2, "B", 3])
    assert found.cautions == ()
    computed = [helper.make_node("Relu", ["hh"], ["r"]), helper.make_node("Split", ["r"], ["h0", "h1"], axis=0)]
    (found,) = stacked(tmp_path, ["", "h0"], ["", "h1"], *computed, hh=[2, "B", 3])
    assert [caution[:45] for caution in found.cautions] == [
        f"{name}: its initial_h is computed in the model" for name in ("below", "above")
    ]


def test_states_that_keep_nodes_apart(tmp_path):
    """One has a state and the other none, or it is computed from the node below, or each has another."""
    relu = [helper.make_node("Relu", ["h"], ["r"])]
    apart = [helper.make_node("Relu", ["h0"], ["p"]), helper.make_node("Relu", ["h1"], ["q"])]
    for below, above, nodes in (
        ([], ["", "h0"], []),
        ([], ["", "ones"], []),
        (["", "h0"], [], []),
        ([], ["", "h", "c"], []),
        (["", "h0"], ["", "h"], []),
        (["", "p"], ["", "r"], [*relu, apart[0]]),
        (["", "p"], ["", "q"], apart),
    ):
        found = stacked(tmp_path, below, above, *nodes, h0=STATE, h1=STATE)
        assert [layer.name for layer in found] == ["below", "above"], (below, above)
    (_, second) = stacked(tmp_path, [], ["", "h", "c"])
    assert second.cautions == tuple(
        f"its initial_{s} is computed in the model: give the layer its initial state" for s in "hc"
    )


def test_a_state_that_is_computed_is_warned_of(tmp_path):
    nodes = [helper.make_node("Relu", ["given"], ["initial_h"]), lstm_node(weights() | {"initial_h": None})]
    path = write(tmp_path, model_of(nodes, tensors(weights()), {"X": ["T", "B", 2], "given": STATE}))
    with pytest.warns(
        UserWarning, match=r"m\.onnx: 'lstm': its initial_h is computed in the model: give the layer"
    ):
        nplstm.load(path)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_states_of_a_size_that_is_not_known(value, tmp_path):
    """Behind an operator that is not evaluated not even the batch is known; zero is zero all the same."""
    fill = numpy_helper.from_array(N([value], F32))
    nodes = [
        helper.make_node("Relu", ["X"], ["x"]),
        helper.make_node("Shape", ["x"], ["batch"], start=1, end=2),
        helper.make_node("Concat", ["one", "batch", "H"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["initial_h"], value=fill),
        helper.make_node("Expand", ["value", "shape"], ["initial_c"]),
        lstm_node(weights() | {"initial_h": None, "initial_c": None}, x="x"),
    ]
    stored = weights() | {"one": N([1]), "H": N([3]), "value": N(value, F32)}
    (found,) = layers_of(write(tmp_path, model_of(nodes, tensors(stored), opset=15)))
    assert len(found.cautions) == (2 if value else 0)
    if value:
        assert "fixed in the file" in found.cautions[0]


def test_lengths_that_are_computed(tmp_path):
    """Of which nothing is known: they are warned of, and two of them are not the same."""
    inputs = {"X": ["T", "B", 2], "p": ["B", 9], "q": ["B", 9]}
    sums = [helper.make_node("Relu", [name], [f"{name} lens"]) for name in "pq"]
    between = ARRANGE["squeeze"][1]
    for second, count in (("p lens", 1), ("q lens", 2)):
        model = two_nodes(1, [*sums, *between], inputs=inputs)
        for node, lens in zip(
            [n for n in model.graph.node if n.op_type == "LSTM"], ("p lens", second), strict=True
        ):
            node.input.append(lens)
        found = layers_of(write(tmp_path, model))
        assert len(found) == count
        assert "its sequence_lens are computed in the model: give the layer lengths=" in found[0].cautions[0]


def test_lengths_of_another_type_are_given_still(tmp_path):
    nodes = [
        helper.make_node("Cast", ["ids"], ["sequence_lens"], to=6),
        lstm_node(weights() | {"sequence_lens": None}),
    ]
    path = write(tmp_path, model_of(nodes, tensors(weights()), {"X": ["T", "B", 2], "ids": ["B"]}))
    assert layers_of(path)[0].cautions == ()


DIFFERENT = {
    "direction": dict(direction="reverse"),
    "cell": dict(clip=1.0),
    "activations": dict(activations=["HardSigmoid", "Tanh", "Tanh"]),
    "coupled": dict(input_forget=1),
    "layout": dict(layout=1),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_nodes_of_different_kinds_stay_apart(name, tmp_path):
    between = [helper.make_node("Squeeze", ["Y1", "one"], ["Z"])]
    path = write(tmp_path, two_nodes(1, between, above=DIFFERENT[name]))
    assert [layer.name for layer in layers_of(path)] == ["below", "above"]
    if name != "layout":
        path = write(tmp_path, two_nodes(1, between, above=DIFFERENT[name], below=DIFFERENT[name]))
        assert [layer.name for layer in layers_of(path)] == ["below + above"]


def test_a_stack_with_the_batch_first(tmp_path):
    between = [
        helper.make_node("Reshape", ["Y1", "0 0 -1"], ["Z"]),
    ]
    path = write(tmp_path, two_nodes(2, between, below=dict(layout=1), above=dict(layout=1)))
    assert repr(nplstm.load(path)) == "LSTM(2, (3, 4), num_layers=2, batch_first=True, bidirectional=True)"


def test_lengths_of_a_stack_are_the_same(tmp_path):
    between = [helper.make_node("Squeeze", ["Y1", "one"], ["Z"]), helper.make_node("Identity", ["lens"], ["same"])]
    x, lens = draw_x(), np.array([5, 2, 3], np.int32)
    for below, above, together in (("lens", "same", True), ("lens", "", False), ("lens", "other", False)):
        model = two_nodes(1, between, inputs={"X": ["T", "B", 2], "lens": ["B"], "sequence_lens": ["B"]})
        for node, given in zip([n for n in model.graph.node if n.op_type == "LSTM"], (below, above), strict=True):
            node.input.append("sequence_lens" if given == "other" else given)
        path = write(tmp_path, model)
        assert len(layers_of(path)) == (1 if together else 2)
        if together:
            expected = run(model, {"X": x, "lens": lens, "sequence_lens": lens})["Y"]
            compare(nplstm.load(path)(x, lengths=lens)[0], side_by_side(expected))


def test_nodes_that_branch_stay_apart(tmp_path):
    model = two_nodes(1, [helper.make_node("Squeeze", ["Y1", "one"], ["Z"])])
    third = type(model.graph.node[-1]).FromString(model.graph.node[-1].SerializeToString())
    third.name, third.output[0] = "beside", "Y3"
    model.graph.node.append(third)
    assert [layer.name for layer in layers_of(write(tmp_path, model))] == ["below", "above", "beside"]


def test_a_stack_behind_what_is_not_evaluated(tmp_path):
    """The size of X is not known; the nodes follow each other all the same."""
    model = two_nodes(2, ARRANGE["reshape"][1])
    model.graph.node[0].input[0] = "conv"
    model.graph.node.insert(0, helper.make_node("Relu", ["X"], ["conv"]))
    assert [layer.name for layer in layers_of(write(tmp_path, model))] == ["below + above"]


def test_a_long_chain_is_no_recursion(tmp_path):
    count = 3000
    nodes = [helper.make_node("Identity", [f"v{k}"], [f"v{k + 1}"]) for k in range(count)]
    model = chained(nodes, {"v0": weights()["W"]})
    model.graph.node[-1].input[1] = f"v{count}"
    assert nplstm.load(write(tmp_path, model)).hidden_size == 3


def test_the_check_of_stacks_sees_a_wrong_expectation(tmp_path, monkeypatch):
    """Broken on purpose: an output that is turned counts as one that is not."""
    from nplstm.io.onnx import run_time_probes

    monkeypatch.setattr(run_time_probes.np, "array_equal", lambda one, other: one.shape == other.shape)
    D, between = APART["directions exchanged"]
    model, x = two_nodes(D, between), draw_x()
    path = write(tmp_path, model)
    assert [layer.name for layer in layers_of(path)] == ["below + above"]
    with pytest.raises(AssertionError, match="differs by"):
        compare(nplstm.load(path)(x)[0], side_by_side(run(model, {"X": x})["Y"]), 1e-3)


# What else is in the file


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ("GRU", "has 1 tensors: W, and nodes of the operator GRU, which are not LSTMs"),
        ("RNN", "and nodes of the operator RNN"),
        ("Scan", "and a Scan: an LSTM that is computed step by step in one has no node LSTM"),
        ("MatMul", "; an LSTM whose steps were unrolled into other operators has no node LSTM"),
    ],
)
def test_what_is_there_instead(operator, message, tmp_path):
    model = model_of([helper.make_node(operator, ["X", "W"], ["Y"])], tensors({"W": np.ones(2, F32)}))
    with pytest.raises(FileFormatError, match=f"no LSTM is in this ONNX file; it .*{message}"):
        nplstm.load(write(tmp_path, model))


# Graphs in graphs, and functions


def test_an_lstm_in_a_branch(tmp_path):
    """One weight is its own, two are those of the graph around it."""
    model, x = if_model(weights()), draw_x()
    path = write(tmp_path, model)
    assert [layer.name for layer in layers_of(path)] == ["choose/then_branch/lstm"]
    compare(nplstm.load(path)(x)[0], side_by_side(run(model, {"X": x, "go": np.array(True)})["Y"]))


def test_an_lstm_in_a_loop(tmp_path):
    model, x = loop_model(weights(I=3)), draw_x(I=3)
    path = write(tmp_path, model)
    assert [layer.name for layer in layers_of(path)] == ["loop:Y/body/lstm:Y4"]
    lstm = nplstm.load(path)
    twice = lstm(lstm(x)[0])[0]
    compare(twice, run(model, {"X": x, "count": np.array(2)})["Y"])


def test_bodies_keep_nodes_apart(tmp_path):
    """A branch may not be taken, and a loop runs any number of times."""
    one, other = weights(), weights(I=3, seed=1)
    for operator, given, names in (
        ("If", ["go"], ("then_branch", "else_branch")),
        ("Loop", ["count", ""], ("body",)),
    ):
        inside = lstm_node(other, x="Z", y="inner", name="inside", prefix="b")
        inputs = [] if operator == "If" else [("k", 7, []), ("more", 9, [])]
        outputs = [helper.make_tensor_value_info("inner", 1, None)]
        step = [helper.make_node("Identity", ["more"], ["again"])] if inputs else []
        outputs = [helper.make_tensor_value_info("again", 9, [])] * len(step) + outputs
        values = [helper.make_tensor_value_info(*value) for value in inputs]
        body = helper.make_graph([inside, *step], "body", values, outputs)
        bodies = {names[0]: body}
        if operator == "If":
            same = helper.make_node("Identity", ["Y1"], ["same"])
            bodies["else_branch"] = helper.make_graph(
                [same], "else", [], [helper.make_tensor_value_info("same", 1, None)]
            )
        nodes = [
            lstm_node(one, y="Y1", prefix="a", name="below"),
            helper.make_node("Squeeze", ["Y1", "one"], ["Z"]),
            helper.make_node(operator, given, ["Y"], name="within", **bodies),
        ]
        stored = [*tensors(one, "a"), *tensors(other, "b"), *tensors({"one": N([1])})]
        path = write(tmp_path, model_of(nodes, stored, {"X": ["T", "B", 2], "go": [], "count": []}))
        assert [layer.name for layer in layers_of(path)] == ["below", f"within/{names[0]}/inside"]


def test_states_that_a_loop_carries_are_computed(tmp_path):
    model = loop_model(weights(I=3))
    model.graph.node[0].attribute[0].g.node[0].input.extend(["", "carried"])
    (found,) = layers_of(write(tmp_path, model))
    assert found.cautions == ("its initial_h is computed in the model: give the layer its initial state",)


def test_weights_that_a_loop_carries_are_no_constants(tmp_path):
    model = loop_model(weights(I=3))
    body = model.graph.node[0].attribute[0].g
    body.node[0].input[1] = "carried"
    (found,) = layers_of(write(tmp_path, model))
    assert found.problem == "its W comes from the input 'carried', which is not a constant"


def test_an_lstm_in_a_scan(tmp_path):
    given = weights()
    body = helper.make_graph(
        [helper.make_node("Unsqueeze", ["slice", "zero"], ["x3"]), lstm_node(given, x="x3", y="Y4")],
        "body",
        [helper.make_tensor_value_info("slice", 1, None)],
        [helper.make_tensor_value_info("Y4", 1, None)],
    )
    node = helper.make_node("Scan", ["X"], ["Y"], name="scan", num_scan_inputs=1, body=body)
    model, x = model_of([node], tensors(given | {"zero": N([0])})), draw_x()
    path = write(tmp_path, model)
    assert [layer.name for layer in layers_of(path)] == ["scan/body/lstm"]
    lstm, expected = nplstm.load(path), run(model, {"X": x})["Y"]
    for t in range(5):
        compare(lstm(x[t : t + 1])[0], side_by_side(expected[t]))


def test_an_lstm_in_a_function(tmp_path):
    """Its weights are given by the call; each call is a layer."""
    model, x = called(["X", "w"], weights()), draw_x()
    model.graph.node.append(type(model.graph.node[0]).FromString(model.graph.node[0].SerializeToString()))
    model.graph.node[1].name, model.graph.node[1].output[0], model.graph.node[1].input[1] = "", "Y2", "neg"
    model.graph.node.insert(0, helper.make_node("Neg", ["w"], ["neg"]))
    path = write(tmp_path, model)
    assert [layer.name for layer in layers_of(path)] == ["call/inner", "layer:Y2/inner"]
    lstm, other = nplstm.load(path, layer="call/inner"), nplstm.load(path, layer="layer:Y2/inner")
    compare(lstm(x)[0], side_by_side(run(model, {"X": x})["Y"]))
    assert np.array_equal(lstm.parameters["weight_ih_l0"], -other.parameters["weight_ih_l0"])


def test_attributes_that_a_call_gives(tmp_path):
    for given, default, expected in (("reverse", None, True), (None, None, False), (None, "reverse", True)):
        model = called(["X", "w"], weights(), **({"direction": given} if given else {}))
        function = model.functions[0]
        inner = function.node[-1]
        inner.attribute.append(onnx.AttributeProto(name="direction", type=3, ref_attr_name="direction"))
        if default:
            del function.attribute[:]
            function.attribute_proto.append(helper.make_attribute("direction", default))
        path = write(tmp_path, model)
        assert nplstm.load(path).reverse == expected
        x = draw_x()
        compare(nplstm.load(path)(x)[0], side_by_side(run(model, {"X": x})["Y"]))


def test_a_weight_made_in_a_function(tmp_path):
    function = helper.make_function(
        "local",
        "double",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 14)],
    )
    nodes = [helper.make_node("double", ["w"], ["W"], domain="local"), lstm_node(weights())]
    stored = {"w": weights()["W"] / 2, **without("W")}
    path = write(tmp_path, model_of(nodes, tensors(stored), functions=[function]))
    assert np.array_equal(nplstm.load(path).parameters["weight_ih_l0"][:3], weights()["W"][0, :3])


def test_functions_of_functions(tmp_path):
    """A stack whose layers are calls, in a function that is called in turn."""
    one, other = weights(I=3), weights(I=3, seed=1)
    imports = [helper.make_opsetid("", 14), helper.make_opsetid("local", 1)]
    layer = helper.make_function(
        "local",
        "layer",
        ["x", "W", "R"],
        ["z"],
        [
            helper.make_node("LSTM", ["x", "W", "R"], ["y"], name="lstm", hidden_size=3),
            constant("one", value_ints=[1]),
            helper.make_node("Squeeze", ["y", "one"], ["z"]),
        ],
        imports,
    )
    net = helper.make_function(
        "local",
        "net",
        ["x", "Wa", "Ra", "Wb", "Rb"],
        ["z"],
        [
            helper.make_node("layer", ["x", "Wa", "Ra"], ["y"], name="first", domain="local"),
            helper.make_node("layer", ["y", "Wb", "Rb"], ["z"], name="second", domain="local"),
        ],
        imports,
    )
    node = helper.make_node("net", ["X", "aW", "aR", "bW", "bR"], ["Y"], name="net", domain="local")
    stored = [*tensors(one, "a"), *tensors(other, "b")]
    model, x = model_of([node], stored, {"X": ["T", "B", 3]}, functions=[layer, net]), draw_x(I=3)
    path = write(tmp_path, model)
    assert [layer.name for layer in layers_of(path)] == ["net/first/lstm + net/second/lstm"]
    compare(nplstm.load(path)(x)[0], run(model, {"X": x})["Y"])


# What the library itself writes


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(hidden_size=(3, 4, 5), num_layers=3, dropout=0.2, batch_first=True),
        dict(bidirectional=True, num_layers=2, merge="mean", bias=False),
        dict(bidirectional=True, num_layers=2, stacking="independent"),
        dict(reverse=True, num_layers=2, residual=True, output_order="processing"),
        dict(cell=nplstm.CellSpec(peephole="diagonal", clip=0.3, init_hh="orthogonal", weight_dropout=0.1)),
        dict(cell=nplstm.CellSpec(coupled_input_forget=True, activations=("hard_sigmoid", ("elu", 0.3), "relu"))),
        dict(dtype="float64", cell=nplstm.CellSpec(forget_bias=1.0)),
    ],
)
def test_a_layer_comes_back_with_all_its_options(options, tmp_path):
    lstm = nplstm.LSTM(2, **({"hidden_size": 3} | options), rng=0)
    nplstm.save(lstm, tmp_path / "m.onnx")
    loaded = nplstm.load(tmp_path / "m.onnx")
    assert repr(loaded) == repr(lstm)
    assert {n: a.tobytes() for n, a in loaded.parameters.items()} == {
        n: a.tobytes() for n, a in lstm.parameters.items()
    }
    (found,) = layers_of(tmp_path / "m.onnx")
    assert found.num_parameters == lstm.num_parameters
    part = found.parts[0]
    assert nplstm.load(tmp_path / "m.onnx", layer=part.name).hidden_size == part.options["hidden_size"]


def test_a_cell_comes_back(tmp_path):
    cell = nplstm.LSTMCell(2, 3, rng=0)
    nplstm.save(cell, tmp_path / "m.onnx")
    loaded = nplstm.load(tmp_path / "m.onnx")
    assert repr(loaded) == repr(cell)
    assert all(np.array_equal(loaded.parameters[name], array) for name, array in cell.parameters.items())


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        "{}",
        '{"kind": "LSTM", "cell": 3}',
        '{"kind": "LSTM", "cell": {"clip": 3}}',
        '{"kind": "LSTM", "reverse": true}',
        '{"kind": "LSTM", "cell": {"activations": ["Relu", "Tanh", "Tanh"]}}',
    ],
)
def test_options_that_are_not_the_graphs_do_not_count(text, tmp_path):
    nplstm.save(nplstm.LSTM(2, 3, rng=0), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    helper.set_model_props(model, {"nplstm": text})
    if text == "{}":
        model.graph.node[0].name = "other"
    (found,) = layers_of(write(tmp_path, model))
    assert found.name
    assert repr(nplstm.load(tmp_path / "m.onnx")) == "LSTM(2, 3)"


@pytest.mark.parametrize(
    "text",
    ['{"kind": "LSTM", "cell": 3}', '{"kind": "LSTMCell", "bidirectional": true}', '{"hidden_size": [1]}', "{}"],
)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_options_that_claim_to_be_the_graphs(text, bidirectional, tmp_path):
    """Anyone can compute a digest: what it goes with need not be a layer's options."""
    nplstm.save(nplstm.LSTM(2, 3, bidirectional=bidirectional, rng=0), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    helper.set_model_props(model, export_metadata(model, {"nplstm": text}))
    path = write(tmp_path, model)
    list_layers(layers_of(path))
    with contextlib.suppress(FileFormatError):
        nplstm.load(path)


def between_relu(graph):
    second = next(node for node in graph.node if node.name == "lstm_l1")
    read, second.input[0] = second.input[0], "rectified"
    graph.node.insert(list(graph.node).index(second), helper.make_node("Relu", [read], ["rectified"]))


def exchange(graph):
    first, second = (node for node in graph.node if node.op_type == "LSTM")
    first.name, second.name = second.name, first.name


def other_constant(graph):
    """The sum of the directions is no mean any more."""
    tensor = next(t for t in graph.initializer if t.name == "number_0.5")
    tensor.CopyFrom(numpy_helper.from_array(N(1.0, F32), tensor.name))


def other_wiring(graph):
    second = next(node for node in graph.node if node.name == "lstm_l1")
    second.input[0] = "input"


@pytest.mark.parametrize("change", [between_relu, exchange, other_constant, other_wiring])
def test_a_graph_that_was_changed_is_not_what_its_options_say(change, tmp_path):
    lstm = nplstm.LSTM(6, 3, 2, bidirectional=True, merge="mean", dropout=0.1, rng=0)
    nplstm.save(lstm, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert layers_of(write(tmp_path, model))[0].options["merge"] == "mean"
    change(model.graph)
    found = layers_of(write(tmp_path, model))
    assert not any("merge" in layer.options for layer in found)
    assert len(found) == (2 if change in (between_relu, other_wiring) else 1)


def test_weights_may_be_others(tmp_path):
    """A model that was trained further is the same layer."""
    nplstm.save(
        nplstm.LSTM(2, 3, dropout=0.0, merge="concat", bidirectional=True, residual=False, rng=0),
        tmp_path / "m.onnx",
    )
    model = onnx.load(tmp_path / "m.onnx")
    W = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(W + 1, "W_l0"))
    path = write(tmp_path, model)
    assert layers_of(path)[0].name == ""
    assert np.array_equal(nplstm.load(path).parameters["weight_ih_l0"][:3], W[0, :3] + 1)


def test_options_that_do_not_fit_the_weights(tmp_path):
    nplstm.save(nplstm.LSTM(2, 3, rng=0), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    helper.set_model_props(
        model, export_metadata(model, {"nplstm": '{"kind": "LSTM", "input_size": 2, "hidden_size": 4}'})
    )
    with pytest.raises(FileFormatError, match="its weights and options do not make a layer: weight_ih_l0"):
        nplstm.load(write(tmp_path, model))


# Files of the frameworks


@pytest.mark.parametrize("name", KEPT)
def test_files_of_the_frameworks(name):
    """The numbers that torch and Keras computed when they wrote the file."""
    kept = np.load(FILES / f"{name}.npz", allow_pickle=False)
    check_file(FILES / f"{name}.onnx", dict(kept))


def check_file(path, kept):
    lstm = nplstm.load(path)
    assert repr(lstm) == str(kept["layer"])
    turn = (lambda array: array.swapaxes(0, 1)) if kept["batch_first"] else (lambda array: array)
    output, (h_n, c_n) = lstm(np.ascontiguousarray(turn(kept["x"])), lengths=kept.get("lengths"))
    compare(turn(output), kept["output"])
    if "h_n" in kept:
        compare(h_n, kept["h_n"])
        compare(c_n, kept["c_n"])


def test_the_kept_files_are_all_there():
    assert len([name for name in KEPT if name.startswith("torch")]) >= 10
    assert len([name for name in KEPT if name.startswith("keras")]) >= 3
    for name in KEPT:
        assert (FILES / f"{name}.onnx").stat().st_size < 30_000


def test_the_check_of_files_sees_other_weights():
    kept = dict(np.load(FILES / "torch_one.npz"))
    with pytest.raises(AssertionError, match="differs by"):
        check_file(FILES / "torch_one.onnx", kept | {"x": kept["x"] + 0.01})


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("options", [dict(), dict(bidirectional=True, num_layers=2, bias=False)])
def test_torch_writes_anew(options, dynamo, folded, tmp_path, torch_reference):
    import logging

    import torch
    from make_files_onnx import export, torch_model, written

    pytest.importorskip("onnxscript", reason="torch exports with onnxscript")
    torch.manual_seed(0)
    given = dict(input_size=2, hidden_size=3, **options)
    model, x, path = torch_model(torch, given, with_lengths=False), torch.randn(5, 3, 2), tmp_path / "m.onnx"
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        export(torch, model, (x,), dynamo=dynamo, folded=folded, batch_first=False, path=str(path))
        output, h_n, c_n = (array.numpy() for array in model(x))
    logging.disable(logging.NOTSET)
    usual = {
        k: given[k] for k in ("input_size", "hidden_size", "num_layers", "bias", "bidirectional") if k in given
    }
    kept = dict(x=x.numpy(), output=output, h_n=h_n, c_n=c_n, batch_first=False, layer=written(usual))
    check_file(path, kept)
