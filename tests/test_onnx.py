"""``nplstm.onnx.lstm`` against ONNX's equations as a plain loop, its published tests, and onnxruntime.

Needed for the last two, and skipped without: the packages onnx and onnxruntime.
"""

import inspect

import numpy as np
import pytest
from conftest import require

import nplstm
from nplstm.backends import get_backend
from nplstm.io.weight_formats import single_layer

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")
DIRECTIONS = ("forward", "reverse", "bidirectional")
VERSIONS = (7, 14, 22)

# name: function of x, alpha and beta; the default of alpha, of beta (None: the function has no such constant)
FUNCTIONS = {
    "Relu": (lambda x, a, b: max(x, 0.0), None, None),
    "Tanh": (lambda x, a, b: np.tanh(x), None, None),
    "Sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), None, None),
    "Affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "LeakyRelu": (lambda x, a, b: x if x >= 0 else a * x, 0.01, None),
    "ThresholdedRelu": (lambda x, a, b: x if x >= a else 0.0, 1.0, None),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),  # ONNX has no defaults for it
    "HardSigmoid": (lambda x, a, b: min(max(a * x + b, 0.0), 1.0), 0.2, 0.5),
    "Elu": (lambda x, a, b: x if x >= 0 else a * (np.exp(x) - 1), 1.0, None),
    "Softsign": (lambda x, a, b: x / (1 + abs(x)), None, None),
    "Softplus": (lambda x, a, b: np.log(1 + np.exp(x)), None, None),
}
BY_KEY = {name.lower(): function for name, function in FUNCTIONS.items()}


def functions_of(names, alphas, betas):
    """The activations, each holding the constants that are its own."""
    alphas, betas, chosen = list(alphas), list(betas), []
    for name in names:
        function, alpha, beta = BY_KEY[name.lower()]
        alpha = alphas.pop(0) if alpha is not None and alphas else alpha
        beta = betas.pop(0) if beta is not None and betas else beta
        chosen.append(
            np.vectorize(lambda x, function=function, a=alpha, b=beta: function(x, a, b), otypes=[float])
        )
    return chosen


def plain_loop(inputs, attributes):
    """The operator's own equations, for one sequence and one step at a time, in the inputs' element type."""
    X, W, R, B, lens, h_0, c_0, P = (inputs.get(name) for name in INPUTS)
    batch_first = attributes.get("layout", 0) == 1
    X, h_0, c_0 = (np.swapaxes(a, 0, 1) if batch_first and a is not None else a for a in (X, h_0, c_0))
    (T, batch, _), (D, _, H) = X.shape, R.shape
    lens, clip = np.full(batch, T) if lens is None else lens, attributes.get("clip", np.inf)
    names = attributes.get("activations", ["Sigmoid", "Tanh", "Tanh"] * D)
    acts = functions_of(names, attributes.get("activation_alpha", []), attributes.get("activation_beta", []))
    Y, Y_h, Y_c = np.zeros((T, D, batch, H)), np.zeros((D, batch, H)), np.zeros((D, batch, H))
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[attributes["direction"]]
    for d, b in np.ndindex(D, batch):
        f, g, h_act = acts[3 * d : 3 * d + 3]
        Wb, Rb = np.split(np.zeros(8 * H) if B is None else B[d], 2)
        p_i, p_o, p_f = np.split(np.zeros(3 * H) if P is None else P[d], 3)
        h, c = (np.zeros(H) if s is None or lens[b] == 0 else s[d, b] for s in (h_0, c_0))
        for t in sorted(range(lens[b]), reverse=reverse[d]):
            a_i, a_o, a_f, a_c = np.split(W[d] @ X[t, b] + R[d] @ h + Wb + Rb, 4)
            i = f(np.clip(a_i + p_i * c, -clip, clip))
            forget = 1 - i if attributes.get("input_forget") else f(np.clip(a_f + p_f * c, -clip, clip))
            c = forget * c + i * g(np.clip(a_c, -clip, clip))
            o = f(np.clip(a_o + p_o * c, -clip, clip))
            h = o * h_act(c)
            Y[t, d, b] = h
        Y_h[d, b], Y_c[d, b] = h, c
    if batch_first:
        return Y.transpose(2, 0, 1, 3), Y_h.swapaxes(0, 1), Y_c.swapaxes(0, 1)
    return Y, Y_h, Y_c


