"""ONNX models for the tests, made of parts; what runs them; and what compares.

The packages onnx and onnxruntime are needed; modules that import this one are skipped without.
"""

import os

import numpy as np
import pytest

from nplstm.io import open_file

try:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    if "onnx" in os.environ.get("NPLSTM_REQUIRE", "").split(","):
        raise
    pytest.skip(f"onnx and onnxruntime are needed for model files: {error}", allow_module_level=True)

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")

F32 = np.float32

N = np.array


def weights(D=1, I=2, H=3, seed=0, *, bias=True, peephole=False, dtype=F32):
    """W, R, B and P of a node, by name."""
    rng = np.random.default_rng(seed)
    shapes = {"W": (D, 4 * H, I), "R": (D, 4 * H, H)}
    shapes |= {"B": (D, 8 * H)} if bias else {}
    shapes |= {"P": (D, 3 * H)} if peephole else {}
    return {name: rng.normal(0, 0.5, shape).astype(dtype) for name, shape in shapes.items()}


def without(name):
    return {key: array for key, array in weights().items() if key != name}


def lstm_node(given, *, x="X", y="Y", name="lstm", prefix="", outputs=None, **attributes):
    """An LSTM node that reads the arrays that are given, and other inputs by their own names."""
    inputs = [x, *[prefix + key if key in given else "" for key in INPUTS[1:]]]
    while not inputs[-1]:
        inputs.pop()
    H = next(array.shape[2] for key, array in given.items() if key == "R") if "R" in given else None
    attributes = {"hidden_size": H, **attributes} if H else attributes
    return helper.make_node("LSTM", inputs, outputs or [y], name=name, **attributes)


def tensors(arrays, prefix=""):
    return [numpy_helper.from_array(np.asarray(array), prefix + name) for name, array in arrays.items()]


def model_of(nodes, initializers=(), inputs=None, outputs=("Y",), opset=14, functions=(), **more):
    """A model; ``inputs`` maps names to axes, of which any may be open."""
    inputs = {"X": ["T", "B", 2]} if inputs is None else inputs
    kinds = {"sequence_lens": TensorProto.INT32, "lens": TensorProto.INT32, "go": TensorProto.BOOL}
    kinds |= {"count": TensorProto.INT64, "mask": TensorProto.BOOL, "ids": TensorProto.INT64}
    values = [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), axes)
        for name, axes in inputs.items()
    ]
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "model", values, shown, list(initializers), **more)
    imports = [helper.make_opsetid("", opset), *[helper.make_opsetid(f.domain, 1) for f in functions]]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=8)


def one_node(arrays=None, opset=14, inputs=None, outputs=("Y",), extra=(), **attributes):
    """A model of one node, whose weights are initializers."""
    arrays = weights() if arrays is None else arrays
    node = lstm_node(arrays, outputs=list(outputs), **attributes)
    stored = {name: array for name, array in arrays.items() if array is not None and name not in (inputs or {})}
    return model_of([node], [*tensors(stored), *extra], inputs, outputs, opset)


def write(tmp_path, model, name="m.onnx"):
    path = tmp_path / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def layers_of(path, **options):
    with open_file(path, **options) as file:
        return file.layers()


