"""ONNX models that are damaged or hostile: an error of ours that names the file, in little time and memory."""

import contextlib
import cProfile
import os
import time
import tracemalloc
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import onnx
import pytest
from damage import CASES, damaged, damages
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import (
    ARRANGE,
    F32,
    OPERATORS,
    N,
    called,
    chained,
    if_model,
    layers_of,
    loop_model,
    lstm_node,
    model_of,
    one_node,
    tensors,
    two_nodes,
    weights,
    without,
    write,
)

import nplstm
from nplstm.errors import FileFormatError, NplstmError
from nplstm.io import open_file, read_tensors
from nplstm.io.listing import list_layers

FILES = Path(__file__).parent / "files" / "onnx"
KEPT = sorted(path.stem for path in FILES.glob("*.onnx"))


# Data beside the model


def with_external(tmp_path, location="weights.bin", offset=8, length=None, size=96, data=None, **entries):
    """A model whose W stands in another file, as is said."""
    model = chained([], {})
    W = weights()["W"]
    tensor = TensorProto(name="W", dims=W.shape, data_type=1, data_location=TensorProto.EXTERNAL)
    given = {"location": location, "offset": offset, "length": W.nbytes if length is None else length, **entries}
    for key, value in given.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    model.graph.initializer.append(tensor)
    if data is not None:
        (tmp_path / data).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / data).write_bytes((bytes(8) + W.tobytes())[: size + 8])
    return write(tmp_path, model)


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "inner/weights.bin"])
def test_data_beside_the_model(location, tmp_path, monkeypatch):
    path = with_external(tmp_path, location, data=location)
    for given in (path, str(path)):
        assert np.array_equal(nplstm.load(given).parameters["weight_ih_l0"][:3], weights()["W"][0, :3])
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(read_tensors("m.onnx")["W"], weights()["W"])


def test_data_beside_the_model_as_onnx_writes_them(tmp_path):
    model = one_node(weights(H=30))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    assert np.array_equal(read_tensors(tmp_path / "m.onnx")["R"], weights(H=30)["R"])


def test_a_link_inside_of_the_folder_is_followed(tmp_path):
    path = with_external(tmp_path, "link", data="weights.bin")
    (tmp_path / "link").symlink_to("weights.bin")
    assert np.array_equal(read_tensors(path)["W"], weights()["W"])


def linked(tmp_path, target):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(target)
    return with_external(tmp_path / "inside", "link", data=None)


def outside(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(200))
    return tmp_path / "secret"


EXTERNAL = {
    "absolute": (
        lambda p: with_external(p, str(outside(p)), 0),
        r"secret', which does not lie in the model's folder",
    ),
    "above": (
        lambda p: with_external(p, "../secret", 0),
        r"'../secret', which does not lie in the model's folder",
    ),
    "down and up": (lambda p: with_external(p, "a/../../secret", 0), "which does not lie in the model's folder"),
    "backslash": (lambda p: with_external(p, "..\\secret", 0), "which does not lie in the model's folder"),
    "drive": (lambda p: with_external(p, "C:secret", 0), "which does not lie in the model's folder"),
    "empty": (lambda p: with_external(p, "", 0), "which does not lie in the model's folder"),
    "zero byte": (lambda p: with_external(p, "a\0b", 0), "which does not lie in the model's folder"),
    "link": (lambda p: linked(p, outside(p)), "'link', which does not lie in the model's folder"),
    "link to a device": (lambda p: linked(p, "/dev/zero"), "'link', which does not lie in the model's folder"),
    "link in a circle": (lambda p: linked(p, "link"), "'link', which"),
    "folder": (lambda p: with_external(p, ".", 0), "'.', which is not an ordinary file"),
    "pipe": (
        lambda p: (os.mkfifo(p / "pipe"), with_external(p, "pipe", 0))[1],
        "'pipe', which is not an ordinary file",
    ),
    "missing": (with_external, "'weights.bin', which is not an ordinary file"),
    "short": (
        lambda p: with_external(p, data="weights.bin", size=90),
        "has 96 bytes from 8 on in 'weights.bin', which has 98",
    ),
    "offset": (lambda p: with_external(p, data="weights.bin", offset=9), "96 bytes from 9 on .* which has 104"),
    "offset below": (lambda p: with_external(p, data="weights.bin", offset=-1), "external data of no known place"),
    "offset beyond": (lambda p: with_external(p, data="weights.bin", offset=2**70), "96 bytes from"),
    "length": (
        lambda p: with_external(p, data="weights.bin", length=95),
        "takes 96 bytes, and its .* declares 95",
    ),
    "no number": (lambda p: with_external(p, data="weights.bin", offset="x"), "external data of no known place"),
    "underscore": (
        lambda p: with_external(p, data="weights.bin", offset="0_8"),
        "external data of no known place",
    ),
    "space": (lambda p: with_external(p, data="weights.bin", offset=" 8"), "external data of no known place"),
    "other digits": (
        lambda p: with_external(p, data="weights.bin", length="٩٦"),
        "external data of no known place",
    ),
    "endless number": (lambda p: with_external(p, offset="9" * 9999), "external data of no known place"),
    "no place": (lambda p: with_external(p, None), "external data of no known place"),
}


