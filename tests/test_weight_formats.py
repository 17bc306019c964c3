"""Weights of other programs, against each program's own equations, written here as plain loops.

The loops take arrays as the other program holds them, drawn here; the library gets them by ``from_weight_format``.
"""

import numpy as np
import pytest
from cases import B, H, I, T
from helpers import assert_close

import nplstm
from nplstm.backends import get_backend
from nplstm.io import from_layout, from_weight_format, to_layout, to_weight_format
from nplstm.io.weight_formats import flat_vector, single_layer

L, D = 3, 2
STACK = dict(input_size=I, hidden_size=H, num_layers=L, bidirectional=True)

SHAPES = {
    "fused": {"W": (I + H, 4 * H), "b": (4 * H,)},
    "split": {"W_x": (I, 4 * H), "W_h": (H, 4 * H), "b_x": (4 * H,), "b_h": (4 * H,)},
    "separate": {f"W_i{gate}": (H, I) for gate in "ifgo"}
    | {f"W_h{gate}": (H, H) for gate in "ifgo"}
    | {f"b_{part}{gate}": (H,) for part in "ih" for gate in "ifgo"},
    "keras": {"kernel": (I, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,)},
    "onnx": {"W": (4 * H, I), "R": (4 * H, H), "B": (8 * H,)},
    "haste": {"kernel": (I, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,)},
    "thinc": {"LSTM": (D * (4 * H * (I + H) + 8 * H) + (L - 1) * D * (4 * H * (D * H + H) + 8 * H),)},
    "cudnn": {"weight_space": (D * (4 * H * (I + H) + 8 * H) + (L - 1) * D * (4 * H * (D * H + H) + 8 * H),)},
}
FLAT = ("thinc", "cudnn")
LAYER = tuple(format for format in SHAPES if format not in FLAT)
SUMMED = ("fused", "keras", "haste")
OPTIONAL = {"fused": "b", "split": "b_", "separate": "b_", "keras": "bias", "onnx": "B"}  # how biases' names start


def draw(format, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.5, shape) for name, shape in SHAPES[format].items()}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def run_loop(x, gates, peepholes=(0, 0, 0)):
    """Run one layer over (T, B, I); ``gates(x_t, h)`` gives i, f, g, o before their activations."""
    h = c = np.zeros((x.shape[1], H))
    outputs = []
    p_i, p_f, p_o = peepholes
    for x_t in x:
        i, f, g, o = gates(x_t, h)
        c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g)
        h = sigmoid(o + p_o * c) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def fused_loop(x, W, b):
    def gates(x_t, h):
        f, i, g, o = np.split(np.concatenate([x_t, h], axis=1) @ W + b, 4, axis=1)
        return i, f, g, o

    return run_loop(x, gates)


def split_loop(x, W_x, W_h, b_x, b_h):
    def gates(x_t, h):
        f, i, g, o = np.split(x_t @ W_x + b_x + h @ W_h + b_h, 4, axis=1)
        return i, f, g, o

    return run_loop(x, gates)


def separate_loop(x, W_ii, W_if, W_ig, W_io, W_hi, W_hf, W_hg, W_ho, **b):
    def gates(x_t, h):
        i = x_t @ W_ii.T + b["b_ii"] + h @ W_hi.T + b["b_hi"]
        f = x_t @ W_if.T + b["b_if"] + h @ W_hf.T + b["b_hf"]
        g = x_t @ W_ig.T + b["b_ig"] + h @ W_hg.T + b["b_hg"]
        o = x_t @ W_io.T + b["b_io"] + h @ W_ho.T + b["b_ho"]
        return i, f, g, o

    return run_loop(x, gates)


def keras_loop(x, kernel, recurrent_kernel, bias):
    def gates(x_t, h):
        i, f, c, o = np.split(x_t @ kernel + h @ recurrent_kernel + bias, 4, axis=1)
        return i, f, c, o

    return run_loop(x, gates)


def onnx_loop(x, W, R, B, P=None):
    def gates(x_t, h):
        i, o, f, c = np.split(x_t @ W.T + h @ R.T + B[: 4 * H] + B[4 * H :], 4, axis=1)
        return i, f, c, o

    P_i, P_o, P_f = np.split(P, 3) if P is not None else (0, 0, 0)
    return run_loop(x, gates, peepholes=(P_i, P_f, P_o))