def draw(seed, dtype="float64", layouts=(0, 1)):
    """Inputs and attributes: each option is there in about half of the models."""
    rng = np.random.default_rng(seed)
    T, B, I, H = (int(rng.choice(sizes)) for sizes in ((1, 2, 5, 7), (1, 2, 3, 11), (1, 2, 3, 5), (1, 2, 3, 7)))
    direction = str(rng.choice(DIRECTIONS))
    D = 2 if direction == "bidirectional" else 1

    def numbers(*shape):
        return rng.normal(0, 0.25, shape).astype(dtype)

    def constants(position):
        count = sum(FUNCTIONS[name][position] is not None for name in names)
        # a float32, as which ONNX holds it; now and then fewer than could be given
        return [float(np.float32(x)) for x in rng.uniform(0.2, 0.8, count)][
            : None if rng.random() < 0.7 else count // 2
        ]

    inputs = {"X": numbers(T, B, I), "W": numbers(D, 4 * H, I), "R": numbers(D, 4 * H, H)}
    optional = {"B": (D, 8 * H), "initial_h": (D, B, H), "initial_c": (D, B, H), "P": (D, 3 * H)}
    inputs |= {name: numbers(*shape) for name, shape in optional.items() if rng.random() < 0.6}
    attributes = {"direction": direction}
    if rng.random() < 0.5:
        inputs["sequence_lens"] = rng.integers(0, T + 1, B).astype(np.int32)
        inputs["sequence_lens"][rng.integers(B)] = T
    if rng.random() < 0.5:
        attributes["clip"] = float(np.float32(rng.uniform(0.1, 0.5)))
    if rng.random() < 0.4:
        attributes["input_forget"] = 1
    if rng.random() < 0.8:
        names = [str(name) for name in rng.choice(list(FUNCTIONS), 3 * D)]
        attributes["activations"] = [getattr(name, rng.choice(["lower", "upper", "title"]))() for name in names]
        attributes |= {f"activation_{k}": v for k, v in (("alpha", constants(1)), ("beta", constants(2))) if v}
    if rng.choice(layouts) == 1:
        inputs = batch_first(inputs)
        attributes["layout"] = 1
    return inputs, attributes


def batch_first(arrays):
    """The other layout of what has a batch axis."""
    turned = {"X": (1, 0, 2), "initial_h": (1, 0, 2), "initial_c": (1, 0, 2)}
    turned |= {"Y": (2, 0, 1, 3), "Y_h": (1, 0, 2), "Y_c": (1, 0, 2)}
    return {k: np.ascontiguousarray(a.transpose(turned[k])) if k in turned else a for k, a in arrays.items()}


def compute(be, inputs, attributes):
    """What the library makes of it, by the outputs' names."""
    given = {name: a if name == "sequence_lens" else be.asarray(a) for name, a in inputs.items()}
    results = nplstm.onnx.lstm(**given, **attributes)
    assert all(be.is_array(array) for array in results)
    return dict(zip(OUTPUTS, map(be.to_numpy, results), strict=True))


def compare(actual, expected, tolerance):
    """Differences relative to the largest magnitude, or to 1: an activation is right to a rounding of 1."""
    for name, array in expected.items():
        assert actual[name].shape == array.shape, f"{name}: shape {actual[name].shape}, expected {array.shape}"
        difference = np.abs(actual[name] - array).max(initial=0)
        assert difference <= tolerance * max(1, np.abs(array).max(initial=0)), (
            f"{name}: differs by {difference:.3g}"
        )


def check(be, inputs, attributes, tolerance=1e-12):
    """Compare the library with the loop. Without a tolerance of its own: float64 rounds at 1e-16."""
    expected = dict(zip(OUTPUTS, plain_loop(inputs, attributes), strict=True))
    compare(compute(be, inputs, attributes), expected, tolerance)


@pytest.mark.parametrize("seed", range(60))
def test_the_equations(seed, be):
    check(be, *draw(seed))


