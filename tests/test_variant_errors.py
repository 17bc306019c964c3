"""Bad input to the variants: a combination without meaning raises when the layer is built or called."""

from typing import ClassVar

import numpy as np
import pytest
from cases import B, H, I, T

import nplstm
from nplstm import CellSpec

F32 = np.float32
X = np.zeros((T, B, I), F32)


def zeros(*shape):
    return np.zeros(shape, F32)


SPECS = {
    "peephole": (dict(peephole="Diagonal"), "peephole: expected one of None, 'diagonal', 'full', got 'Diagonal'"),
    "peephole True": (dict(peephole=True), "peephole: .* got True"),
    "coupled": (dict(coupled_input_forget=1), "coupled_input_forget: expected True or False, got 1"),
    "coupled forget": (
        dict(coupled_input_forget=True, forget_bias=1.0),
        "forget_bias=1.0 sets the forget gate's bias, and coupled_input_forget=True has no forget gate",
    ),
    "two activations": (dict(activations=("Tanh", "Tanh")), "activations: expected three, .* got"),
    "activations text": (dict(activations="Tanh"), "activations: expected three"),
    "unknown activation": (
        dict(activations=("Sigmoid", "Gelu", "Tanh")),
        r"activations\[1\]: activation: expected one of Relu, Tanh, .*, got 'Gelu'",
    ),
    "alpha for none": (
        dict(activations=("Sigmoid", ("Tanh", 0.1), "Tanh")),
        r"activations\[1\]: alpha: the activation Tanh has none, got 0.1",
    ),
    "beta for none": (
        dict(activations=(("LeakyRelu", 0.1, 0.2), "Tanh", "Tanh")),
        r"activations\[0\]: beta: the activation LeakyRelu has none, got 0.2",
    ),
    "alpha nan": (dict(activations=(("Elu", float("nan")), "Tanh", "Tanh")), "alpha of Elu: expected a number"),
    "alpha inf": (dict(activations=(("Elu", float("inf")), "Tanh", "Tanh")), "alpha of Elu: expected a finite"),
    "activation number": (dict(activations=(1, "Tanh", "Tanh")), r"activations\[0\]: expected an activation"),
    "clip 0": (dict(clip=0), r"clip: expected a number in \(0.0, inf\), got 0"),
    "clip negative": (dict(clip=-1.0), "clip: expected a number in .*, got -1.0"),
    "clip inf": (dict(clip=float("inf")), "clip: expected a finite number, got inf"),
    "cell_clip": (dict(cell_clip=0.0), "cell_clip: expected a number in .*, got 0.0"),
    "layer_norm": (
        dict(layer_norm=True),
        "layer_norm: expected one of None, 'cell_output', 'cell_state', got True",
    ),
    "eps": (dict(layer_norm_eps=0.0), "layer_norm_eps: expected a number in"),
    "recurrent_dropout": (
        dict(recurrent_dropout=1.5),
        r"recurrent_dropout: expected a number in \[0, 1\], got 1.5",
    ),
    "zoneout": (dict(zoneout_c=-0.1), "zoneout_c: expected a number in"),
    "mask": (dict(recurrent_dropout_mask="time"), "recurrent_dropout_mask: expected one of 'fixed', 'step'"),
    "init": (dict(init_hh="kaiming"), "init_hh: expected one of 'uniform', 'xavier_uniform', .* got 'kaiming'"),
    "init_bias": (dict(init_bias=0), "init_bias: expected one of 'uniform', 'zeros', got 0"),
    "forget_bias": (dict(forget_bias="one"), "forget_bias: expected a number"),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_without_meaning(name):
    options, message = SPECS[name]
    with pytest.raises(nplstm.ArgumentError, match=message):
        CellSpec(**options)


def test_a_spec_is_read_with_care():
    with pytest.raises(nplstm.ArgumentError, match="cell: CellSpec has no option 'peepholes'"):
        CellSpec.from_dict({"peepholes": "full"})
    with pytest.raises(nplstm.ArgumentError, match="cell: expected a mapping of options, got list"):
        CellSpec.from_dict([])
    with pytest.raises(nplstm.ArgumentError, match="activations"):
        CellSpec.from_dict({"activations": [{"name": "Tanh", "gamma": 1}] * 3})


class NoForward:
    pass


class NoBackward:
    def recurrent_size(self, hidden_size):
        return hidden_size

    def forward(self, h, state, parameters, context):
        return h, None, None


def returning(r=None, gradients=None, whole=None):
    """A transform that returns these, whatever it is asked."""

    class Wrong(nplstm.HiddenTransform):
        def forward(self, h, state, parameters, context):
            return whole if whole is not None else (r(h), None, None)

        def backward(self, grad_r, grad_state, tape, parameters):
            return gradients(grad_r)

    return Wrong()


LAYERS = {
    "cell": (dict(cell="peephole"), "cell: expected a CellSpec, got 'peephole'"),
    "forget without bias": (
        dict(cell=CellSpec(forget_bias=1), bias=False),
        "forget_bias=1.0 sets a bias, and bias=False has none",
    ),
    "stacking": (dict(stacking="sum"), "stacking: expected one of 'concat', 'independent', got 'sum'"),
    "merge": (dict(merge="ave", bidirectional=True), "merge: expected one of 'concat', .* got 'ave'"),
    "one column": (
        dict(stacking="independent"),
        "stacking='independent' is about two directions, and bidirectional=False has one",
    ),
    "one direction": (dict(merge="sum"), "merge='sum' is about two directions, and bidirectional=False has one"),
    "reverse both": (
        dict(reverse=True, bidirectional=True),
        "reverse=True runs one direction from the end, and bidirectional=True runs both",
    ),
    "order": (dict(output_order="processing"), "output_order='processing' is about reverse=True"),
    "order word": (dict(output_order="back", reverse=True), "output_order: expected 'time' or 'processing'"),
    "sizes": (dict(hidden_size=(3, 4)), r"hidden_size: expected one for each of num_layers=1, got \(3, 4\)"),
    "sizes float": (dict(hidden_size=(3, 4.0), num_layers=2), "hidden_size: expected an integer >= 1, got 4.0"),
    "residual widths": (
        dict(residual=(0,)),
        "residual: layer 0 would add its input, 11 wide, to its output, 5 wide",
    ),
    "residual layer": (dict(residual=(1,)), "residual: expected layers below num_layers=1"),
    "residual word": (dict(residual="yes"), "residual: expected True or False, got 'yes'"),
    "recurrent_size": (dict(recurrent_size=0), "recurrent_size: expected an integer >= 1, got 0"),
    "two sizes": (
        dict(recurrent_size=9, hidden_transform=nplstm.Projection(2)),
        r"recurrent_size=9, but Projection\(2\) makes 2 of an h that is 5 wide",
    ),
    "zoneout outside": (
        dict(recurrent_size=9, cell=CellSpec(zoneout_h=0.1)),
        r"zoneout_h=0.1 keeps h_\{t-1\}, .*recurrent_size=9, hidden_size=5 and no hidden_transform",
    ),
    "no forward": (
        dict(hidden_transform=NoForward()),
        r"hidden_transform: expected a method forward\(\), and NoF",
    ),
    "a class": (
        dict(hidden_transform=NoBackward),
        "hidden_transform: expected an object, got the class NoBackward",
    ),
    "a function": (dict(hidden_transform=len), r"hidden_transform: expected a method forward\(\)"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_without_meaning(name):
    options, message = LAYERS[name]
    with pytest.raises(nplstm.ArgumentError, match=message):
        nplstm.LSTM(I, options.pop("hidden_size", H), **options, rng=0)


def call(options, **arguments):
    lstm = nplstm.LSTM(I, H, **options, rng=0)
    ways = (lstm, lambda *args, **keywords: lstm.record(*args, **keywords, rng=np.random.default_rng(0)))
    for way in ways:
        yield lambda way=way: way(arguments.get("x", X), arguments.get("hx"), **arguments.get("said", {}))


WIDE = dict(recurrent_size=9)
MASK = np.ones((T, B), bool)
CALLS = {
    "wide steps": (
        WIDE,
        dict(hx=(zeros(1, B, 9), None)),
        "T=7 steps need a hidden_transform that makes a recurrent input of recurrent_size=9 out of h, hidden",
    ),
    "wide without hx": (WIDE, {}, "T=7 steps need a hidden_transform"),
    "wide h": (
        WIDE,
        dict(x=X[:1], hx=(zeros(1, B, H), None)),
        r"h_0: expected the recurrent input, R=9 wide, since recurrent_size=9, hidden_size=5 and no .*\(1, 3, 5\)",
    ),
    "wide neither": (
        dict(hidden_transform=nplstm.Projection(2)),
        dict(hx=(zeros(1, B, 4), None)),
        r"h_0: expected shape \(layers\*directions=1, B=3, H=5\), got \(1, 3, 4\)",
    ),
    "recurrent input and zoneout": (
        dict(hidden_transform=nplstm.Projection(2), cell=CellSpec(zoneout_h=0.2)),
        dict(hx=(zeros(1, B, 2), None), said={}),
        "zoneout_h=0.2 keeps h_0, and in its place the recurrent input, R=2 wide, was given",
    ),
    "recurrent input and mask": (
        dict(hidden_transform=nplstm.Projection(2)),
        dict(hx=(zeros(1, B, 2), None), said=dict(mask=MASK)),
        "masked_output='repeat' shows h_0 .* R=2 wide, was given",
    ),
    "recurrent input and length 0": (
        dict(hidden_transform=nplstm.Projection(2)),
        dict(hx=(zeros(1, B, 2), None), said=dict(lengths=[1, 0, 2])),
        "a sequence of length 0 returns h_0, .* R=2 wide, was given",
    ),
    "r too narrow": (
        dict(hidden_transform=returning(lambda h: h[:, 1:])),
        {},
        r"hidden_transform: Wrong.forward's r: expected shape \(n=3, R=5\), got \(3, 4\)",
    ),
    "r of float64": (
        dict(hidden_transform=returning(lambda h: h.astype(float))),
        {},
        "hidden_transform: expected Wrong.forward's r to be float32 on 'numpy', got float64",
    ),
    "r a list": (
        dict(hidden_transform=returning(lambda h: h.tolist())),
        {},
        "Wrong.forward's r: expected an array",
    ),
    "r alone": (
        dict(hidden_transform=returning(whole=zeros(B, H))),
        {},
        r"expected Wrong.forward to return \(r, state, tape\)",
    ),
    "three states": ({}, dict(hx=(zeros(1, B, H),) * 3), r"hx: expected a pair \(h_0, c_0\), got a tuple of 3"),
    "tuple of states": ({}, dict(hx=((zeros(1, B, H),), None)), "h_0: expected one array, got a tuple of 1"),
    "stack of states": (
        dict(num_layers=1),
        dict(hx=(zeros(2, B, H), None)),
        r"h_0: expected shape \(layers\*directions=1",
    ),
    "context without transform": (
        {},
        dict(said=dict(context=X)),
        "context: is read by a hidden_transform, and the",
    ),
    "context missing": (
        dict(hidden_transform=nplstm.ContextConcatenation(2)),
        {},
        r"context: ContextConcatenation reads \['context'\]; missing: \['context'\], unknown: none",
    ),
    "context unknown": (
        dict(hidden_transform=nplstm.ContextConcatenation(2)),
        dict(said=dict(context={"context": zeros(2), "support": X})),
        r"unknown: \['support'\]",
    ),
    "context axes": (
        dict(hidden_transform=nplstm.ContextConcatenation(2)),
        dict(said=dict(context=zeros(1, 1, 1, 2))),
        r"context\['context'\]: expected \(...\), \(B, ...\) or \(T, B, ...\) with 1 axes of its own, got",
    ),
    "context batch": (
        dict(hidden_transform=nplstm.ContextConcatenation(2)),
        dict(said=dict(context=zeros(4, 2))),
        r"context\['context'\]: expected B=3 sequences, got 4",
    ),
    "context steps": (
        dict(hidden_transform=nplstm.ContextConcatenation(2)),
        dict(said=dict(context=zeros(6, B, 2))),
        r"context\['context'\]: expected shape \(T=7, B=3, 2\), got \(6, 3, 2\)",
    ),
    "context width": (
        dict(hidden_transform=nplstm.ContextConcatenation(2)),
        dict(said=dict(context=zeros(3))),
        r"context\['context'\]: expected shape \(B=3, C=2\), got \(3, 3\)",
    ),
    "context type": (
        dict(hidden_transform=nplstm.ContextConcatenation(2)),
        dict(said=dict(context=np.zeros(2))),
        r"context\['context'\]: is float64, but the LSTM is float32",
    ),
    "context list": (
        dict(hidden_transform=nplstm.ContextConcatenation(2)),
        dict(said=dict(context=[1.0, 2.0])),
        r"context\['context'\]: expected an array",
    ),
    "context of two": (
        dict(hidden_transform=nplstm.AttentionReadout()),
        dict(said=dict(context=zeros(4, H))),
        r"context: expected a mapping with \['support', 'residual'\], which AttentionReadout reads",
    ),
    "no support": (
        dict(hidden_transform=nplstm.AttentionReadout()),
        dict(said=dict(context={"support": zeros(0, H), "residual": None})),
        r"context\['support'\]: expected at least one vector to attend to, got \(3, 0, 5\)",
    ),
    "support width": (
        dict(hidden_transform=nplstm.AttentionReadout()),
        dict(said=dict(context={"support": zeros(4, 2)})),
        r"context\['support'\]: expected shape \(B=3, S, P=5\), got \(3, 4, 2\)",
    ),
    "mask shape": ({}, dict(said=dict(mask=MASK.T)), r"mask: expected shape \(T=7, B=3\), got \(3, 7\)"),
    "mask floats": ({}, dict(said=dict(mask=MASK.astype(float))), r"mask: expected booleans, got float64"),
    "mask and lengths": ({}, dict(said=dict(mask=MASK, lengths=[1, 2, 3])), "mask: lengths= says already"),
    "reset ints": ({}, dict(said=dict(reset=MASK.astype(int))), "reset: expected booleans, got int64"),
    "reset shape": ({}, dict(said=dict(reset=MASK[:3])), r"reset: expected shape \(T=7, B=3\), got \(3, 3\)"),
    "reset ragged": ({}, dict(said=dict(reset=[[True], [False, True]])), "reset: expected an array of booleans"),
    "masked_output": ({}, dict(said=dict(mask=MASK, masked_output="last")), "masked_output: expected one of 'rep"),
    "reset_to": ({}, dict(said=dict(reset=MASK, reset_to="h_0")), "reset_to: expected one of 'zero', 'initial'"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_without_meaning(name):
    options, arguments, message = CALLS[name]
    for way in call(options, **arguments):
        with pytest.raises(nplstm.NplstmError, match=message):
            way()


def test_a_packed_sequence_has_no_mask():
    packed = nplstm.pack_sequence([X[:, 0]])
    for argument in ("mask", "reset"):
        with pytest.raises(nplstm.ArgumentError, match=f"{argument}: a PackedSequence has its lengths already"):
            nplstm.LSTM(I, H, rng=0)(packed, **{argument: MASK})


@pytest.mark.usefixtures("plain_engine")
def test_a_transform_without_backward_is_good_for_inference():
    lstm = nplstm.LSTM(I, H, hidden_transform=NoBackward(), rng=0)
    plain = nplstm.LSTM(I, H, rng=0)
    x = np.random.default_rng(0).standard_normal((T, B, I), F32)
    assert np.array_equal(lstm(x)[0], plain(x)[0])
    with pytest.raises(nplstm.ArgumentError, match="hidden_transform: NoBackward has no backward: it is good for"):
        lstm.record(x)


WRONG_GRADIENTS = {
    "none": (lambda g: None, "Wrong.backward's gradient of h: expected an array"),
    "narrow": (lambda g: nplstm.TransformGradients(g[:, 1:]), r"gradient of h: expected shape \(n=3, P=5\), got"),
    "double": (lambda g: nplstm.TransformGradients(g.astype(float)), "gradient of h to be float32"),
    "a list": (
        lambda g: nplstm.TransformGradients(g, parameters=None),
        "expected Wrong.backward's parameters to be a mapping, got NoneType",
    ),
    "unknown parameter": (
        lambda g: nplstm.TransformGradients(g, parameters={"weight": g}),
        r"Wrong.backward returned a gradient of 'weight', and its parameters are \[\]",
    ),
}


@pytest.mark.parametrize("name", WRONG_GRADIENTS)
def test_a_transform_with_a_wrong_backward(name):
    gradients, message = WRONG_GRADIENTS[name]
    lstm = nplstm.LSTM(I, H, hidden_transform=returning(lambda h: h.copy(), gradients), rng=0)
    tape = lstm.record(X)
    with pytest.raises(nplstm.NplstmError, match=message):
        tape.backward(tape.output)


def test_a_residual_without_a_place_warns():
    with pytest.warns(UserWarning, match=r"residual=True leaves out the first layer, and num_layers=1"):
        nplstm.LSTM(I, H, residual=True, rng=0)


SHARES = {
    "parameter wide": (
        dict(parameters={"w": zeros(2, 3)}),
        r"gradient of 'w': expected shape \(2,\), got \(2, 3\)",
    ),
    "parameter double": (
        dict(parameters={"w": np.zeros(2)}),
        "gradient of 'w' to be float32 on 'numpy', got float64",
    ),
    "parameter number": (dict(parameters={"w": 1.0}), "gradient of 'w': expected an array"),
    "context summed": (dict(context={"v": zeros(4)}), r"gradient of context 'v': expected shape \(3, 4\), got"),
    "context none": (dict(context={"v": None}), "gradient of context 'v': expected an array"),
}


@pytest.mark.parametrize("name", SHARES)
def test_a_transform_with_wrong_shares(name):
    share, message = SHARES[name]

    class Wrong(nplstm.HiddenTransform):
        context_ndims: ClassVar = {"v": 1}

        def parameter_shapes(self, hidden_size, recurrent_size):
            return {"w": (2,)}

        def forward(self, h, state, parameters, context):
            return h.copy(), None, None

        def backward(self, grad_r, grad_state, tape, parameters):
            return nplstm.TransformGradients(grad_r, **share)

    tape = nplstm.LSTM(I, H, hidden_transform=Wrong(), rng=0).record(X, context=zeros(4))
    with pytest.raises(nplstm.NplstmError, match=message):
        tape.backward(tape.output)


@pytest.mark.parametrize("shapes", [[("w", (2,))], {"w": 2}, {1: (2,)}, {"w": (-1,)}, {"w": (2.0,)}])
def test_a_transform_with_wrong_shapes(shapes):
    class Wrong(NoBackward):
        def parameter_shapes(self, hidden_size, recurrent_size):
            return shapes

    with pytest.raises(nplstm.ArgumentError, match=r"hidden_transform: Wrong.parameter_shapes"):
        nplstm.LSTM(I, H, hidden_transform=Wrong(), rng=0)


def test_a_transform_that_hides_its_state():
    class Wrong(NoBackward):
        def forward(self, h, state, parameters, context):
            return h, h, None

    with pytest.raises(nplstm.ArgumentError, match=r"Wrong.forward returned a state, but Wrong.state_size is 0"):
        nplstm.LSTM(I, H, hidden_transform=Wrong(), rng=0)(X)


def test_the_context_of_a_padded_batch_is_padded():
    lstm = nplstm.LSTM(I, H, hidden_transform=nplstm.ContextConcatenation(2), rng=0)
    packed = nplstm.pack_padded_sequence(zeros(T, B, 2), [4, 3, 2])
    with pytest.raises(nplstm.BackendError, match=r"context\['context'\]: expected an array, as the input was"):
        lstm(X, context=packed)


@pytest.mark.parametrize("lengths", [None, [4, 2, 0]])
def test_gradients_of_a_turned_output_are_checked(lengths):
    lstm = nplstm.LSTM(I, H, reverse=True, output_order="processing", rng=0)
    tape = lstm.record(X, lengths=lengths)
    for wrong in (zeros(T - 1, B, H), zeros(T, B + 1, H), zeros(T, B), zeros(H)):
        with pytest.raises(nplstm.ShapeError, match=r"grad_output: expected shape \(T=7, B=3, D\*H=5\), got"):
            tape.backward(wrong)
    packed = nplstm.pack_padded_sequence(X, [4, 2, 1])
    tape = lstm.record(packed)
    with pytest.raises(nplstm.BackendError, match="grad_output: expected a PackedSequence"):
        tape.backward(zeros(7, H))
    with pytest.raises(nplstm.ShapeError, match="grad_output: expected batch_sizes"):
        tape.backward(nplstm.pack_padded_sequence(zeros(T, B, H), [4, 3, 1]))


def test_weights_for_another_number_of_gates_are_told():
    spec = CellSpec(coupled_input_forget=True, peephole="diagonal")
    lstm = nplstm.LSTM(I, H, cell=spec, rng=0)
    for name in ("weight_ih_l0", "bias_hh_l0"):
        full = dict(
            lstm.state_dict(), **{name: np.concatenate([lstm.parameters[name], lstm.parameters[name][:H]])}
        )
        with pytest.raises(
            nplstm.StateDictError, match=f"{name}: .* rows for a forget gate, and with coupled_input"
        ):
            lstm.load_state_dict(full)
    both = dict(lstm.state_dict(), weight_ih_l0=zeros(4 * H, I), bias_ih_l0=zeros(4), bias_hh_l0=zeros(4 * H))
    with pytest.raises(nplstm.StateDictError) as error:
        lstm.load_state_dict(both)
    assert str(error.value).count("has rows for a forget gate") == 2
    assert "bias_ih_l0: expected shape (15,), got (4,)" in str(error.value)
    full = dict(lstm.state_dict(), weight_ch_l0=zeros(3 * H))
    with pytest.raises(nplstm.StateDictError, match=r"weight_ch_l0: \(15,\) has rows for a forget gate"):
        lstm.load_state_dict(full)


def test_noise_without_a_generator_names_its_options():
    cell = CellSpec(zoneout_h=0.1, weight_dropout=0.2)
    lstm = nplstm.LSTM(I, H, num_layers=2, dropout=0.5, cell=cell, rng=0)
    with pytest.raises(
        nplstm.ArgumentError, match=r"rng: dropout=0.5, weight_dropout=0.2, zoneout_h=0.1 draws masks"
    ):
        lstm.record(X)
    assert lstm.record(X, training=False).output.shape == (T, B, H)
    one = nplstm.LSTMCell(I, H, cell=cell, rng=0)
    with pytest.raises(nplstm.ArgumentError, match=r"rng: weight_dropout=0.2, zoneout_h=0.1 draws masks"):
        one.record(X[0])


def test_a_cell_without_meaning():
    with pytest.raises(nplstm.ArgumentError, match=r"zoneout_h=0.1 keeps h_.* recurrent_size=9, hidden_size=5"):
        nplstm.LSTMCell(I, H, recurrent_size=9, cell=CellSpec(zoneout_h=0.1))
    cell = nplstm.LSTMCell(I, H, recurrent_size=9, rng=0)
    with pytest.raises(nplstm.ShapeError, match=r"h: expected shape \(B=3, R=9\), got \(3, 5\)"):
        cell(X[0], (zeros(B, H), None))
    assert repr(cell) == "LSTMCell(11, 5, recurrent_size=9)"


def test_gradients_of_two_outputs_are_a_pair():
    tape = nplstm.LSTM(I, H, bidirectional=True, merge="none", rng=0).record(X)
    for wrong in (tape.output[0], (tape.output[0],), (*tape.output, None)):
        with pytest.raises(nplstm.ArgumentError, match=r"grad_output: expected a pair \(forward, reverse\)"):
            tape.backward(wrong)
    with pytest.raises(nplstm.ShapeError, match=r"grad_output\[1\]: expected shape \(T=7, B=3, H=5\)"):
        tape.backward((tape.output[0], zeros(T, B, 4)))