def haste_loop(x, kernel, recurrent_kernel, bias):
    def gates(x_t, h):
        i, g, f, o = np.split(x_t @ kernel + h @ recurrent_kernel + bias, 4, axis=1)
        return i, f, g, o

    return run_loop(x, gates)


def take(vector, *shape):
    """Cut an array off a list of numbers."""
    count = int(np.prod(shape))
    taken, vector[:] = vector[:count], vector[count:]
    return np.reshape(taken, shape)


def run_stack(x, gates_of):
    """Run L layers of D directions; ``gates_of[layer, direction]`` are the gates of ``run_loop``."""
    for layer in range(L):
        forward = run_loop(x, gates_of[layer, 0])
        backward = run_loop(x[::-1], gates_of[layer, 1])[::-1]
        x = np.concatenate([forward, backward], axis=2)
    return x


def thinc_loop(x, LSTM):
    rest = list(LSTM)
    gates_of = {}
    for layer in range(L):
        for direction in range(D):
            Wx, bx = take(rest, 4, H, I if layer == 0 else D * H), take(rest, 4, H)
            Wh, bh = take(rest, 4, H, H), take(rest, 4, H)

            def gates(x_t, h, Wx=Wx, bx=bx, Wh=Wh, bh=bh):
                hf, hi, ho, hc = (x_t @ Wx[n].T + bx[n] + h @ Wh[n].T + bh[n] for n in range(4))
                return hi, hf, hc, ho

            gates_of[layer, direction] = gates
    assert not rest
    return run_stack(x, gates_of)


def cudnn_loop(x, weight_space):
    rest = list(weight_space)
    places = [(layer, direction) for layer in range(L) for direction in range(D)]
    matrices = {}
    for layer, direction in places:
        width = I if layer == 0 else D * H
        inputs = [take(rest, H, width) for _ in range(4)]
        matrices[layer, direction] = inputs, [take(rest, H, H) for _ in range(4)]
    gates_of = {}
    for place in places:
        (W, R), b_W, b_R = matrices[place], take(rest, 4, H), take(rest, 4, H)

        def gates(x_t, h, W=W, R=R, b_W=b_W, b_R=b_R):
            i, f, g, o = (x_t @ W[n].T + h @ R[n].T + b_W[n] + b_R[n] for n in range(4))
            return i, f, g, o

        gates_of[place] = gates
    assert not rest
    return run_stack(x, gates_of)


LOOPS = {format: globals()[f"{format}_loop"] for format in SHAPES}


def to_backend(be, arrays):
    return {name: be.asarray(array) for name, array in arrays.items()}


def to_host(be, arrays):
    return {name: be.to_numpy(array) for name, array in arrays.items()}


def options_of(format):
    return STACK if format in FLAT else {"suffix": "_l0"}


def suffix_of(format):
    return {} if format in FLAT else {"suffix": "_l0"}


def make_lstm(format, be, bias=True):
    stack = dict(num_layers=L, bidirectional=True) if format in FLAT else {}
    return nplstm.LSTM(I, H, bias=bias, dtype="float64", backend=be.name, rng=0, **stack)


def check_values(format, be):
    """Compare the library, with a format's arrays loaded, with the format's own equations."""
    arrays = draw(format)
    x = np.random.default_rng(1).standard_normal((T, B, I))
    lstm = make_lstm(format, be)
    lstm.load_state_dict(from_weight_format(format, to_backend(be, arrays), **options_of(format)))
    output, _ = lstm(be.asarray(x))
    # the same products of float64 numbers, summed in another order
    assert_close(be.to_numpy(output), LOOPS[format](x, **arrays), 1e-13, format)


@pytest.mark.parametrize("format", SHAPES)
def test_values_are_those_of_the_layouts_own_equations(format, be):
    check_values(format, be)


