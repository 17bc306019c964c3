"""Layers as ONNX models: what onnxruntime computes of them, and a plain loop in float64, beside the layers.

Needed, and skipped without: the packages onnx and onnxruntime.
"""

import errno
import importlib
import json
import os

import numpy as np
import pytest
from cases import CELLS, LAYERS, H, I
from conftest import require
from test_onnx import INPUTS, plain_loop
from variants import Variant

import nplstm
from nplstm.backends import get_backend
from nplstm.io.onnx import export as export_module
from nplstm.io.onnx import graph_builder, layer_graph, node_writer
from nplstm.io.onnx.export import export
from nplstm.io.weight_formats import single_layer

NUMPY = get_backend("numpy")

# What each row asks of ONNX that it does not have, written down once more.
BEYOND_CELLS = {
    "peephole full": ["peephole='full'"],
    "coupled full": ["peephole='full'"],
    "cell clip": ["cell_clip=0.3"],
    "layer norm output": ["layer_norm='cell_output'"],
    "layer norm state": ["layer_norm='cell_state'"],
    "zoneout h": ["zoneout_h=0.4"],
    "zoneout c": ["zoneout_c=0.3"],
    "everything": [
        "layer_norm='cell_output'", "cell_clip=1.5", "zoneout_h=0.2", "zoneout_c=0.3", "peephole='full'",
    ],
    "everything coupled": ["layer_norm='cell_state'", "cell_clip=0.9", "zoneout_h=0.1", "zoneout_c=0.3"],
}  # fmt: skip
BEYOND_LAYERS = {
    "projection": ["proj_size=2"],
    "mean": ["proj_size=2"],
    "transform": ["hidden_transform=Projection"],
    "transform projected": ["proj_size=2", "hidden_transform=Projection"],
    "context": ["hidden_transform=ContextConcatenation"],
    "context by sequence": ["hidden_transform=ContextConcatenation"],
    "context by step": ["hidden_transform=ContextConcatenation"],
    "context by step packed": ["hidden_transform=ContextConcatenation"],
    "attention": ["hidden_transform=AttentionReadout"],
    "attention shared": ["hidden_transform=AttentionReadout"],
    "state": ["hidden_transform="],
    "state masked": ["hidden_transform="],
    "recurrent input given": ["hidden_transform=Projection"],
    "recurrent input given backwards": ["hidden_transform="],
}
INSIDE_CELLS = [name for name in CELLS if name not in BEYOND_CELLS]
INSIDE_LAYERS = [name for name in LAYERS if name not in BEYOND_LAYERS]

# How a layer is called (its ``say``) is no part of a model: of rows that differ in that alone, one is enough. What
# the table has no row for, since its mean has a projection, or in no such company, is added.
DISTINCT = list({repr(LAYERS[name].options): name for name in INSIDE_LAYERS}.values())
MORE = {
    "mean unprojected": dict(bidirectional=True, merge="mean"),
    "residual from the first": dict(num_layers=2, residual=(0, 1), input_size=2 * H, bidirectional=True),
    "independent, residual from the first": dict(
        num_layers=2, residual=(0,), input_size=H, bidirectional=True, stacking="independent", merge="sum"
    ),
    "independent sizes": dict(
        num_layers=2, hidden_size=(3, H), bidirectional=True, stacking="independent", merge="product"
    ),
    "residual, merged": dict(num_layers=2, residual=True, bidirectional=True, merge="none", batch_first=True),
    "reverse, deep": dict(num_layers=2, reverse=True, residual=True, bias=False),
}
SIZES = [(7, 3, [4, 0, 7]), (4, 2, [3, 1])]
"""T, B and lengths: a model takes any."""


@pytest.fixture(scope="module")
def onnx():
    try:
        return importlib.import_module("onnx")
    except ImportError:
        require("onnx", "onnx is not installed: nothing is written without it")