def test_the_models_have_everything():
    """What is drawn has every function in every place, every option with and without, and all of them together."""
    models = [draw(seed) for seed in range(60)]
    chosen = [attributes.get("activations", ["Sigmoid", "Tanh", "Tanh"]) for _, attributes in models]
    for place in range(3):
        assert {name.lower() for names in chosen for name in names[place::3]} == {n.lower() for n in FUNCTIONS}
    for name in (
        *INPUTS[3:],
        "clip",
        "input_forget",
        "activations",
        "activation_alpha",
        "activation_beta",
        "layout",
    ):
        there = sum(name in inputs or name in attributes for inputs, attributes in models)
        assert 15 <= there < 60, f"{name}: {there}"
    assert {attributes["direction"] for _, attributes in models} == set(DIRECTIONS)
    assert any((inputs.get("sequence_lens", 1) == 0).any() for inputs, _ in models if "sequence_lens" in inputs)


def model(direction="bidirectional", dtype="float64", **attributes):
    """One model with every input."""
    rng = np.random.default_rng(0)
    T, B, I, H, D = 5, 3, 2, 7, 2 if direction == "bidirectional" else 1
    shapes = {"X": (T, B, I), "W": (D, 4 * H, I), "R": (D, 4 * H, H), "B": (D, 8 * H), "P": (D, 3 * H)}
    shapes |= {"initial_h": (D, B, H), "initial_c": (D, B, H)}
    inputs = {name: rng.normal(0, 0.5, shape).astype(dtype) for name, shape in shapes.items()}
    return inputs | {"sequence_lens": np.array([5, 0, 2], np.int32)}, {"direction": direction, **attributes}


def test_element_types(be):
    for dtype in be.float_dtypes:  # float16 among them, but for NumPy's
        inputs, attributes = model(dtype=dtype)
        # the element type's rounding, over 5 steps of sums of 10 products
        check(be, inputs, attributes, 20 * float(np.finfo(dtype).eps))
        assert all(array.dtype == dtype for array in compute(be, inputs, attributes).values())


@pytest.mark.parametrize("lens", [[5, 0, 2], (5, 0, 2), *(np.array([5, 0, 2], kind) for kind in "bBhHiIqQ")])
def test_lengths_are_any_integers(lens, be):
    inputs, attributes = model()
    expected = compute(be, inputs, attributes)
    compare(compute(be, inputs | {"sequence_lens": lens}, attributes), expected, 0)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_sequences_without_steps(direction, layout, be):
    """As in onnxruntime: a sequence of length 0 has a final state of zeros, whatever state it was given."""
    inputs, attributes = model(direction, layout=layout)
    inputs["sequence_lens"] = np.zeros(3, np.int32)
    empty = inputs | {"X": inputs["X"][:0], "sequence_lens": None}  # T = 0 comes to the same
    for given in (inputs, empty):
        turned = batch_first(given) if layout else given
        check(be, turned, attributes)
        assert all((array == 0).all() for array in compute(be, turned, attributes).values())


def test_a_batch_without_sequences(be):
    inputs, attributes = model()
    none = {n: a[:, :0] if n in {"X", "initial_h", "initial_c"} else a for n, a in inputs.items()}
    results = compute(be, none | {"sequence_lens": inputs["sequence_lens"][:0]}, attributes)
    assert [results[name].shape for name in OUTPUTS] == [(5, 2, 0, 7), (2, 0, 7), (2, 0, 7)]


def test_what_coupled_gates_do_not_read(be):
    """Weights, biases and peepholes of the forget gate may be anything."""
    inputs, attributes = model(input_forget=1)
    expected = compute(be, inputs, attributes)
    for name in ("W", "R", "B", "P"):
        array = inputs[name] = inputs[name].copy()
        for first in (14, 42) if name == "B" else (14,):  # the third block of H = 7, in each half of B
            array[:, first : first + 7] = np.nan
    compare(compute(be, inputs, attributes), expected, 0)