@pytest.mark.parametrize("format", SHAPES)
@pytest.mark.parametrize("swap", ["fi", "go"])
def test_a_wrong_order_of_gates_is_seen(format, swap, be, monkeypatch):
    table = flat_vector.FLAT_FORMATS if format in FLAT else single_layer.LAYER_FORMATS
    wrong = table[format].order.translate(str.maketrans(swap, swap[::-1]))
    monkeypatch.setitem(table, format, table[format]._replace(order=wrong))
    if format == "separate":  # names tell its gates: what can be wrong is torch's order
        monkeypatch.setattr(single_layer, "TORCH_ORDER", wrong)
    with pytest.raises(AssertionError, match=f"{format}: differs"):
        check_values(format, be)


def test_the_order_of_peepholes_is_onnxs(be):
    """The values before and after the conversion give the same outputs, each in its own equations."""
    arrays = draw("onnx") | {"P": np.random.default_rng(2).normal(0, 1, 3 * H)}
    x = np.random.default_rng(1).standard_normal((T, B, I))
    p = to_host(be, from_weight_format("onnx", to_backend(be, arrays)))
    assert p["weight_ch"].shape == (3 * H,)

    def gates(x_t, h):
        a = x_t @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
        return np.split(a, 4, axis=1)

    converted = run_loop(x, gates, peepholes=np.split(p["weight_ch"], 3))
    assert_close(converted, onnx_loop(x, **arrays), 1e-13, "output")
    back = to_host(be, to_weight_format("onnx", to_backend(be, p)))
    assert list(back) == ["W", "R", "B", "P"]
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("format", SHAPES)
def test_arrays_make_the_round_trip_bit_for_bit(format, dtype, be):
    arrays = {name: array.astype(dtype) for name, array in draw(format).items()}
    parameters = from_weight_format(format, to_backend(be, arrays), **options_of(format))
    back = to_host(be, to_weight_format(format, parameters, **suffix_of(format)))
    assert list(back) == list(arrays)  # in the documented order too
    for name, array in arrays.items():
        assert back[name].dtype == dtype
        assert np.array_equal(back[name], array)


