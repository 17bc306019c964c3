"""Bad input: each error names the argument, what was expected and what came, and nothing is changed."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from cases import B, H, I, P, T

import nplstm

F32 = np.float32


def build(**options):
    return nplstm.LSTM(I, H, rng=0, **options)


def zeros(*shape, dtype=F32):
    return np.zeros(shape, dtype)


X = zeros(T, B, I)
STATE = zeros(1, B, H)
ARGUMENTS = {
    "input_size 0": (dict(input_size=0), "input_size: expected an integer >= 1, got 0"),
    "hidden_size float": (dict(hidden_size=2.0), "hidden_size: expected an integer >= 1, got 2.0"),
    "hidden_size None": (dict(hidden_size=None), "hidden_size: expected an integer >= 1, got None"),
    "num_layers 0": (dict(num_layers=0), "num_layers: expected an integer >= 1, got 0"),
    "num_layers True": (dict(num_layers=True), "num_layers: expected an integer >= 1, got True"),
    "bias 1": (dict(bias=1), "bias: expected True or False, got 1"),
    "batch_first string": (dict(batch_first="yes"), "batch_first: expected True or False, got 'yes'"),
    "bidirectional None": (dict(bidirectional=None), "bidirectional: expected True or False, got None"),
    "dropout 1.1": (dict(dropout=1.1), r"dropout: expected a number in \[0.0, 1.0\], got 1.1"),
    "dropout -0.1": (dict(dropout=-0.1), r"dropout: expected a number in \[0.0, 1.0\], got -0.1"),
    "dropout True": (dict(dropout=True), r"dropout: .*, got True"),
    "dropout nan": (dict(dropout=float("nan")), r"dropout: .*, got nan"),
    "dropout string": (dict(dropout="0.5"), r"dropout: .*, got '0.5'"),
    "proj_size H": (dict(proj_size=5), r"proj_size: expected less than hidden_size=5 \(0 for none\), got 5"),
    "proj_size -1": (dict(proj_size=-1), "proj_size: expected an integer >= 0, got -1"),
    "backend list": (dict(backend=["numpy"]), "backend: expected one of"),
    "dropout huge": (dict(dropout=10**400), "dropout: expected a number"),
    "dropout bytes": (dict(dropout=b"0.5"), "dropout: expected a number"),
    "dropout numpy bool": (dict(dropout=np.True_), "dropout: expected a number"),
    "backend": (dict(backend="jax"), "backend: expected one of 'cupy', 'numpy'.*, got 'jax'"),
    "dtype": (dict(dtype="int32"), r"dtype: backend 'numpy' has \('float32', 'float64'\), got int32"),
    "dtype nonsense": (dict(dtype="floaty"), "dtype: backend 'numpy' has .*, got floaty"),
    "dtype None": (dict(dtype=None), "dtype: backend 'numpy' has .*, got None"),
    "rng": (dict(rng="seed"), "rng: expected a seed >= 0, a numpy.random.Generator or None, got 'seed'"),
    "rng negative": (dict(rng=-1), "rng: expected a seed >= 0"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_bad_options_are_named(name):
    options, message = ARGUMENTS[name]
    with pytest.raises(nplstm.NplstmError, match=message):
        nplstm.LSTM(**{"input_size": I, "hidden_size": H, **options})


def test_dropout_without_a_place_warns():
    with pytest.warns(UserWarning, match=r"dropout=0.5 acts between layers, and num_layers=1"):
        build(dropout=0.5)


CALLS = {
    "a list": (lambda f: f([[1.0]]), "input: expected an array of NumPy or CuPy, got builtins.list"),
    "None": (lambda f: f(None), "input: expected an array of NumPy or CuPy, got builtins.NoneType"),
    "masked": (lambda f: f(np.ma.zeros((T, B, I))), "input: .* got numpy.ma.*MaskedArray"),
    "float64": (lambda f: f(zeros(T, B, I, dtype=float)), r"input: is float64, but the LSTM is float32; .*astype"),
    "integers": (
        lambda f: f(zeros(T, B, I, dtype=int)),
        r"input: is int64, but the LSTM is float32; .*astype\('float32'\)$",
    ),
    "rank 1": (
        lambda f: f(zeros(I)),
        r"input: expected shape \(T, B, I=11\), or \(T, I=11\) unbatched, got \(11,\)",
    ),
    "rank 4": (lambda f: f(zeros(1, T, B, I)), r"input: .*got \(1, 7, 3, 11\)"),
    "width": (lambda f: f(zeros(T, B, 4)), r"input: expected shape \(T=7, B=3, I=11\), got \(7, 3, 4\)"),
    "width unbatched": (lambda f: f(zeros(T, 4)), r"input: expected shape \(T=7, I=11\), got \(7, 4\)"),
    "no steps": (lambda f: f(zeros(0, B, I)), r"input: expected at least one time step, got T=0"),
    "hx array": (lambda f: f(X, STATE), r"hx: expected a pair \(h_0, c_0\), got ndarray"),
    "hx three": (lambda f: f(X, (STATE,) * 3), r"hx: expected a pair \(h_0, c_0\), got a tuple of 3"),
    "h_0 shape": (
        lambda f: f(X, (zeros(2, B, H), STATE)),
        r"h_0: expected shape \(layers\*directions=1, B=3, H=5\)",
    ),
    "c_0 shape": (lambda f: f(X, (STATE, zeros(1, 4, H))), r"c_0: expected .* got \(1, 4, 5\)"),
    "h_0 unbatched": (lambda f: f(X, (zeros(1, H), STATE)), r"h_0: expected .* got \(1, 5\)"),
    "h_0 batched": (
        lambda f: f(X[:, 0], (STATE, STATE)),
        r"h_0: expected shape \(layers\*directions=1, H=5\), got",
    ),
    "h_0 vector": (lambda f: f(X, (zeros(4), None)), r"h_0: expected shape \(H=5,\), got \(4,\)"),
    "h_0 dtype": (lambda f: f(X, (STATE.astype(float), STATE)), "h_0: is float64, but the LSTM is float32"),
    "lengths long": (
        lambda f: f(X, lengths=[8, 1, 1]),
        r"lengths: expected integers in \[0, T=7\], got lengths\[0\]",
    ),
    "lengths negative": (lambda f: f(X, lengths=[1, 1, -1]), r"lengths: .* got lengths\[2\] = -1"),
    "lengths few": (lambda f: f(X, lengths=[1]), "lengths: expected one for each of B=3 sequences, got 1"),
    "lengths floats": (lambda f: f(X, lengths=[1.0, 2.0, 3.0]), "lengths: expected integers, got float64"),
    "lengths bools": (lambda f: f(X, lengths=[True, False, True]), "lengths: expected integers, got bool"),
    "lengths scalar": (lambda f: f(X, lengths=3), r"lengths: expected shape \(B,\), got \(\)"),
    "lengths unbatched": (lambda f: f(X[:, 0], lengths=[3]), "lengths: an unbatched input"),
    "lengths packed": (
        lambda f: f(nplstm.pack_sequence([X[:, 0]]), lengths=[7]),
        "lengths: a PackedSequence has its lengths already",
    ),
    "packed width": (
        lambda f: f(nplstm.pack_sequence([X[:, 0, :4]])),
        r"input.data: expected shape \(N=7, I=11\)",
    ),
    "packed dtype": (lambda f: f(nplstm.pack_sequence([X[:, 0].astype(float)])), "input: is float64"),
}


@pytest.mark.parametrize("way", ["call", "record"])
@pytest.mark.parametrize("name", CALLS)
def test_bad_inputs_are_named(name, way):
    call, message = CALLS[name]
    lstm = build()
    with pytest.raises(nplstm.NplstmError, match=message):
        call(lstm if way == "call" else lstm.record)


def test_batch_first_errors_name_the_axes_in_the_users_order():
    with pytest.raises(nplstm.ShapeError, match=r"input: expected shape \(B=7, T=3, I=11\), got \(7, 3, 4\)"):
        build(batch_first=True)(zeros(7, 3, 4))


def test_projection_is_named_in_the_state():
    with pytest.raises(nplstm.ShapeError, match=r"h_0: expected shape \(layers\*directions=1, B=3, P=2\)"):
        build(proj_size=P)(X, (STATE, STATE))


BACKWARD = {
    "output shape": (
        lambda t: t.backward(zeros(T, B, I)),
        r"grad_output: expected shape \(T=7, B=3, D\*H=5\), got",
    ),
    "output dtype": (lambda t: t.backward(zeros(T, B, H, dtype=float)), "grad_output: is float64"),
    "output kind": (lambda t: t.backward(1.0), "grad_output: expected an array"),
    "state kind": (lambda t: t.backward(None, STATE), r"grad_state: expected a pair \(grad_h_n, grad_c_n\)"),
    "state vector": (lambda t: t.backward(None, (zeros(H), None)), r"grad_h_n: expected shape .* got \(5,\)"),
    "state shape": (lambda t: t.backward(None, (None, zeros(1, B, 4))), "grad_c_n: expected shape"),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_bad_cotangents_are_named(name):
    call, message = BACKWARD[name]
    with pytest.raises(nplstm.NplstmError, match=message):
        call(build().record(X))


def test_a_padded_tape_wants_padded_cotangents():
    with pytest.raises(
        nplstm.BackendError, match="grad_output: expected an array, as the input was, got a PackedS"
    ):
        build().record(X).backward(nplstm.pack_sequence([zeros(T, H)] * B))


def test_another_order_of_bytes_is_named_with_a_remedy_that_works():
    with pytest.raises(nplstm.DTypeError, match=r"input: is >f4, .* use input.astype\('float32'\)$"):
        build()(X.astype(">f4"))


def test_a_packed_tape_wants_packed_cotangents():
    tape = build().record(nplstm.pack_sequence([X[:, 0], X[:4, 1]]))
    with pytest.raises(nplstm.BackendError, match="grad_output: expected a PackedSequence, as the input was"):
        tape.backward(zeros(T, 2, H))
    other = nplstm.pack_sequence([zeros(T, H), zeros(3, H)])
    with pytest.raises(nplstm.ShapeError, match="grad_output: expected batch_sizes"):
        tape.backward(other)
    turned = nplstm.pack_sequence([zeros(4, H), zeros(T, H)], enforce_sorted=False)
    with pytest.raises(nplstm.ShapeError, match=r"grad_output: expected sorted_indices \[0, 1\] as in the input"):
        tape.backward(turned)
    same = nplstm.pack_sequence([zeros(T, H), zeros(4, H)], enforce_sorted=False)
    tape.backward(same)  # the same order, written out


def test_training_is_a_flag():
    with pytest.raises(nplstm.ArgumentError, match="training: expected True or False, got 'no'"):
        build().record(X, training="no")


def test_torchs_name_of_the_input_works():
    assert build()(input=X)[0].shape == (T, B, H)
    assert nplstm.LSTMCell(I, H)(input=X[0])[0].shape == (B, H)


def test_bytes_in_another_order_are_ours_after_all():
    assert nplstm.LSTM(I, H, dtype=">f4").dtype == np.float32


def test_dropout_asks_for_a_generator():
    lstm = build(num_layers=2, dropout=0.5)
    with pytest.raises(nplstm.ArgumentError, match=r"rng: dropout=0.5 draws masks: pass a generator"):
        lstm.record(X)
    with pytest.raises(nplstm.ArgumentError, match=r"rng: expected a numpy.random.Generator .* got 7"):
        lstm.record(X, rng=7)
    lstm.record(X, training=False)


CELL = {
    "rank": (lambda c: c(X), r"input: expected shape \(B, I=11\) or \(I,\), got \(7, 3, 11\)"),
    "width": (lambda c: c(zeros(B, 4)), r"input: expected shape \(B, I=11\), got \(3, 4\)"),
    "state": (lambda c: c(X[0], (zeros(4, H), None)), r"h: expected shape \(B=3, H=5\), got \(4, 5\)"),
    "batched state": (lambda c: c(X[0, 0], (zeros(1, H), None)), r"h: expected shape \(H=5,\), got \(1, 5\)"),
    "no pair": (lambda c: c(X[0], zeros(B, H)), r"hx: expected a pair \(h, c\), got ndarray"),
    "dtype": (lambda c: c(X[0].astype(float)), "input: is float64, but the LSTMCell is float32"),
    "grad": (lambda c: c.record(X[0]).backward(zeros(4, H)), r"grad_h: expected shape \(B=3, H=5\), got \(4, 5\)"),
}


@pytest.mark.parametrize("name", CELL)
def test_bad_cell_inputs_are_named(name):
    call, message = CELL[name]
    with pytest.raises(nplstm.NplstmError, match=message):
        call(nplstm.LSTMCell(I, H, rng=0))


class TestStateDict:
    def test_it_has_torchs_names_in_torchs_order(self):
        names = list(build(num_layers=2, bidirectional=True, proj_size=P).state_dict())
        kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"]
        assert names == [f"{kind}_l{layer}{d}" for layer in (0, 1) for d in ("", "_reverse") for kind in kinds]
        assert list(nplstm.LSTMCell(I, H, bias=False).state_dict()) == ["weight_ih", "weight_hh"]

    def test_all_that_is_wrong_is_named_at_once_and_nothing_is_loaded(self):
        lstm = build()
        before = lstm.state_dict()
        wrong = dict(
            before, bias_ih_l0=zeros(3), bias_hh_l0=before["bias_hh_l0"].astype(float), weight_xx=zeros(1)
        )
        wrong["weight_ih_l0"] = before["weight_ih_l0"] + 1
        del wrong["weight_hh_l0"]
        with pytest.raises(nplstm.errors.StateDictError) as caught:
            lstm.load_state_dict(wrong)
        message = str(caught.value)
        for part in (
            "missing: weight_hh_l0",
            "unexpected: weight_xx",
            "bias_ih_l0: expected shape (20,), got (3,)",
            "bias_hh_l0: expected float32, got float64",
            "nothing was loaded",
        ):
            assert part in message
        assert all(np.array_equal(lstm.parameters[name], array) for name, array in before.items())

    def test_not_strict_reports_and_loads_the_rest(self):
        lstm = build()
        result = lstm.load_state_dict({"bias_ih_l0": np.ones(4 * H, F32), "other": zeros(1)}, strict=False)
        assert result.missing_keys == ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"]
        assert result.unexpected_keys == ["other"]
        assert (lstm.parameters["bias_ih_l0"] == 1).all()
        with pytest.raises(nplstm.errors.StateDictError, match="expected shape"):
            lstm.load_state_dict({"bias_ih_l0": zeros(1)}, strict=False)

    @pytest.mark.parametrize("value", ["text", object(), None, [[1.0], [2.0, 3.0]]])
    def test_what_is_no_array_is_named(self, value):
        lstm = build()
        with pytest.raises(nplstm.errors.StateDictError, match="bias_ih_l0: expected"):
            lstm.load_state_dict(dict(lstm.state_dict(), bias_ih_l0=value))

    def test_what_is_no_mapping_is_refused(self):
        with pytest.raises(nplstm.errors.StateDictError, match="state_dict: expected a mapping"):
            build().load_state_dict([1, 2])

    def test_it_is_a_snapshot(self):
        lstm = build()
        snapshot = lstm.state_dict()
        lstm.parameters["bias_ih_l0"] = lstm.parameters["bias_ih_l0"] + 1
        assert not np.array_equal(snapshot["bias_ih_l0"], lstm.parameters["bias_ih_l0"])
        lstm.load_state_dict(snapshot)
        assert np.array_equal(snapshot["bias_ih_l0"], lstm.parameters["bias_ih_l0"])

    def test_what_is_loaded_is_copied(self):
        lstm = build()
        source = {name: array.copy() for name, array in lstm.state_dict().items()}
        lstm.load_state_dict(source)
        source["bias_ih_l0"][:] = 99
        assert not (lstm.parameters["bias_ih_l0"] == 99).any()

    def test_torchs_own_state_dict_is_taken(self, torch_reference):
        import torch

        theirs = torch.nn.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=P)
        ours = build(num_layers=2, bidirectional=True, proj_size=P)
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
        ours.load_state_dict(dict(theirs.named_parameters()))


class TestParameters:
    def test_assignment_is_checked(self):
        parameters = build().parameters
        with pytest.raises(nplstm.ShapeError, match=r"bias_ih_l0: expected shape \(20,\), got \(3,\)"):
            parameters["bias_ih_l0"] = zeros(3)
        with pytest.raises(
            nplstm.DTypeError, match="bias_ih_l0: is float64, but the parameter 'bias_ih_l0' is float32"
        ):
            parameters["bias_ih_l0"] = zeros(20, dtype=float)
        with pytest.raises(nplstm.BackendError, match="bias_ih_l0: expected an array"):
            parameters["bias_ih_l0"] = [0.0] * 20
        with pytest.raises(nplstm.ArgumentError, match=r"expected one of \['weight"):
            parameters["bias"] = zeros(20)
        with pytest.raises(nplstm.ArgumentError, match="never removed"):
            del parameters["bias_ih_l0"]
        with pytest.raises(KeyError):
            parameters["bias"]

    def test_what_is_assigned_is_copied(self):
        parameters, value = build().parameters, zeros(20)
        parameters["bias_ih_l0"] = value
        value[:] = 1
        assert (parameters["bias_ih_l0"] == 0).all()

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    def test_copies_of_a_layer_are_independent_and_protected(self, duplicate):
        lstm = build(num_layers=2, bidirectional=True)
        other = duplicate(lstm)
        assert np.array_equal(lstm(X)[0], other(X)[0])
        with pytest.raises(ValueError, match="read-only"):
            other.parameters["bias_ih_l0"][0] = 1
        other.parameters["bias_ih_l0"] = other.parameters["bias_ih_l0"] + 1
        assert not np.array_equal(lstm(X)[0], other(X)[0])

    def test_joined_parameters_reach_their_parts(self):
        lstm, head = build(), nplstm.Linear(H, 2, rng=0)
        joined = nplstm.JoinedParameters(lstm=lstm.parameters, head=head.parameters)
        assert len(joined) == 6
        joined["head.bias"] = np.ones(2, F32)
        assert (head.parameters["bias"] == 1).all()
        for missing in ("head.nothing", "tail.bias", "bias"):
            with pytest.raises(KeyError):
                joined[missing]
        with pytest.raises(
            nplstm.ArgumentError, match="lstm: expected a mapping of name to array, got LSTM; pass its"
        ):
            nplstm.JoinedParameters(lstm=lstm)
        with pytest.raises(nplstm.ArgumentError, match="expected a part's name without a dot"):
            nplstm.JoinedParameters(**{"a.b": lstm.parameters})


def test_moving_between_types_changes_the_layer_and_keeps_its_mapping():
    lstm = build()
    parameters = lstm.parameters
    assert lstm.to(dtype="float64") is lstm
    assert lstm.parameters is parameters
    assert parameters["bias_ih_l0"].dtype == np.float64
    assert lstm(X.astype(float))[0].dtype == np.float64
    assert lstm.to(np.float32).to(np.dtype("float64")).to("float32").to("float64").dtype == np.float64  # as torch
    with pytest.raises(nplstm.DTypeError):
        lstm.to("numpy", dtype="float16")
    with pytest.raises(nplstm.ArgumentError, match=r"backend: expected one of 'cupy', 'numpy'.*, got 'cuda'"):
        lstm.to("cuda")
    assert lstm.dtype == np.float64


@pytest.mark.parametrize("number", [np.int64(3), np.int32(3)])
def test_numpy_integers_are_sizes(number):
    assert nplstm.LSTM(number, number)(zeros(2, 1, 3))[0].shape == (2, 1, 3)


def test_reprs_read_like_the_call():
    assert repr(build()) == "LSTM(11, 5)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lstm = nplstm.LSTM(2, 3, 2, False, True, 0.5, True, 1, dtype="float64")
    options = "num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, proj_size=1"
    assert repr(lstm) == f"LSTM(2, 3, {options}, dtype='float64')"
    assert repr(nplstm.LSTMCell(2, 3, bias=False)) == "LSTMCell(2, 3, bias=False)"
    assert "weight_ih_l0: float32 (20, 11)" in repr(build().parameters)


def test_each_error_is_also_the_built_in_one():
    errors = nplstm.errors
    pairs = {
        errors.ShapeError: ValueError,
        errors.DTypeError: TypeError,
        errors.BackendError: TypeError,
        errors.BackendUnavailableError: ImportError,
        errors.DeviceError: RuntimeError,
        errors.ArgumentError: ValueError,
        errors.StateDictError: RuntimeError,
        errors.MissingDependencyError: ImportError,
        errors.FileFormatError: ValueError,
        errors.DivergenceError: ArithmeticError,
        errors.GradcheckError: AssertionError,
    }
    for error, built_in in pairs.items():
        assert issubclass(error, errors.NplstmError)
        assert issubclass(error, built_in)
    defined = {e for e in vars(errors).values() if isinstance(e, type) and e.__module__ == errors.__name__}
    assert defined == {errors.NplstmError, *pairs}
    assert all(error.__name__ in errors.__doc__ for error in defined)