def test_the_inputs_are_not_changed(be):
    inputs, attributes = model(clip=0.3)
    given = {name: be.asarray(array) for name, array in inputs.items() if name != "sequence_lens"}
    nplstm.onnx.lstm(**given, **attributes)
    assert all(np.array_equal(be.to_numpy(array), inputs[name]) for name, array in given.items())


# Each attribute and optional input acts: a call that leaves it out is seen.


@pytest.mark.parametrize("left_out", [*INPUTS[3:], "activations", "activation_alpha", "activation_beta", "clip"])
def test_the_check_sees_what_is_left_out(left_out, be):
    names = ["HardSigmoid", "LeakyRelu", "ScaledTanh"] * 2
    constants = dict(activation_alpha=[0.4, 0.5, 0.6] * 2, activation_beta=[0.3, 0.7] * 2)
    inputs, attributes = model(clip=0.2, activations=names, **constants)
    check(be, inputs, attributes)
    expected = dict(zip(OUTPUTS, plain_loop(inputs, attributes), strict=True))
    fewer = {name: value for name, value in attributes.items() if name != left_out}
    if left_out == "activations":
        fewer = {name: value for name, value in fewer.items() if name not in constants}
    with pytest.raises(AssertionError, match="differs by"):
        compare(compute(be, {n: a for n, a in inputs.items() if n != left_out}, fewer), expected, 1e-3)


@pytest.mark.parametrize("other", [dict(input_forget=1), dict(direction="reverse"), dict(layout=1)])
def test_the_check_sees_another_choice(other, be):
    inputs, attributes = model("forward")
    inputs = {"X": inputs["X"][:3], "W": inputs["W"], "R": inputs["R"]}  # T = B: no shape gives it away
    expected = dict(zip(OUTPUTS, plain_loop(inputs, attributes), strict=True))
    if "layout" in other:  # nor do those of the outputs, to which the loop's have to be turned
        expected = batch_first(expected)
    with pytest.raises(AssertionError, match="differs by"):
        compare(compute(be, inputs, attributes | other), expected, 1e-3)


@pytest.mark.parametrize("order", ["oifg", "ifog", "iogf"])
def test_the_check_sees_swapped_gates(order, be, monkeypatch):
    """Broken on purpose: two gates change places in the layout that the function reads."""
    layout = single_layer.LAYER_FORMATS["onnx"]
    monkeypatch.setitem(single_layer.LAYER_FORMATS, "onnx", layout._replace(order=order))
    with pytest.raises(AssertionError, match="differs by"):
        check(be, *model(), 1e-3)


# ONNX's own tests and definitions


@pytest.fixture(scope="module")
def onnx():
    try:
        import onnx
        import onnx.backend.test.case.node.lstm  # its import makes the cases
    except ImportError:
        require("onnx", "onnx is not installed: its node tests and definitions need it")
    return onnx


def arguments_of(onnx, node, arrays):
    """Inputs by the operator's names, which a node's own may differ from, and attributes."""
    present = [name for name, given in zip(INPUTS, node.input, strict=False) if given]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {
        name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()
    }
    return dict(zip(present, arrays, strict=True)), attributes


def test_the_operators_published_tests(onnx, be):
    cases = [c for c in onnx.backend.test.case.node._NodeTestCases if c.model.graph.node[0].op_type == "LSTM"]
    assert len(cases) >= 4
    for case in cases:
        node = case.model.graph.node[0]
        for arrays, expected in case.data_sets:
            inputs, attributes = arguments_of(onnx, node, arrays)
            results = compute(be, inputs, attributes)
            wanted = [name for name, given in zip(OUTPUTS, node.output, strict=False) if given]
            # the expected values are float32, which rounds at 6e-8; ONNX itself grants 1e-3
            compare(results, dict(zip(wanted, expected, strict=True)), 1e-6)


def test_the_signature_is_the_operators(onnx):
    parameters = inspect.signature(nplstm.onnx.lstm).parameters.values()
    for version in VERSIONS:
        schema = onnx.defs.get_schema("LSTM", version)
        assert schema.since_version == version
        assert [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD] == [i.name for i in schema.inputs]
        attributes = {p.name for p in parameters if p.kind == p.KEYWORD_ONLY}
        assert attributes - ({"layout"} if version < 14 else set()) == set(schema.attributes)