@pytest.mark.parametrize("name", EXTERNAL)
def test_data_beside_the_model_that_are_not_what_they_should_be(name, tmp_path):
    make, message = EXTERNAL[name]
    path = make(tmp_path)
    with open_file(path) as file:
        assert file.tensors["W"].shape == (1, 12, 2)
        with pytest.raises(FileFormatError, match=rf"^{path}: the tensor 'W' .*{message}"):
            file.read("W")
    with pytest.raises(FileFormatError, match=message):
        nplstm.load(path)


def test_attributes_open_no_files(tmp_path):
    """A tensor that is an attribute may declare data beside the model too; the same rules hold."""
    tensor = TensorProto(name="v", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/dev/zero")
    path = write(
        tmp_path, chained([helper.make_node("ConstantOfShape", ["s"], ["W"], value=tensor)], {"s": N([1])})
    )
    with pytest.raises(FileFormatError, match="'/dev/zero', which does not lie in the model's folder"):
        nplstm.load(path)


# Damage and attacks


def changed(change):
    model = chained([helper.make_node("Identity", ["w"], ["W"])], {"w": weights()["W"]})
    change(model)
    return model


def stored(name, **fields):
    """A change that replaces an initializer's fields."""

    def change(model):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        for field, value in fields.items():
            tensor.ClearField(field)
            if isinstance(value, list):
                getattr(tensor, field).extend(value)
            else:
                setattr(tensor, field, value)

    return change


def reading_typed(count):
    return changed(
        lambda m: (stored("w", float_data=[0.0] * count)(m), m.graph.initializer[2].ClearField("raw_data"))
    )


def function_of(nodes, name="f", outputs=("b",)):
    imports = [helper.make_opsetid("", 14), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], list(outputs), nodes, imports)


def calls(name, count=1, x="a"):
    return [helper.make_node(name, [x], [f"b{k}" if k else "b"], domain="local") for k in range(count)]


def functions(*every, call="f"):
    model = model_of([helper.make_node(call, ["X"], ["Y"], domain="local")], [], functions=list(every)[:1])
    model.functions.extend(every[1:])
    return model


def exponential():
    """60 functions, each of which calls the next one twice: 2^60 nodes, if they were all there."""
    leaf = function_of([helper.make_node("LSTM", ["a", "a", "a"], ["b"])], "f40")
    return functions(*[function_of(calls(f"f{k + 1}", 2), f"f{k}") for k in range(40)], leaf, call="f0")


def two_of(model, kind):
    items = getattr(model.graph, kind)
    items.append(items[0])
    return model


def lstms(y):
    return [helper.make_node("LSTM", ["a", "a", "a"], [y])]