def run(model, feed):
    """What onnxruntime makes of a model, by the outputs' names."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def side_by_side(Y):
    """(T, D, B, H) as (T, B, D * H)."""
    return Y.transpose(0, 2, 1, 3).reshape(Y.shape[0], Y.shape[2], -1)


def compare(actual, expected, tolerance=1e-6):
    """Differences relative to the largest magnitude, or to 1. float32 rounds at 6e-8, over a few steps."""
    assert actual.shape == expected.shape
    difference = np.abs(actual - expected).max(initial=0)
    assert difference <= tolerance * max(1, np.abs(expected).max(initial=0)), f"differs by {difference:.3g}"


def draw_x(T=5, B=3, I=2, seed=9):
    return np.random.default_rng(seed).normal(0, 1, (T, B, I)).astype(F32)


def constant(name, **value):
    return helper.make_node("Constant", [], [name], **value)


A = np.arange(24, dtype=F32).reshape(2, 3, 4)

OPERATORS = {
    "Identity": ([A], {}, 14),
    "Dropout": ([A], {}, 14),
    "Dropout 7": ([A], dict(ratio=0.3), 7),
    "Dropout inference": ([A, N(0.3, F32), N(False)], {}, 14),
    "Cast": ([A], dict(to=7), 14),
    "Cast float16": ([A], dict(to=10), 14),
    "Shape": ([A], {}, 14),
    "Shape part": ([A], dict(start=-2, end=5), 15),
    "ConstantOfShape": ([N([2, 3])], {}, 14),
    "ConstantOfShape 7": ([N([2, 3])], dict(value=numpy_helper.from_array(N([7]))), 14),
    "ConstantOfShape scalar": ([N([], np.int64)], {}, 14),
    "Expand": ([A[:, :1], N([5, 1, 3, 1])], {}, 14),
    "Reshape": ([A, N([0, -1])], {}, 14),
    "Reshape zero": ([A[:0], N([3, 0, 4])], dict(allowzero=1), 14),
    "Squeeze": ([A[:1, :, :1]], {}, 14),
    "Squeeze axes": ([A[:1, :, :1], N([-1])], {}, 14),
    "Squeeze 11": ([A[:1, :, :1]], dict(axes=[0]), 11),
    "Unsqueeze": ([A, N([0, -1])], {}, 14),
    "Unsqueeze 11": ([A], dict(axes=[1, 4]), 11),
    "Transpose": ([A], {}, 14),
    "Transpose perm": ([A], dict(perm=[1, 2, 0]), 14),
    "Slice": ([A, N([0, -3]), N([1, 2**63 - 1]), N([0, -1]), N([1, 2])], {}, 14),
    "Slice back": ([A, N([-1]), N([-(2**63)]), N([1]), N([-1])], {}, 14),
    "Slice short": ([A, N([1]), N([9])], {}, 14),
    "Slice 9": ([A], dict(starts=[1], ends=[3], axes=[2]), 9),
    "Split": ([A], dict(axis=1), 14, 3),
    "Split sizes": ([A, N([1, 3])], dict(axis=2), 14, 2),
    "Split 11": ([A], dict(axis=2, split=[3, 1]), 11, 2),
    "Split 18": ([A], dict(axis=2, num_outputs=3), 18, 3),
    "Concat": ([A, A[:, :1]], dict(axis=1), 14),
    "Concat last": ([A, A], dict(axis=-1), 14),
    "Gather": ([A, N([[1, -1], [0, 2]])], dict(axis=1), 14),
    "Gather scalar": ([A, N(1)], {}, 14),
    "Gather one": ([N([4, 5, 6]), N(1)], {}, 14),
    "Gather last": ([A, N([3])], dict(axis=-1), 14),
    "Tile": ([A, N([2, 1, 3])], {}, 14),
    "Add": ([A, A[0]], {}, 14),
    "Sub": ([A, A[:, :1]], {}, 14),
    "Mul": ([A, N(0.5, F32)], {}, 14),
    "Neg": ([A], {}, 14),
    "Equal": ([A, A[:, ::-1].copy()], {}, 14),
    "Where": ([A > 5, A, -A[:1]], {}, 14),
}


def chained(nodes, stored, given=None, **more):
    """A model whose W is made by nodes of stored tensors; R and B as they are."""
    given = weights() if given is None else given
    rest = {name: array for name, array in given.items() if name != "W"}
    return model_of([*nodes, lstm_node(given)], [*tensors(rest), *tensors(stored)], **more)


ARRANGE = {
    "squeeze": (1, [helper.make_node("Squeeze", ["Y1", "one"], ["Z"])]),
    "reshape": (
        2,
        [
            helper.make_node("Transpose", ["Y1"], ["turned"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["turned", "0 0 -1"], ["Z"]),
        ],
    ),
    "reshape by sizes": (
        2,
        [
            helper.make_node("Transpose", ["Y1"], ["turned"], perm=[0, 2, 1, 3]),
            helper.make_node("Shape", ["X"], ["sizes"], start=0, end=2),
            helper.make_node("Concat", ["sizes", "-1"], ["shape"], axis=0),
            helper.make_node("Reshape", ["turned", "shape"], ["Z"]),
        ],
    ),
    "slices": (
        2,
        [
            helper.make_node("Split", ["Y1"], ["a", "b"], axis=1),
            helper.make_node("Squeeze", ["a", "one"], ["a1"]),
            helper.make_node("Squeeze", ["b", "one"], ["b1"]),
            helper.make_node("Concat", ["a1", "b1"], ["Z"], axis=2),
        ],
    ),
    "dropout": (
        1,
        [
            helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
            helper.make_node("Dropout", ["a"], ["b"]),
            helper.make_node("Identity", ["b"], ["Z"]),
        ],
    ),
    "cast to what it is": (
        1,
        [helper.make_node("Squeeze", ["Y1", "one"], ["a"]), helper.make_node("Cast", ["a"], ["Z"], to=1)],
    ),
    "sliced to the end": (
        1,
        [
            helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
            helper.make_node("Slice", ["a", "zero", "most", "zero"], ["Z"]),
        ],
    ),
    "there and back": (
        1,
        [
            helper.make_node("Squeeze", ["Y1", "one"], ["a"]),
            helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
            helper.make_node("Transpose", ["b"], ["Z"], perm=[1, 0, 2]),
        ],
    ),
}


def two_nodes(D, between, H=(3, 4), opset=15, inputs=None, below=None, above=None, outputs=("Y",)):
    """Two LSTMs with nodes between them."""
    direction = {"direction": "bidirectional"} if D == 2 else {}
    one, other = weights(D, 2, H[0]), weights(D, D * H[0], H[1], 1)
    stored = {"one": N([1]), "zero": N([0]), "-1": N([-1]), "0 0 -1": N([0, 0, -1]), "yes": N(True)}
    stored |= {"least": N([-(2**63)]), "most": N([2**63 - 1]), "100": N([100]), "-100": N([-100])}
    stored |= {"0.0": N(0.0, F32), "1.0": N(1.0, F32)}
    nodes = [
        lstm_node(one, y="Y1", prefix="a", name="below", **direction, **(below or {})),
        *between,
        lstm_node(other, x="Z", prefix="b", name="above", **direction, **(above or {})),
    ]
    initializers = [*tensors(one, "a"), *tensors(other, "b"), *tensors(stored)]
    return model_of(nodes, initializers, inputs, outputs, opset)


def if_model(given):
    inner = lstm_node(given, y="inner", name="lstm", prefix="o")
    then = helper.make_graph(
        [inner], "then", [], [helper.make_tensor_value_info("inner", 1, None)], tensors({"oW": given["W"]})
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["zeros"], ["other"])],
        "else",
        [],
        [helper.make_tensor_value_info("other", 1, None)],
    )
    node = helper.make_node("If", ["go"], ["Y"], name="choose", then_branch=then, else_branch=other)
    stored = {"oR": given["R"], "oB": given["B"], "zeros": np.zeros((1, 1, 1, 3), F32)}
    return model_of([node], tensors(stored), {"X": ["T", "B", 2], "go": []})


def loop_model(given):
    body = helper.make_graph(
        [
            lstm_node(given, x="carried", name="", y="Y4"),
            helper.make_node("Squeeze", ["Y4", "one"], ["next"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("k", 7, []),
            helper.make_tensor_value_info("go_in", 9, []),
            helper.make_tensor_value_info("carried", 1, None),
        ],
        [helper.make_tensor_value_info("go_out", 9, []), helper.make_tensor_value_info("next", 1, None)],
    )
    node = helper.make_node("Loop", ["count", ""], ["Y"], body=body)
    node.input.append("X")
    return model_of([node], tensors(given | {"one": N([1])}), {"X": ["T", "B", 3], "count": []})


def called(inputs, given, formal=("X", "W"), name="call", outputs=("Y",), **attributes):
    """A model whose LSTM stands in a function, its W given by the call."""
    inner = [constant(key, value=numpy_helper.from_array(array)) for key, array in given.items() if key != "W"]
    function = helper.make_function(
        "local",
        "layer",
        list(formal),
        ["Y"],
        [*inner, lstm_node(given, name="inner")],
        [helper.make_opsetid("", 14)],
        ["direction"],
    )
    node = helper.make_node("layer", inputs, list(outputs), name=name, domain="local", **attributes)
    return model_of([node], tensors({"w": given["W"]}), functions=[function])