def test_the_constants_are_their_operators(onnx):
    """By ONNX's rule that defaults are those of the corresponding operators, where there is one."""
    for name, (_, alpha, beta) in FUNCTIONS.items():
        activation = nplstm.Activation(name)
        assert (activation.alpha, activation.beta) == (alpha, beta)
        if name not in {"Affine", "ScaledTanh"}:  # experimental operators once, and gone
            defaults = onnx.defs.get_schema(name).attributes
            for constant, expected in (("alpha", alpha), ("beta", beta)):
                if expected is not None:
                    assert np.float32(expected) == np.float32(defaults[constant].default_value.f)


# onnxruntime


@pytest.fixture(scope="module")
def runtime(onnx):
    """A function that runs a model of one node on onnxruntime's CPU kernel."""
    try:
        import onnxruntime
    except ImportError:
        require("onnxruntime", "onnxruntime is not installed: the live comparison needs it")

    def run(inputs, attributes, version=22):
        kinds = {"f": onnx.TensorProto.FLOAT, "d": onnx.TensorProto.DOUBLE, "i": onnx.TensorProto.INT32}
        names = [name if name in inputs else "" for name in INPUTS]
        hidden_size = inputs["R"].shape[2]  # optional in ONNX, demanded by onnxruntime
        node = onnx.helper.make_node("LSTM", names, OUTPUTS, hidden_size=hidden_size, **attributes)
        kind = kinds[inputs["X"].dtype.char]
        values = [
            onnx.helper.make_tensor_value_info(n, kinds[inputs[n].dtype.char], inputs[n].shape) for n in names if n
        ]
        outputs = [onnx.helper.make_tensor_value_info(n, kind, None) for n in OUTPUTS]
        graph = onnx.helper.make_graph([node], "lstm", values, outputs)
        opset = onnx.helper.make_opsetid("", version)
        # an IR version that onnxruntime has known for long: onnx may be ahead of it
        proto = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what it refuses, it says in an exception too
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return dict(zip(OUTPUTS, session.run(None, inputs), strict=True))

    return run


def fill_in_constants(attributes):
    """Write out the constants that a model leaves to their defaults: see test_onnxruntime_goes_its_own_way."""
    names = attributes.get("activations", [])
    full = dict(attributes)
    for position, constant in ((1, "activation_alpha"), (2, "activation_beta")):
        defaults = [BY_KEY[n.lower()][position] for n in names if BY_KEY[n.lower()][position] is not None]
        given = attributes.get(constant, [])
        full |= {constant: [*given, *defaults[len(given) :]]} if defaults else {}
    return full