@pytest.mark.parametrize("format", OPTIONAL)
def test_arrays_without_biases_make_the_round_trip(format, be):
    arrays = {name: array for name, array in draw(format).items() if not name.startswith(OPTIONAL[format])}
    parameters = from_weight_format(format, to_backend(be, arrays), suffix="_l0")
    assert list(parameters) == ["weight_ih_l0", "weight_hh_l0"]
    back = to_host(be, to_weight_format(format, parameters, suffix="_l0"))
    assert list(back) == list(arrays)
    assert all(np.array_equal(back[name], array) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("format", "bias"), [(n, True) for n in SHAPES] + [(n, False) for n in (*OPTIONAL, "cudnn")]
)
def test_parameters_make_the_round_trip(format, bias, be):
    lstm = make_lstm(format, be, bias)
    before = to_host(be, lstm.parameters)
    flat = {"bias": bias} if format == "cudnn" else {}
    arrays = to_weight_format(format, lstm.parameters, **suffix_of(format))
    after = to_host(be, from_weight_format(format, arrays, **options_of(format), **flat))
    assert set(after) == set(before)
    if bias and format in SUMMED:
        before["bias_ih_l0"] = before["bias_ih_l0"] + before["bias_hh_l0"]
        before["bias_hh_l0"] = np.zeros(4 * H)
    assert all(np.array_equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("format", ["split", "separate"])
@pytest.mark.parametrize("part", [0, 1])
def test_one_of_two_biases_is_enough(format, part, be):
    other = ("b_h", "b_x" if format == "split" else "b_i")[part]
    arrays = {name: array for name, array in draw(format).items() if not name.startswith(other)}
    with_zeros = draw(format) | {name: 0 * array for name, array in draw(format).items() if name not in arrays}
    first, second = (
        to_host(be, from_weight_format(format, to_backend(be, given))) for given in (arrays, with_zeros)
    )
    assert list(first) == list(second)
    assert all(np.array_equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize("format", SHAPES)
def test_results_are_new_contiguous_arrays(format, be):
    arrays = to_backend(be, draw(format))
    parameters = from_weight_format(format, arrays, **options_of(format))
    back = to_weight_format(format, parameters, **suffix_of(format))
    kept = {name: array.copy() for name, array in to_host(be, parameters).items()}
    for array in [*parameters.values(), *back.values()]:
        assert (array if hasattr(array, "flags") else array._values).flags.c_contiguous
    for array in [*arrays.values(), *back.values()]:
        array[...] = 0
    assert all(np.array_equal(be.to_numpy(parameters[name]), kept[name]) for name in kept)


@pytest.mark.parametrize("format", LAYER)
def test_results_share_no_memory_among_each_other(format, be):
    arrays = to_weight_format(format, from_weight_format(format, to_backend(be, draw(format))))
    kept = {name: array.copy() for name, array in to_host(be, arrays).items()}
    for name in kept:
        arrays[name][...] = 0
        rest = [other for other in kept if np.any(be.to_numpy(arrays[other]))]
        assert rest == list(kept)[list(kept).index(name) + 1 :]


def test_a_view_and_a_transpose_are_read_as_what_they_show(be):
    arrays = draw("keras")
    odd = {"kernel": be.asarray(np.ascontiguousarray(arrays["kernel"].T)).T}
    odd["recurrent_kernel"] = be.asarray(np.repeat(arrays["recurrent_kernel"], 2, axis=0))[::2]
    odd["bias"] = be.asarray(arrays["bias"])
    plain, viewed = (to_host(be, from_weight_format("keras", a)) for a in (to_backend(be, arrays), odd))
    assert all(np.array_equal(plain[name], viewed[name]) for name in plain)


def test_a_suffix_picks_one_layer_and_direction(be):
    lstm = make_lstm("cudnn", be)
    for suffix in ("_l0", "_l1_reverse", "_l2"):
        arrays = to_weight_format("separate", lstm.parameters, suffix=suffix)
        parameters = to_host(be, from_weight_format("separate", arrays, suffix=suffix))
        assert list(parameters) == [f + suffix for f in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        assert all(np.array_equal(parameters[name], be.to_numpy(lstm.parameters[name])) for name in parameters)


@pytest.mark.parametrize("format", LAYER)
def test_a_cells_parameters_have_no_suffix(format, be):
    cell = nplstm.LSTMCell(I, H, dtype="float64", backend=be.name, rng=0)
    arrays = to_weight_format(format, cell.parameters)
    cell.load_state_dict(from_weight_format(format, arrays))


def test_keras_takes_and_gives_lists(be):
    arrays = to_backend(be, draw("keras"))
    for names in (list(arrays), list(arrays)[:2]):
        given = {name: arrays[name] for name in names}
        by_name, by_place = from_weight_format("keras", given), from_weight_format("keras", list(given.values()))
        back = to_weight_format("keras", by_place, as_list=True)
        assert isinstance(back, list)
        assert list(by_name) == list(by_place)
        for name, array in zip(names, back, strict=True):
            assert np.array_equal(be.to_numpy(array), be.to_numpy(arrays[name]))


def changed(arrays, **changes):
    """Replace arrays; None takes one away."""
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


ARRAYS = {format: draw(format) for format in SHAPES}
PARAMETERS = {name: np.zeros(shape) for name, shape in dict(weight_ih=(20, 11), weight_hh=(20, 5)).items()}
BIASED = PARAMETERS | {"bias_ih": np.zeros(20), "bias_hh": np.zeros(20)}
DEEP = dict(nplstm.LSTM(I, H, num_layers=2, dtype="float64", rng=0).parameters)
PROJECTED = dict(nplstm.LSTM(I, H, proj_size=2, rng=0).parameters)

READ = {
    "unknown format": (
        ("torch", {}),
        "format: expected one of 'fused', 'split', 'separate', 'keras', 'onnx', 'haste', 'thinc', 'cudnn', got",
    ),
    "format None": ((None, {}), "format: expected one of .*, got None"),
    "format list": ((["keras"], {}), r"format: expected one of .*, got \['keras'\]"),
    "a list": (("split", [1, 2]), "arrays: expected a mapping of name to array, got list"),
    "a vector": (("cudnn", np.zeros(3), STACK), "arrays: expected a mapping of name to array, got ndarray"),
    "Keras's list of 4": (
        ("keras", [1] * 4),
        "arrays: expected a list of kernel, recurrent_kernel, bias.*, got 4",
    ),
    "a number for a name": (("keras", {1: 2}), "arrays: expected names as keys, got 1"),
    "nothing": (("keras", {}), "arrays: weight format 'keras' takes .*; missing: kernel, recurrent_kernel$"),
    "missing": (
        ("split", changed(ARRAYS["split"], W_h=None)),
        "arrays: weight format 'split' takes W_x, W_h, b_x, b_h; missing: W_h$",
    ),
    "missing and unknown": (
        ("onnx", changed(ARRAYS["onnx"], R=None, Z=1)),
        "arrays: weight format 'onnx' takes W, R, B, P; missing: R; unknown: Z",
    ),
    "a gate's bias missing": (("separate", changed(ARRAYS["separate"], b_hg=None)), "missing: b_hg$"),
    "Haste without bias": (("haste", changed(ARRAYS["haste"], bias=None)), "missing: bias$"),
    "wrong width": (
        ("keras", changed(ARRAYS["keras"], kernel=np.zeros((I, 4 * H + 1)))),
        r"kernel: expected shape \(I=11, 4H=20\), got \(11, 21\)",
    ),
    "a transposed matrix": (
        ("onnx", changed(ARRAYS["onnx"], R=np.zeros((H, 4 * H)))),
        r"R: expected shape \(4H=80, H=20\), got \(5, 20\)",
    ),
    "fused without inputs": (
        ("fused", {"W": np.zeros((H, 4 * H))}),
        r"W: expected shape \(I\+H, 4H\) with I, H >= 1, got \(5, 20\)",
    ),
    "rank": (("split", changed(ARRAYS["split"], W_h=np.zeros(5))), r"W_h: expected shape \(H, 4H\), got \(5,\)"),
    "no columns": (("split", changed(ARRAYS["split"], W_x=np.zeros((0, 20)))), "W_x: .* without an empty axis"),
    "bias": (("onnx", changed(ARRAYS["onnx"], B=np.zeros(20))), r"B: expected shape \(8H=40,\), got \(20,\)"),
    "peepholes": (("onnx", ARRAYS["onnx"] | {"P": np.zeros(20)}), r"P: expected shape \(3H=15,\), got \(20,\)"),
    "one gate": (
        ("separate", changed(ARRAYS["separate"], W_hf=np.zeros((H, I)))),
        r"W_hf: expected shape \(H=5, H=5\)",
    ),
    "no array": (
        ("fused", changed(ARRAYS["fused"], b=[1.0])),
        "b: expected an array of NumPy or CuPy, got .*list",
    ),
    "two types": (
        ("fused", changed(ARRAYS["fused"], b=np.zeros(20, np.float32))),
        "b: is float32, but W is float64; nothing is cast silently",
    ),
    "integers": (("fused", {"W": np.zeros((16, 20), int)}), "W: backend 'numpy' has .*, got int64"),
    "suffix": (("keras", ARRAYS["keras"], {"suffix": 0}), "suffix: expected a string such as '_l0', got 0"),
    "a stack's suffix": (
        ("thinc", {}, STACK | {"suffix": "_l0"}),
        "suffix: weight format 'thinc' holds all .*, got '_l0'",
    ),
    "sizes of a layer": (
        ("keras", ARRAYS["keras"], {"hidden_size": 5}),
        "hidden_size: the arrays of weight format 'keras' show their sizes; leave it out",
    ),
    "no input_size": (
        ("cudnn", ARRAYS["cudnn"], {"hidden_size": 5}),
        "input_size: .* weight format 'cudnn' needs this one",
    ),
    "no hidden_size": (("thinc", ARRAYS["thinc"], {"input_size": 5}), "hidden_size: .* 'thinc' needs this one"),
    "no layers": (("cudnn", {}, STACK | {"num_layers": 0}), "num_layers: expected an integer >= 1, got 0"),
    "directions": (("cudnn", {}, STACK | {"bidirectional": 2}), "bidirectional: expected True or False, got 2"),
    "bias 1": (("cudnn", {}, STACK | {"bias": 1}), "bias: expected True or False, got 1"),
    "Thinc without bias": (
        ("thinc", {}, STACK | {"bias": False}),
        "bias: weight format 'thinc' always has biases, got False",
    ),
    "a vector's name": (("thinc", {"w": 1}, STACK), "takes LSTM; missing: LSTM; unknown: w"),
    "a vector's size": (
        ("cudnn", ARRAYS["cudnn"], STACK | {"bias": False}),
        r"weight_space: expected shape \(1840,\) for input_size=11, hidden_size=5, num_layers=3, "
        r"bidirectional=True, bias=False, got \(2080,\)",
    ),
}


def test_the_former_names_do_the_same():
    arrays = draw("keras")
    parameters = from_weight_format("keras", arrays, suffix="_l0")
    before = from_layout(layout="keras", arrays=arrays, suffix="_l0")
    assert all(np.array_equal(before[name], array) for name, array in parameters.items())
    back = to_layout("keras", before, suffix="_l0", as_list=True)
    assert all(np.array_equal(one, other) for one, other in zip(back, arrays.values(), strict=True))


@pytest.mark.parametrize("name", READ)
def test_bad_arrays_are_named(name):
    (format, arrays, *options), message = READ[name]
    with pytest.raises(nplstm.NplstmError, match=message):
        from_weight_format(format, arrays, **(options[0] if options else {}))


WRITE = {
    "unknown format": (("jax", BIASED), "format: expected one of .*, got 'jax'"),
    "a list": (("keras", [1, 2]), "parameters: expected a mapping of name to array, got list"),
    "a layer": (("keras", nplstm.LSTMCell(I, H)), "parameters: .*; pass its .parameters"),
    "as_list": (("onnx", BIASED, {"as_list": True}), "as_list: only weight format 'keras' has a list, got 'onnx'"),
    "as_list 1": (("keras", BIASED, {"as_list": 1}), "as_list: expected True or False, got 1"),
    "no suffix": (("keras", DEEP), "suffix: no parameter ends in '', only these are there: weight_ih_l0"),
    "another suffix": (("keras", DEEP, {"suffix": "_l2"}), "suffix: no parameter ends in '_l2'"),
    "suffix None": (("keras", DEEP, {"suffix": None}), "suffix: expected a string such as '_l0', got None"),
    "a stack's suffix": (
        ("cudnn", DEEP, {"suffix": "_l0"}),
        "suffix: weight format 'cudnn' holds all layers and directions",
    ),
    "nothing": (("keras", {}), "parameters: weight format 'keras' takes .*; missing: weight_ih, weight_hh$"),
    "one bias": (("split", changed(BIASED, bias_ih=None)), "missing: bias_ih$"),
    "unknown": (
        ("split", BIASED | {"bias_hhh": 1}),
        "parameters: weight format 'split' takes .*; unknown: bias_hhh",
    ),
    "Haste without bias": (("haste", PARAMETERS), "weight format 'haste' takes .*; missing: bias_ih, bias_hh$"),
    "Thinc without bias": (
        ("thinc", changed(DEEP, bias_hh_l1=None)),
        "weight format 'thinc' .*; missing: bias_hh_l1$",
    ),
    "a layer is missing": (
        ("cudnn", {name.replace("_l1", "_l7"): array for name, array in DEEP.items()}),
        "missing: weight_ih_l1, weight_hh_l1, bias_ih_l1, bias_hh_l1; unknown: weight_ih_l7, .*bias_hh_l7$",
    ),
    "an unknown one in a stack": (("cudnn", DEEP | {"head": 1}), "unknown: head$"),
    "projection": (
        ("onnx", PROJECTED, {"suffix": "_l0"}),
        "weight_hr_l0: weight format 'onnx' is converted without a projection",
    ),
    "cuDNN's projection": (
        ("cudnn", PROJECTED),
        "weight_hr_l0: weight format 'cudnn' is converted without a projection",
    ),
    "narrow h": (
        ("keras", changed(BIASED, weight_hh=np.zeros((20, 2)))),
        r"weight_hh: .*\(4H=8, H=2\), got \(20, 2\)",
    ),
    "a stack's inner width": (
        ("cudnn", changed(DEEP, weight_ih_l1=np.zeros((20, 11)))),
        r"weight_ih_l1: expected shape \(4H=20, D\*H=5\), got \(20, 11\)",
    ),
    "a stack's narrow h": (
        ("cudnn", changed(DEEP, weight_hh_l0=np.zeros((20, 2)))),
        r"weight_hh_l0: expected shape \(4H=8, H=2\), got \(20, 2\)",
    ),
    "a stack's rank": (
        ("cudnn", changed(DEEP, weight_hh_l0=np.zeros(20))),
        r"weight_hh_l0: .*\(4H, H\), got \(20,\)",
    ),
    "two types": (
        ("keras", changed(BIASED, bias_hh=np.zeros(20, np.float32))),
        "bias_hh: is float32, but weight_ih is",
    ),
    "a stack's types": (("thinc", changed(DEEP, bias_hh_l1=np.zeros(20, np.float32))), "bias_hh_l1: is float32"),
    "no array": (("keras", changed(BIASED, bias_hh=None) | {"bias_hh": 1.0}), "bias_hh: expected an array"),
    "matrices of peepholes": (
        ("onnx", BIASED | {"weight_ch": np.zeros((15, 5))}),
        r"weight_ch: expected shape \(3H=15,\), got \(15, 5\)",
    ),
}


@pytest.mark.parametrize("name", WRITE)
def test_bad_parameters_are_named(name):
    (format, parameters, *options), message = WRITE[name]
    with pytest.raises(nplstm.NplstmError, match=message):
        to_weight_format(format, parameters, **(options[0] if options else {}))


EXTRAS = {
    "weight_ch": "peepholes",
    "gain_ih": "layer normalisation",
    "bias_c": "layer normalisation",
    "transform_weight": "a hidden transform",
}


@pytest.mark.parametrize(
    ("format", "extra"),
    [(n, extra) for n in SHAPES for extra in EXTRAS if (n, extra) != ("onnx", "weight_ch")],
)
def test_what_a_format_cannot_hold_is_named(format, extra):
    parameters = {f"{name}_l0": array for name, array in (BIASED | {extra: np.zeros(3 * H)}).items()}
    with pytest.raises(
        nplstm.ArgumentError, match=f"{extra}_l0: weight format '{format}' .* without {EXTRAS[extra]}"
    ):
        to_weight_format(format, parameters, **suffix_of(format))


def test_two_backends_are_refused(be):
    other = get_backend("strict" if be.name == "numpy" else "numpy")
    arrays = to_backend(be, ARRAYS["keras"]) | {"bias": other.asarray(ARRAYS["keras"]["bias"])}
    with pytest.raises(
        nplstm.BackendError, match=f"bias: is an array of '{other.name}', but kernel is on '{be.name}'"
    ):
        from_weight_format("keras", arrays)
    parameters = to_backend(be, BIASED) | {"bias_hh": other.asarray(BIASED["bias_hh"])}
    with pytest.raises(nplstm.BackendError, match=f"bias_hh: is an array of '{other.name}'"):
        to_weight_format("fused", parameters)


# Keras's get_weights() under NumPy 2: its variables lack a keyword
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_keras_weights_live(bias, bidirectional, keras):
    suffixes = ("_l0", "_l0_reverse")[: 1 + bidirectional]
    layer = keras.layers.LSTM(H, return_sequences=True, use_bias=bias)
    layer = keras.layers.Bidirectional(layer) if bidirectional else layer
    layer.build((B, T, I))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(0, 0.5, w.shape).astype(np.float32) for w in layer.get_weights()])
    lstm = nplstm.LSTM(I, H, bias=bias, batch_first=True, bidirectional=bidirectional, rng=0)
    x = rng.standard_normal((B, T, I)).astype(np.float32)

    def compare():
        # float32 rounds at 6e-8; outputs are below 1, after T steps of sums over I + H terms in another order
        expected = keras.ops.convert_to_numpy(layer(x))
        assert_close(lstm(x)[0], expected, 1e-6, "output")

    weights, size = layer.get_weights(), 2 + bias
    state = {}
    for n, suffix in enumerate(suffixes):
        state |= from_weight_format("keras", weights[n * size : (n + 1) * size], suffix=suffix)
    lstm.load_state_dict(state)
    compare()
    lstm.reset_parameters(1)
    layer.set_weights(
        [w for s in suffixes for w in to_weight_format("keras", lstm.parameters, suffix=s, as_list=True)]
    )
    compare()