def deep():
    """If in If in If: protobuf itself stops it, and so does what walks through it."""

    def field(number, content):
        size = len(content)
        return bytes([number << 3 | 2, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + content

    graph = b""
    for _ in range(200):
        graph = field(1, field(4, b"If") + field(5, b"\xa0\x01\x05" + field(6, graph)))
    return b"\x08\x08" + field(7, graph)


DAMAGED = {
    "no protobuf": (lambda: b"\x08\x08\xff\xff\xff", "not a whole ONNX model"),
    "cut": (lambda: one_node().SerializeToString()[:-7], "not a whole ONNX model"),
    "no graph": (lambda: b"\x08\x08", "not an ONNX model: it has no graph"),
    "deep": (deep, "not a whole ONNX model"),
    "negative size": (lambda: changed(stored("w", dims=[1, -12, 2])), r"'w' declares the shape \(1, -12, 2\)"),
    "too large": (lambda: changed(stored("w", dims=[2**40, 2**40])), "'w' declares the shape"),
    "beyond": (lambda: changed(stored("w", dims=[2**62])), "'w' declares the shape"),
    "far too many axes": (lambda: changed(stored("w", dims=[2**62] * 300_000)), "'w' declares the shape"),
    "too many axes": (lambda: changed(stored("w", dims=[1] * 99)), "'w' declares the shape"),
    "short": (
        lambda: changed(stored("w", raw_data=b"1234")),
        r"'w' declares float32 \(1, 12, 2\) and holds 4 bytes",
    ),
    "long": (lambda: changed(stored("w", raw_data=bytes(97))), "'w' declares .* and holds 97 bytes"),
    "typed short": (lambda: reading_typed(23), "'w' declares .* and holds 23 numbers in float_data"),
    "typed long": (lambda: reading_typed(25), "'w' declares .* and holds 25 numbers in float_data"),
    "segment": (
        lambda: changed(lambda m: m.graph.initializer[2].segment.MergeFrom(TensorProto.Segment(begin=0, end=4))),
        "'w' is a segment",
    ),
    "unknown type": (lambda: changed(stored("w", data_type=99)), "the tensor 'w' of the type UNKNOWN 99"),
    "circle": (
        lambda: chained(
            [helper.make_node("Identity", ["v"], ["W"]), helper.make_node("Identity", ["W"], ["v"])], {}
        ),
        "'(W|v)' is computed from itself",
    ),
    "its own input": (
        lambda: changed(lambda m: m.graph.node[1].input.__setitem__(0, "Y")),
        "'Y' is computed from itself",
    ),
    "circle of calls": (
        lambda: model_of(
            [helper.make_node("f", ["W"], ["W"], domain="local"), lstm_node(weights())],
            tensors(without("W")),
            functions=[function_of([], outputs=["a"])],
        ),
        "'W' is computed from itself",
    ),
    "missing name": (lambda: chained([], {}), "there is no value 'W' in the graph"),
    "missing name in a function": (
        lambda: functions(function_of([helper.make_node("LSTM", ["a", "w", "w"], ["b"])])),
        "there is no value 'w' in f:Y/",
    ),
    "two initializers": (lambda: two_of(one_node(), "initializer"), "the graph has two values 'W'"),
    "two nodes": (lambda: two_of(one_node(), "node"), "the graph has two values 'Y'"),
    "no name": (
        lambda: changed(lambda m: m.graph.initializer.append(TensorProto(data_type=1))),
        "an initializer without a name",
    ),
    "two functions": (lambda: functions(function_of([]), function_of([])), "two functions 'local.f'"),
    "outputs": (
        lambda: model_of(
            [helper.make_node("f", ["X"], ["Z", "W"], domain="local"), lstm_node(weights())],
            tensors(without("W")),
            functions=[function_of(calls("g"))],
        ),
        "more outputs than its function",
    ),
    "recursion": (lambda: functions(function_of([*calls("f"), *lstms("c")])), "call each other more than 50 deep"),
    "recursion of two": (
        lambda: functions(function_of([*calls("g"), *lstms("c")]), function_of(calls("f"), "g")),
        "call each other more than 50 deep",
    ),
    "recursive weight": (
        lambda: model_of(
            [helper.make_node("f", ["X"], ["W"], domain="local"), lstm_node(weights())],
            tensors(without("W")),
            functions=[function_of(calls("f"))],
        ),
        "call each other more than 50 deep",
    ),
    "exponential": (exponential, "its functions come to more than 4,194,304 bytes"),
    "reshape": (
        lambda: chained(
            [helper.make_node("Reshape", ["w", "s"], ["W"], name="r")], {"w": weights()["W"], "s": N([5])}
        ),
        r"the operator Reshape \('r'\) cannot be computed",
    ),
    "missing attribute": (
        lambda: chained([helper.make_node("Concat", ["w"], ["W"])], {"w": weights()["W"]}),
        "the operator Concat .* cannot be computed: KeyError 'axis'",
    ),
    "missing input": (
        lambda: chained([helper.make_node("Gather", ["w"], ["W"])], {"w": weights()["W"]}),
        "the operator Gather .* cannot be computed",
    ),
    "input left out": (
        lambda: chained([helper.make_node("Gather", ["w", ""], ["W"])], {"w": weights()["W"]}),
        "the operator Gather .* cannot be computed",
    ),
    "index": (
        lambda: chained([helper.make_node("Gather", ["w", "s"], ["W"])], {"w": weights()["W"], "s": N([7])}),
        "the operator Gather .* cannot be computed",
    ),
    "nothing": (
        lambda: chained([helper.make_node("Identity", [""], ["W"])], {}),
        "the operator Identity .* cannot be computed: an input is left out",
    ),
    "empty constant": (
        lambda: chained([helper.make_node("Constant", [], ["W"], name="c")], {}),
        r"Constant \('c'\) has no value",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(name, tmp_path):
    make, message = DAMAGED[name]
    path = write(tmp_path, make())
    with pytest.raises(FileFormatError, match=rf"^{path}: .*{message}"):
        nplstm.load(path)


def bomb(*nodes, **arrays):
    return chained(list(nodes), {"w": np.ones((1000, 1000), F32), "s": N([100_000, 1000, 1000]), **arrays})


def doubling(operator, **attributes):
    """A chain of 40 operators, each of which doubles what it gets."""
    nodes = [helper.make_node(operator, ["w", "w"], ["w0"], **attributes)]
    nodes += [helper.make_node(operator, [f"w{k}"] * 2, [f"w{k + 1}"], **attributes) for k in range(40)]
    return bomb(*nodes, helper.make_node("Identity", ["w40"], ["W"]))


BOMBS = {
    "expand": lambda: bomb(helper.make_node("Expand", ["w", "s"], ["v"]), helper.make_node("Neg", ["v"], ["W"])),
    "expand and concat": lambda: bomb(
        helper.make_node("Expand", ["w", "s"], ["v"]), helper.make_node("Concat", ["v", "v"], ["W"], axis=0)
    ),
    "expand and gather": lambda: bomb(
        helper.make_node("Expand", ["w", "s"], ["v"]),
        helper.make_node("Gather", ["v", "i"], ["W"]),
        i=np.arange(99_999),
    ),
    "expand and reshape": lambda: bomb(
        helper.make_node("Expand", ["w", "s"], ["v"]),
        helper.make_node("Reshape", ["v", "flat"], ["W"]),
        flat=N([-1]),
    ),
    "expand and cast": lambda: bomb(
        helper.make_node("Expand", ["w", "s"], ["v"]), helper.make_node("Cast", ["v"], ["W"], to=11)
    ),
    "constant of shape": lambda: bomb(
        helper.make_node("ConstantOfShape", ["s"], ["v"]), helper.make_node("Mul", ["v", "v"], ["W"])
    ),
    "tile": lambda: bomb(helper.make_node("Tile", ["w", "t"], ["W"]), t=N([1000, 1000])),
    "gather": lambda: bomb(
        helper.make_node("Gather", ["w", "i"], ["v"]),
        helper.make_node("Gather", ["w", "i"], ["v2"]),
        helper.make_node("Concat", ["v", "v2"], ["W"], axis=0),
        i=np.zeros(500_000, np.int64),
    ),
    "outer sum": lambda: bomb(
        helper.make_node("Add", ["a", "b"], ["W"]), a=np.zeros((100_000, 1), F32), b=np.zeros((1, 100_000), F32)
    ),
    "dequantize": lambda: bomb(
        helper.make_node("Expand", ["q", "s"], ["v"]),
        helper.make_node("DequantizeLinear", ["v", "scale"], ["W"]),
        q=N(1, np.int8),
        scale=N(1, F32),
    ),
    "concat": lambda: doubling("Concat", axis=0),
    "sums": lambda: doubling("Add"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_do_not_go_off(name, tmp_path):
    """Each would take much more than is allowed; that is seen before it is taken."""
    path = write(tmp_path, BOMBS[name]())
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=rf"^{path}: .*"):
            nplstm.load(path, max_bytes=2**26)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


HUGE = [(name, k) for name, (inputs, *_) in OPERATORS.items() for k in range(len(inputs))]


@pytest.mark.parametrize("repeated", [2**20, 2**36])
@pytest.mark.parametrize(("name", "k"), HUGE, ids=[f"{name} {k}" for name, k in HUGE])
def test_operators_on_views_of_any_size(name, k, repeated, tmp_path):
    """Each input of each operator in turn, as large as can be: the answer comes at once, and in little memory."""
    inputs, attributes, opset, *count = OPERATORS[name]
    names = [f"x{j}" for j in range(len(inputs))]
    arrays = dict(zip(names, inputs, strict=True)) | {"size": N([repeated, *[1] * (inputs[k].ndim - 1)])}
    grow = helper.make_node("Expand", [f"x{k}", "size"], ["huge"])
    given = [*names[:k], "huge", *names[k + 1 :]]
    outputs = ["W", *[f"y{j}" for j in range(1, count[0] if count else 1)]]
    arrays[f"x{k}"] = inputs[k][:1] if inputs[k].ndim else inputs[k]
    node = helper.make_node(name.split()[0], given, outputs, **attributes)
    path = write(tmp_path, chained([grow, node], arrays, opset=opset))
    tracemalloc.start()
    start = time.process_time()
    try:
        nplstm.load(path, max_bytes=2**26)
    except FileFormatError as error:
        assert str(error).startswith(str(path))  # noqa: PT017  most do not fit, and some do
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 2**27
    assert time.process_time() - start < 5  # a pass over 2**36 numbers takes more


def memory_of(action):
    """What an action takes at most, whatever comes of it."""
    tracemalloc.start()
    with contextlib.suppress(FileFormatError):
        action()
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return taken


def calls_of(action):
    """How many functions an action calls, whatever comes of it: work that no other program adds to."""
    profile = cProfile.Profile()
    with contextlib.suppress(FileFormatError):
        profile.runcall(action)
    return sum(entry.callcount for entry in profile.getstats())


def test_long_names_are_not_multiplied(tmp_path):
    """A megabyte of a name around two thousand calls, each of which has names within it."""
    leaf = function_of(lstms("b"), "leaf")
    middle = function_of([helper.make_node("leaf", ["a"], [f"b{k}"], domain="local") for k in range(2000)], "f")
    model = functions(middle, leaf)
    model.graph.node[0].name = "n" * 10**6
    path = write(tmp_path, model)
    assert memory_of(lambda: layers_of(path)) < 2**26
    names = [found.name for found in layers_of(path)]
    assert len(set(names)) == 2000
    assert max(map(len, names)) < 2000


def function_of_many(kind, count):
    """A function with very many parts of a kind, of which a call makes them all anew."""
    function = function_of(lstms("b"))
    if kind == "inputs":
        function.input.extend(f"_{k:x}" for k in range(count))
    elif kind == "outputs":
        function.node[0].output.extend(f"_{k:x}" for k in range(count))
    elif kind == "attributes":
        for k in range(count):
            function.node[0].attribute.add(name=f"_{k:x}", type=2, i=1)
    elif kind == "defaults":
        for k in range(count):
            function.attribute_proto.add(name=f"_{k:x}", type=2, i=1)
    elif kind == "values":
        for k in range(count):
            function.value_info.add(name=f"_{k:x}")
    else:
        inner = helper.make_graph(
            lstms("c"), "g", [helper.make_tensor_value_info(f"_{k:x}", 1, None) for k in range(count)], []
        )
        function.node.append(helper.make_node("If", ["a"], [], then_branch=inner))
    return function


@pytest.mark.parametrize("kind", ["inputs", "outputs", "attributes", "defaults", "values", "graph"])
def test_calls_count_for_what_they_become(kind, tmp_path):
    nodes = [helper.make_node("f", ["X"], [f"Y{k}"], domain="local") for k in range(5000)]
    path = write(tmp_path, model_of(nodes, functions=[function_of_many(kind, 3000)], outputs=["Y0"]))
    assert memory_of(lambda: layers_of(path)) < 2**29
    assert calls_of(lambda: layers_of(path)) < 5e6  # one for each of 5000 * 3000 names would be 1.5e7
    with pytest.raises(FileFormatError, match="its functions come to more than 4,194,304 bytes"):
        layers_of(path)


def test_stored_tensors_do_not_count_for_each_call(tmp_path):
    """A function with large weights in it, called a few times."""
    model = called(["X", "w"], weights(H=200))
    first = model.graph.node[0]
    for k in range(7):
        model.graph.node.append(first)
        model.graph.node[-1].name, model.graph.node[-1].output[0] = f"again {k}", f"Z{k}"
    path = write(tmp_path, model)
    assert path.stat().st_size * 8 > 2**22
    assert len(layers_of(path)) == 8


RED = "\x1b[31m"


def renamed(model):
    for node in model.graph.node:
        node.name = RED + node.name
    return model


def broken_branch(change):
    model = renamed(if_model(weights()))
    change(next(a.g.node[0] for a in model.graph.node[0].attribute if a.name == "then_branch"))
    return model


COLOURED = {
    "missing": lambda: broken_branch(lambda node: node.input.__setitem__(2, "nowhere")),
    "two": lambda: broken_branch(lambda node: node.output.__setitem__(0, "oW")),
    "problem": lambda: renamed(one_node(projection=2)),
    "sizes": lambda: renamed(
        chained(
            [
                helper.make_node("Shape", ["X"], ["first"], start=1, end=2),
                helper.make_node("Slice", ["w", "first", "most", "first"], ["W"]),
            ],
            {"w": np.ones((1, 12, 2), F32), "most": N([99])},
            opset=15,
        )
    ),
    "operator": lambda: renamed(
        chained([helper.make_node("Reshape", ["w", "s"], ["W"])], {"w": N([1.0]), "s": N([5])})
    ),
    "budget": lambda: renamed(one_node(weights(H=300))),
    "attribute": lambda: one_node(**{f"a{RED}": 1}),
    "activation": lambda: one_node(activations=[RED, "Tanh", "Tanh"]),
    "another operator": lambda: chained([helper.make_node(RED, ["w"], ["W"])], {"w": N([1.0])}),
}


@pytest.mark.parametrize("name", COLOURED)
def test_nothing_reaches_a_terminal_as_a_command(name, tmp_path):
    path = write(tmp_path, COLOURED[name]())
    for limit in (2**17, 2**21, 2**22, 2**30):
        texts = []
        with contextlib.suppress(FileFormatError), open_file(path, max_bytes=limit) as file:
            texts = [found.problem for found in file.layers()]
        for action in (nplstm.load, lambda p, max_bytes: layers_of(p, max_bytes=max_bytes)[0].read()):
            try:
                action(path, max_bytes=limit)
            except FileFormatError as error:
                texts.append(str(error))
        assert not any("\x1b" in str(text) for text in texts)


@pytest.mark.parametrize("count", [300])
def test_work_on_the_same_numbers_is_counted(count, tmp_path):
    """Any number of nodes that ask whether the same large state is zero, and whose the same large output is."""
    given = weights(I=3, H=3)
    state = {"initial_h": np.zeros((1, 200_000, 3), F32)}
    first = lstm_node(given | state, y="Y0", name="first")
    between = helper.make_node("Squeeze", ["Y0", "one"], ["Z"])
    nodes = [lstm_node(given | state, x="Z", y=f"Y{k}", name=f"n{k}") for k in range(1, count)]
    inputs = {"X": [7, 200_000, 3]}
    model = model_of([first, between, *nodes], tensors(given | state | {"one": N([1])}), inputs, ["Y0"])
    path = write(tmp_path, model)
    start = time.process_time()
    with contextlib.suppress(FileFormatError):
        layers_of(path)
    assert time.process_time() - start < 20  # by the process's own clock: other programs may have the CPUs


def test_names_that_are_no_text(tmp_path):
    """protobuf hands them out as bytes, which go together with no text."""
    model = called(["X", "w"], weights(), name="callname")
    helper.set_model_props(model, {"metadata": "data"})
    data = model.SerializeToString()
    for name in (b"callname", b"inner", b"local", b"layer", b"hidden_size", b"metadata"):
        assert name in data
        path = write(tmp_path, data.replace(name, b"\xff" * len(name)))
        with pytest.raises(FileFormatError, match="not a whole ONNX model: 'utf-8' codec can't decode byte 0xff"):
            layers_of(path)


def test_views_of_any_size_cost_nothing(tmp_path):
    """What is large is a view, of which a part is taken."""
    nodes = [helper.make_node("Expand", ["w", "s"], ["v"]), helper.make_node("Slice", ["v", "zero", "one"], ["W"])]
    path = write(
        tmp_path, chained(nodes, {"w": weights()["W"], "s": N([2**40, 12, 2]), "zero": N([0]), "one": N([1])})
    )
    assert np.array_equal(nplstm.load(path).parameters["weight_ih_l0"][:3], weights()["W"][0, :3])


def test_the_limit_is_for_all_that_is_read(tmp_path):
    path = write(tmp_path, one_node(weights(H=30)))
    nplstm.load(path, max_bytes=100_000)
    with pytest.raises(FileFormatError, match="of max_bytes=30,000 only"):
        nplstm.load(path, max_bytes=30_000)


def test_small_messages_count_for_what_they_become(tmp_path):
    """Two bytes of an empty node are two hundred in memory."""
    nodes = b"\x0a\x00" * 1_000_000
    size = len(nodes).to_bytes(4, "little")
    length = bytes([size[0] & 127 | 128, (len(nodes) >> 7) & 127 | 128, (len(nodes) >> 14) & 127])
    path = write(tmp_path, b"\x08\x08\x3a" + length + nodes)
    with pytest.raises(FileFormatError, match=r"the model takes .* of max_bytes=100,000,000 only"):
        open_file(path, max_bytes=100_000_000)


@pytest.mark.parametrize("name", KEPT)
def test_what_is_counted_is_no_less_than_what_is_taken(name):
    from nplstm.io.onnx.protobuf_memory import parsed_sizes

    data = (FILES / f"{name}.onnx").read_bytes()
    assert len(data) < sum(parsed_sizes(data)) < 100 * len(data)


def test_a_file_beyond_protobuf(tmp_path):
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.write(b"\x08\x08")
        file.truncate(2**31)
    with pytest.raises(FileFormatError, match=r"2,147,483,648 bytes, and a model has less than 2 GiB"):
        nplstm.load(path)


def test_the_library_is_asked_for(monkeypatch, tmp_path):

    def missing(name):
        raise ImportError(name)

    path = write(tmp_path, one_node())
    monkeypatch.setattr("nplstm.io._optional.import_module", missing)
    with pytest.raises(nplstm.MissingDependencyError, match=r"pip install 'nplstm\[onnx\]'"):
        nplstm.load(path)


@pytest.mark.parametrize("to", [[1, 2], "1", 99, None])
def test_a_cast_to_no_type(tmp_path, to):
    """An attribute of another kind than it should be, in front of weights and between two nodes."""
    attributes = {} if to is None else {"to": to}
    path = write(tmp_path, chained([helper.make_node("Cast", ["w"], ["W"], **attributes)], {"w": weights()["W"]}))
    with pytest.raises(FileFormatError, match=r"m\.onnx"):
        nplstm.load(path)
    between = [
        helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
        helper.make_node("Cast", ["a"], ["Z"], **attributes),
    ]
    with open_file(write(tmp_path, two_nodes(1, between))) as file:
        assert [found.parts for found in file.layers()] == [(), ()]


GOOD = {
    "one": lambda: one_node(weights(2, peephole=True), direction="bidirectional", clip=1.0),
    "two": lambda: two_nodes(*ARRANGE["reshape by sizes"]),
    "function": lambda: called(["X", "w"], weights()),
    "branch": lambda: if_model(weights()),
    "loop": lambda: loop_model(weights(I=3)),
    **{
        name: lambda name=name: onnx.load(FILES / f"{name}.onnx") for name in KEPT if "script_unfolded" not in name
    },
}
CACHE: dict[str, bytes] = {}


@hypothesis.settings(max_examples=CASES, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=st.data())
def test_no_bytes_do_harm(data, tmp_path):
    """Good files with bytes changed, cut out or put in: they load, or raise an error of ours."""
    name = data.draw(st.sampled_from(sorted(GOOD)))
    good = CACHE.setdefault(name, GOOD[name]().SerializeToString())
    read_all(write(tmp_path, damaged(good, data.draw(damages(len(good))))))


def read_all(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cautions = r".*its (initial_[hc]|sequence_lens) (is|are) (fixed in the file|computed in the model)"
        warnings.filterwarnings("ignore", cautions, UserWarning)  # what load says of such models, on purpose
        warnings.filterwarnings("ignore", "dropout=", UserWarning)
        try:
            with open_file(path, max_bytes=2**26) as file:
                found = file.layers()
                list_layers(found)
                every = list(file.tensors)
        except NplstmError:
            return
        attempts = [lambda name=name: nplstm.load(path, layer=name, max_bytes=2**26) for name in names_of(found)]
        with open_file(path, max_bytes=2**26) as file:
            for attempt in [*attempts, *[lambda name=name: file.read(name) for name in every]]:
                with contextlib.suppress(NplstmError):
                    attempt()


def names_of(found):
    return [None, *[part.name for layer in found for part in (layer, *layer.parts)]]