@pytest.mark.parametrize("seed", range(1000, 1160))
def test_onnxruntime(seed, runtime, be):
    """All it has: for ``layout=1``, which it refuses, its arrays are turned here."""
    inputs, attributes = draw(seed, "float32", layouts=(0,))
    expected = runtime(inputs, fill_in_constants(attributes), VERSIONS[seed % 3])
    assert np.isfinite(expected["Y"]).all()
    # float32 rounds at 6e-8, over at most 7 steps; relative to 1 where values are smaller, since both sides'
    # sigmoids are right to a rounding of 1, and so is onnxruntime's ScaledTanh, 2 sigmoid(2x) - 1
    compare(compute(be, inputs, attributes), expected, 1e-6)
    results = compute(be, batch_first(inputs), attributes | {"layout": 1})
    compare(results, batch_first(expected), 1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_in_onnxruntime(name, runtime, be):
    """Every function in every place, over a range that reaches past its corners."""
    _, alpha, beta = FUNCTIONS[name]
    constants = dict(activation_alpha=[] if alpha is None else [0.75] * 3)
    constants |= dict(activation_beta=[] if beta is None else [0.375] * 3)
    inputs, attributes = model("forward", "float32", activations=[name] * 3)
    inputs = {key: array for key, array in inputs.items() if key not in {"P", "sequence_lens"}}
    inputs["X"] *= 4
    attributes |= {key: value for key, value in constants.items() if value}
    # one step: functions without bounds would multiply up, and their rounding with them
    inputs["X"] = inputs["X"][:1]
    compare(compute(be, inputs, attributes), runtime(inputs, attributes), 1e-6)


def one_step(values, activations, **attributes):
    """A model of one step whose gates are all 1 and whose candidate reads ``values``: c is g(values)."""
    H = len(values)
    W = np.zeros((1, 4 * H, 1), np.float32)
    W[0, 3 * H :, 0] = values
    inputs = {"X": np.ones((1, 1, 1), np.float32), "W": W, "R": np.zeros((1, 4 * H, H), np.float32)}
    return inputs, {"direction": "forward", "activations": ["Affine", *activations], **attributes}


def test_onnxruntime_clips_what_the_gates_read_and_nothing_else(runtime, be):
    """ONNX says that clip is "applied to the input of activations", and leaves open whether h is among them."""
    inputs, attributes = model("forward", "float32", clip=0.25)
    inputs["initial_c"] *= 20
    expected = runtime(inputs, attributes)
    assert np.abs(expected["Y_c"]).max() > 1
    compare(compute(be, inputs, attributes), expected, 1e-6)
    h_clipped = np.tanh(np.clip(expected["Y_c"], -0.25, 0.25))
    assert (np.abs(expected["Y_h"]) > np.abs(h_clipped)).any()


def test_onnxruntime_and_sequences_without_steps(runtime, be):
    inputs, attributes = model(dtype="float32")
    expected = runtime(inputs, attributes)
    assert (expected["Y_h"][:, 1] == 0).all()
    assert (expected["Y_c"][:, 1] == 0).all()
    assert (inputs["initial_h"][:, 1] != 0).any()
    compare(compute(be, inputs, attributes), expected, 1e-6)


# What c is in onnxruntime 1.31, and here, where they differ, and why: all but ScaledTanh is against ONNX's text.
OWN_WAYS = {
    # "x if x >= alpha else 0"; its operator ThresholdedRelu says x > alpha, and onnxruntime has that here too
    "ThresholdedRelu at its threshold": (("ThresholdedRelu", "Tanh"), [0.0, 0.5], [1.0], 0.5, 0.0, 0.5),
    # "Default values are the same as of corresponding ONNX operators": onnxruntime has a table of its own, with
    # LeakyRelu, HardSigmoid and Elu; the others' constants are 0
    "ThresholdedRelu without alpha": (("ThresholdedRelu", "Tanh"), [0.0], [1.0], 0.5, 0.5, 0.0),
    "Affine without constants": (("Affine", "Tanh"), [0.0], [1.0], 0.5, 0.0, 0.5),
    "ScaledTanh without constants": (("ScaledTanh", "Tanh"), [0.0], [1.0], 0.5, 0.0, np.tanh(np.float32(0.5))),
    # log(1 + e^x) with e^x in float32
    "Softplus of 100": (("Softplus", "Tanh"), [0.0], [1.0], 100.0, np.inf, 100.0),
}


@pytest.mark.parametrize("name", OWN_WAYS)
def test_onnxruntime_goes_its_own_way(name, runtime, be):
    activations, alpha, beta, value, theirs, ours = OWN_WAYS[name]
    inputs, attributes = one_step([value], activations, activation_alpha=alpha, activation_beta=beta)
    assert runtime(inputs, attributes)["Y_c"].item() == theirs
    assert abs(compute(be, inputs, attributes)["Y_c"].item() - ours) < 1e-6


def test_onnxruntime_refuses_what_is_computed_here(runtime, be):
    inputs, attributes = model("forward", "float32")
    with pytest.raises(Exception, match=r"layout == 1.* are not supported"):
        runtime(batch_first(inputs), attributes | {"layout": 1})
    with pytest.raises(Exception, match="does not support double"):
        runtime(model("forward", "float64")[0], attributes)
    check(be, batch_first(inputs), attributes | {"layout": 1}, 1e-6)
    check(be, model("forward", "float64")[0], attributes)


def test_onnxruntime_ignores_what_is_refused_here(runtime):
    inputs, attributes = model("forward", "float32")
    runtime(inputs, attributes | {"activation_alpha": [1.0]})
    runtime(inputs, attributes | {"input_forget": 2})
    for refused, match in (
        (dict(activation_alpha=[1.0]), "activation_alpha"),
        (dict(input_forget=2), "input_forget"),
    ):
        with pytest.raises(nplstm.ArgumentError, match=match):
            nplstm.onnx.lstm(**inputs, **(attributes | refused))


# Bad input

F32 = np.float32
GOOD = {"X": np.zeros((5, 3, 2), F32), "W": np.zeros((1, 28, 2), F32), "R": np.zeros((1, 28, 7), F32)}
THREE = ["Sigmoid", "Tanh", "Tanh"]
BAD = {
    "X list": (dict(X=[[[1.0]]]), nplstm.BackendError, "X: expected an array of NumPy or CuPy, got builtins.list"),
    "W list": (dict(W=[1.0]), nplstm.BackendError, "W: expected an array"),
    "X integers": (dict(X=np.zeros((5, 3, 2), int)), nplstm.DTypeError, r"X: backend 'numpy' has .*, got int64"),
    "X half": (dict(X=np.zeros((5, 3, 2), "f2")), nplstm.DTypeError, "X: .*got float16; float16 needs .*'cupy'"),
    "W double": (dict(W=np.zeros((1, 28, 2))), nplstm.DTypeError, "W: is float64, but X is float32"),
    "B double": (dict(B=np.zeros((1, 56))), nplstm.DTypeError, "B: is float64, but X is float32"),
    "X axes": (dict(X=np.zeros((5, 2), F32)), nplstm.ShapeError, r"X: expected shape \(T, B, I\), got \(5, 2\)"),
    "X axes first": (
        dict(X=np.zeros((5, 2), F32), layout=1), nplstm.ShapeError, r"X: expected shape \(B, T, I\), got \(5, 2\)",
    ),
    "R directions": (
        dict(direction="bidirectional"), nplstm.ShapeError, r"R: expected shape \(D=2, 4H, H\), got \(1, 28, 7\)",
    ),
    "R rows": (dict(R=np.zeros((1, 27, 7), F32)), nplstm.ShapeError, r"R: expected shape \(D=1, 4H=28, H=7\)"),
    "R empty": (dict(R=np.zeros((1, 0, 0), F32)), nplstm.ShapeError, "W: .*H, I >= 1, got H=0 from R, I=2 from X"),
    "W columns": (dict(W=np.zeros((1, 28, 3), F32)), nplstm.ShapeError, r"W: expected shape \(D=1, 4H=28, I=2\)"),
    "B": (dict(B=np.zeros((1, 28), F32)), nplstm.ShapeError, r"B: expected shape \(D=1, 8H=56\), got \(1, 28\)"),
    "P": (dict(P=np.zeros((1, 28), F32)), nplstm.ShapeError, r"P: expected shape \(D=1, 3H=21\), got \(1, 28\)"),
    "initial_h": (
        dict(initial_h=np.zeros((3, 7), F32)), nplstm.ShapeError,
        r"initial_h: expected shape \(D=1, B=3, H=7\), got \(3, 7\)",
    ),
    "initial_c first": (
        dict(initial_c=np.zeros((1, 3, 7), F32), X=np.zeros((3, 5, 2), F32), layout=1), nplstm.ShapeError,
        r"initial_c: expected shape \(B=3, D=1, H=7\), got \(1, 3, 7\)",
    ),
    "lens count": (dict(sequence_lens=[5, 5]), nplstm.ShapeError, "sequence_lens: expected one for each of B=3"),
    "lens above": (
        dict(sequence_lens=[5, 6, 1]), nplstm.ArgumentError,
        r"sequence_lens: expected integers in \[0, T=5\], got sequence_lens\[1\] = 6",
    ),
    "lens below": (dict(sequence_lens=[5, -1, 1]), nplstm.ArgumentError, r"sequence_lens: .* = -1$"),
    "lens floats": (dict(sequence_lens=[5.0, 1.0, 1.0]), nplstm.DTypeError, "sequence_lens: expected integers"),
    "lens axes": (dict(sequence_lens=[[5, 1, 1]]), nplstm.ShapeError, r"sequence_lens: expected shape \(B,\)"),
    "direction": (
        dict(direction="backward"), nplstm.ArgumentError,
        "direction: expected one of 'forward', 'reverse', 'bidirectional', got 'backward'",
    ),
    "direction bytes": (dict(direction=b"forward"), nplstm.ArgumentError, "direction: .*, got b'forward'"),
    "direction list": (dict(direction=["forward"]), nplstm.ArgumentError, "direction: "),
    "hidden_size": (
        dict(hidden_size=3), nplstm.ArgumentError, r"hidden_size: R, of shape \(1, 28, 7\), has H=7, got 3",
    ),
    "hidden_size float": (dict(hidden_size=7.0), nplstm.ArgumentError, "hidden_size: expected an integer"),
    "input_forget": (dict(input_forget=2), nplstm.ArgumentError, "input_forget: expected 0 or 1, got 2"),
    "layout": (dict(layout="1"), nplstm.ArgumentError, "layout: expected 0 or 1, got '1'"),
    "layout float": (dict(layout=1.0), nplstm.ArgumentError, "layout: expected 0 or 1, got 1.0"),
    "clip 0": (dict(clip=0.0), nplstm.ArgumentError, r"clip: expected a number in \(0.0, inf\), got 0.0"),
    "clip nan": (dict(clip=float("nan")), nplstm.ArgumentError, "clip: .*got nan"),
    "activations few": (
        dict(activations=["Tanh"] * 2), nplstm.ArgumentError,
        "activations: expected 3 names, of f, g and h for each of D=1 directions, got",
    ),
    "activations many": (dict(activations=THREE * 2), nplstm.ArgumentError, "activations: expected 3 names"),
    "activations string": (dict(activations="abc"), nplstm.ArgumentError, "activations: expected 3 names.* 'abc'"),
    "activations unknown": (
        dict(activations=["Sigmoid", "Gelu", "Tanh"]), nplstm.ArgumentError,
        r"activations\[1\]: .*expected one of Relu, .*, got 'Gelu'",
    ),
    "activations bytes": (
        dict(activations=[b"Sigmoid", "Tanh", "Tanh"]), nplstm.ArgumentError,
        r"activations\[0\]: expected a name, got b'Sigmoid'",
    ),
    "alpha many": (
        dict(activations=["HardSigmoid", "Tanh", "Tanh"], activation_alpha=[0.1, 0.2]), nplstm.ArgumentError,
        r"activation_alpha: HardSigmoid, Tanh, Tanh take 1 of them, got \[0.1, 0.2\]",
    ),
    "alpha for none": (dict(activation_alpha=[0.1]), nplstm.ArgumentError, "activation_alpha: .* take 0 of them"),
    "beta many": (
        dict(activations=["Elu", "Tanh", "Tanh"], activation_beta=[0.1]), nplstm.ArgumentError,
        "activation_beta: Elu, Tanh, Tanh take 0 of them",
    ),
    "alpha number": (dict(activation_alpha=0.1), nplstm.ArgumentError, "activation_alpha: expected a list of num"),
    "alpha string": (
        dict(activations=["Elu"] * 3, activation_alpha=[1.0, "2"]), nplstm.ArgumentError,
        r"activation_alpha\[1\]: expected a number",
    ),
    "beta infinite": (
        dict(activations=["Affine"] * 3, activation_beta=[np.inf]), nplstm.ArgumentError,
        r"activation_beta\[0\]: expected a finite number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    arguments, error, message = BAD[name]
    nplstm.onnx.lstm(**GOOD)
    with pytest.raises(error, match=message):
        nplstm.onnx.lstm(**(GOOD | arguments))


def test_two_backends_are_refused(be):
    other = get_backend("strict" if be.name == "numpy" else "numpy")
    given = {name: be.asarray(array) for name, array in GOOD.items()} | {"R": other.asarray(GOOD["R"])}
    with pytest.raises(nplstm.BackendError, match=f"R: is an array of '{other.name}', but X is on '{be.name}'"):
        nplstm.onnx.lstm(**given)