@pytest.fixture(scope="module")
def onnxruntime(onnx):
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        require("onnxruntime", "onnxruntime is not installed: the live comparison needs it")


@pytest.fixture(scope="module")
def runtime(onnxruntime):
    """A function that runs a model in a file on onnxruntime's CPU kernels, and returns its outputs by name."""

    def load(path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what it refuses, it says in an exception too
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))

    return load


@pytest.fixture(scope="module")
def loop(onnx):
    """The same with ONNX's reference, and with ``plain_loop`` for its LSTM, which ignores most attributes."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class LSTM(OpRun):
        def _run(self, *arrays, **attributes):
            inputs = {name: array for name, array in zip(INPUTS, arrays, strict=False) if array is not None}
            given = {name: value for name, value in attributes.items() if value is not None}
            return tuple(array.astype(arrays[0].dtype) for array in plain_loop(inputs, given))

    class ReverseSequence(OpRun):
        def _run(self, x, lengths, batch_axis, time_axis):
            assert (batch_axis, time_axis) == (1, 0)
            assert (lengths >= 1).all(), "at length 0 onnxruntime 1.17 to 1.24 leaves the output unwritten"
            turned = x.copy()
            for b, length in enumerate(lengths):
                turned[:length, b] = x[:length, b][::-1]
            return (turned,)

    def load(path):
        evaluator = ReferenceEvaluator(str(path), new_ops=[LSTM, ReverseSequence])
        return lambda inputs: dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))

    return load


def make(cell, layer, dtype="float32"):
    """The layer of two rows of the tables, with weights that differ."""
    if layer in LAYERS:
        variant = Variant(cell, layer, NUMPY, dtype)
        variant.lstm.load_state_dict({name: variant.inputs[name] for name in variant.lstm.parameters})
        return variant.lstm
    options = dict(MORE[layer])
    sizes = options.pop("input_size", I), options.pop("hidden_size", H)
    lstm = nplstm.LSTM(*sizes, **options, cell=nplstm.CellSpec(**CELLS[cell]), dtype=dtype, rng=0)
    rng = np.random.default_rng(1)
    lstm.load_state_dict(
        {name: 0.5 * rng.standard_normal(a.shape).astype(dtype) for name, a in lstm.parameters.items()}
    )
    return lstm


def draw(lstm, T, B, lengths=None):
    """An input and initial states, as the layer takes them. Past the sequences' ends there is no number at all."""
    rng = np.random.default_rng([T, B])
    x = rng.standard_normal((T, B, lstm.input_size))
    for b, length in enumerate(lengths or []):
        x[length:, b] = np.nan
    D = 2 if lstm.bidirectional else 1

    def states():
        if isinstance(lstm.hidden_size, tuple):
            return tuple(rng.standard_normal((D, B, size)).astype(lstm.dtype) for size in lstm.hidden_size)
        return rng.standard_normal((lstm.num_layers * D, B, lstm.hidden_size)).astype(lstm.dtype)

    return (x.swapaxes(0, 1) if lstm.batch_first else x).astype(lstm.dtype), (states(), states())


def named(name, states):
    """States by the names that the model has for them."""
    return {f"{name}_l{k}": a for k, a in enumerate(states)} if isinstance(states, tuple) else {name: states}


def expected_of(lstm, x, hx, lengths):
    """What the layer computes, by the names of the model's outputs."""
    output, (h_n, c_n) = lstm(x, hx, lengths=lengths)
    outputs = dict(
        zip(("output", "output_reverse"), output if isinstance(output, tuple) else [output], strict=False)
    )
    return outputs | named("h_n", h_n) | named("c_n", c_n)


def compare(actual, expected, tolerance):
    """Differences are relative to the largest magnitude, or to 1: an activation is right to a rounding of 1."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].shape == array.shape, f"{name}: shape {actual[name].shape}, expected {array.shape}"
        assert actual[name].dtype == array.dtype, f"{name}: {actual[name].dtype}, expected {array.dtype}"
        difference = np.abs(actual[name] - array).max() / max(1, np.abs(array).max())
        assert difference <= tolerance, f"{name}: differs by {difference:.3g}"


def check(lstm, path, load, *, states, lengths, tolerance, **options):
    """Export a layer, and compare what the model computes with what the layer does, at two sizes."""
    export(lstm, path, states=states, lengths=lengths, **options)
    run = load(path)
    for T, B, ends in SIZES:
        x, hx = draw(lstm, T, B, ends if lengths else None)
        inputs = {"input": x}
        if states:
            inputs |= named("h_0", hx[0]) | named("c_0", hx[1])
        if lengths:
            inputs["lengths"] = np.array(ends, np.int32)
        expected = expected_of(lstm, x, hx if states else None, ends if lengths else None)
        compare(run(inputs), expected, tolerance)


@pytest.mark.parametrize("layer", [*DISTINCT, *MORE])
@pytest.mark.parametrize("cell", INSIDE_CELLS)
def test_onnxruntime_computes_what_the_layer_does(cell, layer, runtime, tmp_path):
    lstm = make(cell, layer)
    for given in (False, True):
        # float32 rounds at 6e-8, over 7 steps and up to three layers
        check(lstm, tmp_path / "m.onnx", runtime, states=given, lengths=given, tolerance=1e-6)


@pytest.mark.parametrize(("states", "lengths"), [(False, True), (True, False)])
@pytest.mark.parametrize("layer", [*DISTINCT, *MORE])
def test_states_and_lengths_alone(layer, states, lengths, runtime, tmp_path):
    check(
        make("peephole diagonal", layer),
        tmp_path / "m.onnx",
        runtime,
        states=states,
        lengths=lengths,
        tolerance=1e-6,
    )


def holds(spec):
    """Whether ONNX's attributes, which are float32, hold the constants of a cell as they are."""
    constants = [c for a in spec.activations for c in (a.alpha, a.beta)] + [spec.clip]
    return all(c is None or c == float(np.float32(c)) for c in constants)


@pytest.mark.parametrize("layer", [*DISTINCT, *MORE])
@pytest.mark.parametrize("cell", INSIDE_CELLS)
def test_the_model_in_float64(cell, layer, loop, tmp_path):
    lstm = make(cell, layer, "float64")
    tolerance = 1e-12 if holds(lstm.cell) else 1e-6  # float64 rounds at 1e-16
    check(lstm, tmp_path / "m.onnx", loop, states=True, lengths=True, tolerance=tolerance)


def test_the_tables_are_whole():
    assert set(BEYOND_CELLS) < set(CELLS)
    assert set(BEYOND_LAYERS) < set(LAYERS)
    assert {repr(LAYERS[name].options) for name in INSIDE_LAYERS} == {
        repr(LAYERS[name].options) for name in DISTINCT
    }
    assert sum(holds(nplstm.CellSpec(**CELLS[name])) for name in INSIDE_CELLS) == len(INSIDE_CELLS) - 6


BEYOND = [(c, l) for c in CELLS for l in LAYERS if c in BEYOND_CELLS or l in BEYOND_LAYERS]


@pytest.mark.parametrize(("cell", "layer"), BEYOND)
def test_what_onnx_cannot_say_is_named(cell, layer, tmp_path):
    lstm = Variant(cell, layer, NUMPY).lstm
    with pytest.raises(nplstm.ArgumentError, match="layer: ONNX's LSTM operator does not have ") as caught:
        export(lstm, tmp_path / "m.onnx")
    wanted = BEYOND_CELLS.get(cell, []) + BEYOND_LAYERS.get(layer, [])
    if LAYERS[layer].recurrent_given:
        wanted = [option for option in wanted if "zoneout_h" not in option]  # which such a layer cannot have
    assert all(option in str(caught.value) for option in wanted)
    assert str(caught.value).count("=") == len(wanted) + str(caught.value).count("scale=")
    assert not list(tmp_path.iterdir())


def test_a_recurrent_size_is_named(onnx, tmp_path):
    for layer in (nplstm.LSTM(2, 3, recurrent_size=4), nplstm.LSTMCell(2, 3, recurrent_size=4)):
        with pytest.raises(nplstm.ArgumentError, match=r"does not have recurrent_size=4$"):
            export(layer, tmp_path / "m.onnx")
    export(nplstm.LSTM(2, 3, recurrent_size=3), tmp_path / "m.onnx")


# Cells


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell(name, bias, runtime, loop, tmp_path):
    for dtype, load in (("float32", runtime), ("float64", loop)):
        cell = nplstm.LSTMCell(I, H, bias=bias, cell=nplstm.CellSpec(**CELLS[name]), dtype=dtype, rng=0)
        if name in BEYOND_CELLS:
            with pytest.raises(nplstm.ArgumentError, match="layer: ONNX's LSTM operator does not have ") as caught:
                export(cell, tmp_path / "m.onnx")
            assert all(option in str(caught.value) for option in BEYOND_CELLS[name])
            continue
        export(cell, tmp_path / "m.onnx")
        run, rng = load(tmp_path / "m.onnx"), np.random.default_rng(0)
        for B in (1, 3):
            x, h, c = (rng.standard_normal((B, width)).astype(dtype) for width in (I, H, H))
            expected = dict(zip(("h_1", "c_1"), cell(x, (h, c)), strict=True))
            tolerance = 1e-12 if dtype == "float64" and holds(cell.cell) else 1e-6
            compare(run({"input": x, "h_0": h, "c_0": c}), expected, tolerance)


# What is in the file


def shown(onnx, layer, path, **options):
    export(layer, path, **options)
    return onnx.load(path)


def test_names_and_shapes(onnx, tmp_path):
    """What users write in their programs, and what ``load`` finds the layer by."""

    def axes(values):
        return {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in values
        }

    lstm = nplstm.LSTM(2, 3, num_layers=2, bidirectional=True, batch_first=True)
    graph = shown(onnx, lstm, tmp_path / "m", states=True, lengths=True).graph
    assert axes(graph.input) == {"input": ["B", "T", 2], "h_0": [4, "B", 3], "c_0": [4, "B", 3], "lengths": ["B"]}
    assert axes(graph.output) == {"output": ["B", "T", 6], "h_n": [4, "B", 3], "c_n": [4, "B", 3]}
    assert [node.name for node in graph.node if node.op_type == "LSTM"] == ["lstm_l0", "lstm_l1"]
    options = dict(bidirectional=True, stacking="independent", merge="none", cell=nplstm.CellSpec("diagonal"))
    graph = shown(onnx, nplstm.LSTM(2, (3, 5), 2, **options), tmp_path / "m", states=True).graph
    assert axes(graph.input) == {
        "input": ["T", "B", 2],
        **{"h_0_l0": [2, "B", 3], "h_0_l1": [2, "B", 5], "c_0_l0": [2, "B", 3], "c_0_l1": [2, "B", 5]},
    }
    assert axes(graph.output) == {
        **{"output": ["T", "B", 5], "output_reverse": ["T", "B", 5]},
        **{"h_n_l0": [2, "B", 3], "h_n_l1": [2, "B", 5], "c_n_l0": [2, "B", 3], "c_n_l1": [2, "B", 5]},
    }
    places = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    assert [node.name for node in graph.node if node.op_type == "LSTM"] == ["lstm" + place for place in places]
    weights = [tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert weights == [name + place for place in places for name in "WRBP"]
    graph = shown(onnx, nplstm.LSTMCell(2, 3, bias=False), tmp_path / "m").graph
    assert axes(graph.input) == {"input": ["B", 2], "h_0": ["B", 3], "c_0": ["B", 3]}
    assert axes(graph.output) == {"h_1": ["B", 3], "c_1": ["B", 3]}
    assert [node.name for node in graph.node if node.op_type == "LSTM"] == ["lstm_l0"]


def test_metadata(onnx, tmp_path):
    lstm = nplstm.LSTM(2, 3, num_layers=2, dropout=0.3, cell=nplstm.CellSpec(weight_dropout=0.2, forget_bias=1.0))
    model = shown(onnx, lstm, tmp_path / "m")
    assert (model.producer_name, model.producer_version) == ("nplstm", nplstm.__version__)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert set(metadata) == {"nplstm", "nplstm_digest"}
    options = json.loads(metadata["nplstm"])
    assert (options["kind"], options["dropout"], options["cell"]["weight_dropout"]) == ("LSTM", 0.3, 0.2)


def test_a_plain_layer_is_a_plain_node(onnx, tmp_path):
    """Nothing is written that says what is so without it, so that simple runtimes read simple models."""
    model = shown(onnx, nplstm.LSTM(2, 3), tmp_path / "m")
    assert [node.op_type for node in model.graph.node] == ["LSTM", "Squeeze"]
    assert {attribute.name for attribute in model.graph.node[0].attribute} == {"hidden_size", "direction"}


@pytest.mark.parametrize("opset", range(14, 25))
def test_every_opset(opset, onnx, runtime, tmp_path):
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx {onnx.__version__} ends at opset {onnx.defs.onnx_opset_version()}")
    rows = [
        ("coupled diagonal", "residual from the first"),
        ("leaky relu", "go backwards"),
        ("clip", "mean unprojected"),
    ]
    rows += [("standard", "independent sizes"), ("standard", "reverse processing")]
    for cell, layer in rows:
        for given in (False, True):
            lstm = make(cell, layer)
            path = tmp_path / "m.onnx"
            check(lstm, path, runtime, states=given, lengths=given, tolerance=1e-6, opset=opset)
            assert onnx.load(path).opset_import[0].version == opset


def test_element_types(be, onnx, onnxruntime, runtime, loop, tmp_path):
    """float16 too, which CuPy has: onnxruntime computes it in float32. float64 it refuses, as ``export`` tells."""
    kinds = {"float16": onnx.TensorProto.FLOAT16, "float32": onnx.TensorProto.FLOAT}
    kinds["float64"] = onnx.TensorProto.DOUBLE
    for dtype in be.float_dtypes:
        lstm = nplstm.LSTM(
            I, H, num_layers=2, bidirectional=True, merge="mean", dtype=dtype, backend=be.name, rng=0
        )
        model = shown(onnx, lstm, tmp_path / "m", lengths=True)
        assert {tensor.data_type for tensor in model.graph.initializer} == {kinds[dtype], onnx.TensorProto.INT64}
        T, B, ends = SIZES[0]
        x = np.random.default_rng(0).standard_normal((T, B, I)).astype(dtype)
        inputs = {"input": x, "lengths": np.array(ends, np.int32)}
        output, (h_n, c_n) = lstm(be.asarray(x), lengths=ends)
        expected = {"output": be.to_numpy(output), "h_n": be.to_numpy(h_n), "c_n": be.to_numpy(c_n)}
        # a few roundings of the element type
        compare(loop(tmp_path / "m")(inputs), expected, 8 * float(np.finfo(dtype).eps))
        if dtype == "float64":
            with pytest.raises(Exception, match="does not support double"):
                runtime(tmp_path / "m")(inputs)
        else:
            compare(runtime(tmp_path / "m")(inputs), expected, 8 * float(np.finfo(dtype).eps))


# Broken on purpose: the comparison sees it.


@pytest.mark.parametrize("order", ["oifg", "ifog", "iogf"])
def test_the_check_sees_swapped_gates(order, runtime, tmp_path, monkeypatch):
    layout = single_layer.LAYER_FORMATS["onnx"]
    monkeypatch.setitem(single_layer.LAYER_FORMATS, "onnx", layout._replace(order=order))
    with pytest.raises(AssertionError, match="differs by"):
        check(make("standard", "plain"), tmp_path / "m", runtime, states=True, lengths=True, tolerance=1e-3)


@pytest.mark.parametrize("places", [[1, 0, 2], [0, 2, 1], [2, 1, 0]])
def test_the_check_sees_swapped_peepholes(places, runtime, tmp_path, monkeypatch):
    original = node_writer._weights

    def swapped(*arguments):
        weights = original(*arguments)
        P = weights["P"].reshape(-1, 3, H)[:, places]
        return weights | {"P": P.reshape(-1, 3 * H)}

    monkeypatch.setattr(node_writer, "_weights", swapped)
    with pytest.raises(AssertionError, match="differs by"):
        check(
            make("peephole diagonal", "plain"), tmp_path / "m", runtime, states=True, lengths=True, tolerance=1e-3
        )


# operator: what the node comes to where it is left out, and a row that has it
LEFT_OUT = {
    "residual": ("Add", lambda inputs: inputs[0], "residual", "differs by"),
    "second direction of a sum": ("Add", lambda inputs: inputs[0], "sum", "differs by"),
    "second direction of a product": ("Mul", lambda inputs: inputs[0], "product", "differs by"),
    "half of a mean": ("Mul", lambda inputs: inputs[0], "mean unprojected", "differs by"),
    "state of an empty sequence": ("Where", lambda inputs: inputs[2], "plain", "differs by"),
    "padding": ("Where", lambda inputs: inputs[1], "residual from the first", "differs by"),
    "order of processing": ("ReverseSequence", lambda inputs: inputs[0], "reverse processing", "differs by"),
    "layout": ("Transpose", lambda inputs: inputs[0], "two layers", None),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_check_sees_what_is_left_out(name, runtime, tmp_path, monkeypatch):
    operator, instead, layer, message = LEFT_OUT[name]
    original = graph_builder.GraphBuilder.add

    def add(self, kind, *inputs, **attributes):
        return instead(inputs) if kind == operator else original(self, kind, *inputs, **attributes)

    monkeypatch.setattr(graph_builder.GraphBuilder, "add", add)
    with pytest.raises(Exception, match=message):
        check(make("standard", layer), tmp_path / "m", runtime, states=True, lengths=True, tolerance=1e-3)


def test_the_check_sees_states_in_another_order(runtime, tmp_path, monkeypatch):
    order = layer_graph._order
    monkeypatch.setattr(layer_graph, "_order", lambda options, layer, column: -order(options, layer, column))
    for layer in ("two layers", "independent"):
        with pytest.raises(AssertionError, match="differs by"):
            check(make("standard", layer), tmp_path / "m", runtime, states=True, lengths=True, tolerance=1e-3)


# Bad arguments, and files that cannot be written


def test_bad_arguments(onnx, tmp_path):
    lstm, cell, path = nplstm.LSTM(2, 3), nplstm.LSTMCell(2, 3), tmp_path / "m.onnx"
    for arguments, match in [
        ((nplstm.Linear(2, 3), {}), "layer: expected an LSTM or an LSTMCell, got Linear"),
        ((lstm, dict(states=1)), "states: expected True or False, got 1"),
        ((lstm, dict(lengths="yes")), "lengths: expected True or False, got 'yes'"),
        ((cell, dict(lengths=True)), "lengths: an LSTMCell takes one step"),
        ((lstm, dict(opset=13)), r"opset: expected an integer in \[14, 24\] \(onnx .* is installed\), got 13"),
        ((lstm, dict(opset=25)), r"opset: .*, got 25"),
        ((lstm, dict(opset=14.0)), r"opset: expected an integer"),
        ((lstm, dict(opset=True)), r"opset: expected an integer"),
    ]:
        with pytest.raises(nplstm.ArgumentError, match=match):
            export(arguments[0], path, **arguments[1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (dict(clip=1e-60), "clip=1e-60: ONNX holds it in float32, where it is 0"),
        (dict(clip=1e60), r"clip=1e\+60: ONNX holds it in float32, where it is infinite"),
        (dict(activations=(("Affine", 1e60), "Tanh", "Tanh")), r"activations: alpha=1e\+60: ONNX holds it"),
        (dict(activations=(("Affine", 1, -1e60), "Tanh", "Tanh")), r"activations: beta=-1e\+60: ONNX holds it"),
    ],
)
def test_constants_that_float32_does_not_hold(spec, match, onnx, tmp_path):
    with pytest.raises(nplstm.ArgumentError, match=match):
        export(nplstm.LSTM(2, 3, cell=nplstm.CellSpec(**spec), dtype="float64"), tmp_path / "m")


def test_an_older_onnx_has_fewer_opsets(onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 21)
    with pytest.raises(nplstm.ArgumentError, match=r"opset: expected an integer in \[14, 21\]"):
        export(nplstm.LSTM(2, 3), tmp_path / "m", opset=22)


def test_too_large_a_layer_is_refused(onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_builder, "_MAX_BYTES", 4 * (12 * 2 + 12 * 3))
    export(nplstm.LSTM(2, 3, bias=False), tmp_path / "small")
    with pytest.raises(nplstm.ArgumentError, match="layer: its weights take 2 GiB or more"):
        export(nplstm.LSTM(2, 3), tmp_path / "large")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("nplstm.io._optional.import_module", missing)
    with pytest.raises(
        nplstm.MissingDependencyError, match=r"onnx is not installed.*pip install 'nplstm\[onnx\]'"
    ):
        export(nplstm.LSTM(2, 3), tmp_path / "m")


def test_a_failure_leaves_the_old_file_and_no_other(onnx, tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            export(nplstm.LSTM(2, 3), path)
    with monkeypatch.context() as patch:  # a graph that the checker refuses
        patch.setattr(export_module, "add_lstm", lambda graph, *_, **__: graph.output("output", "nothing", ["T"]))
        with pytest.raises(onnx.checker.ValidationError):
            export(nplstm.LSTM(2, 3), path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]
    with pytest.raises(FileNotFoundError):
        export(nplstm.LSTM(2, 3), tmp_path / "none" / "m.onnx")


def test_save_writes_it(onnx, tmp_path):
    nplstm.save(nplstm.LSTM(2, 3, rng=0), tmp_path / "m.onnx")
    export(nplstm.LSTM(2, 3, rng=0), tmp_path / "same")
    assert (tmp_path / "m.onnx").read_bytes() == (tmp_path / "same").read_bytes()


# There and back


@pytest.mark.parametrize("layer", [*DISTINCT, *MORE])
@pytest.mark.parametrize("cell", INSIDE_CELLS)
def test_a_layer_comes_back_bit_for_bit(cell, layer, onnx, tmp_path):
    for dtype in ("float32", "float64"):
        lstm = make(cell, layer, dtype)
        for options in ({}, dict(states=True, lengths=True)):
            export(lstm, tmp_path / "m.onnx", **options)
            same(nplstm.load(tmp_path / "m.onnx"), lstm)


@pytest.mark.parametrize("cell", INSIDE_CELLS)
def test_a_cell_comes_back_bit_for_bit(cell, onnx, tmp_path):
    made = nplstm.LSTMCell(I, H, cell=nplstm.CellSpec(**CELLS[cell]), rng=0)
    export(made, tmp_path / "m.onnx")
    same(nplstm.load(tmp_path / "m.onnx"), made)


def same(loaded, saved):
    assert repr(loaded) == repr(saved)
    assert loaded.cell == saved.cell
    assert list(loaded.parameters) == list(saved.parameters)
    for name, array in saved.parameters.items():
        assert loaded.parameters[name].tobytes() == array.tobytes()
