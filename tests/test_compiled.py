"""The compiled engine with every instruction set of this machine, beside the plain time loop."""

import signal
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from helpers import assert_close

import nplstm
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State, StepInputs
from nplstm.engines.base import LayerCall
from nplstm.engines.compiled.forward import compiled_layer

RTOL = {"float32": 5e-6, "float64": 1e-13}  # sums of some hundred numbers, in another order
THREADS = (1, 2, 3, 5)


class Sizes(NamedTuple):
    B: int
    I: int
    H: int
    T: int

    def __str__(self):
        return "-".join(f"{name}{size}" for name, size in zip(self._fields, self, strict=True))


# On both sides of a vector, a tile, a group of panels, a block of steps, a depth of sums, and of a share by
# sequences and by cells; the last, several blocks on the way back.
SIZES = [
    Sizes(*sizes)
    for sizes in (
        (0, 3, 5, 4), (1, 1, 5, 1), (1, 5, 3, 2), (1, 2, 17, 150), (1, 130, 64, 30), (1, 5, 130, 20),
        (2, 3, 8, 9), (2, 17, 130, 20), (3, 1, 3, 5), (3, 20, 37, 11), (3, 300, 16, 5), (2, 3, 270, 4),
        (7, 8, 16, 7), (7, 5, 130, 12), (13, 11, 17, 70), (13, 37, 64, 9), (32, 7, 37, 8), (32, 3, 1, 6),
        (32, 2, 130, 33),
    )
]  # fmt: skip


def make(sizes, directions, dtype, **options):
    return nplstm.LSTM(sizes.I, sizes.H, bidirectional=directions == 2, dtype=dtype, rng=0, **options)


def draw(sizes, directions, dtype, *, ragged, states, proj_size=0):
    """Input, states, cotangents and lengths: some of them 0, one of them T."""
    (B, I, H, T), P = sizes, proj_size or sizes.H
    rng = np.random.default_rng([*sizes, directions])
    shapes = [(T, B, I), (T, B, directions * P), *[(directions, B, P), (directions, B, H)] * 2]
    x, grad_out, *given = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    lengths = rng.integers(0, T + 1, B)
    lengths[: B // 4], lengths[B // 2 : B // 2 + 1] = 0, T
    return x, tuple(given[:2]) if states else None, (grad_out, *given[2:]), lengths if ragged else None


def run(engine, lstm, x, states, cotangents, lengths, **record):
    """Results and gradients by name, and what a call computes that records nothing."""
    with nplstm.use_engines(engine):
        output, (h_n, c_n) = lstm(x, states, lengths=lengths)
        tape = lstm.record(x, states, lengths=lengths, **record)
        grads = tape.backward(cotangents[0], cotangents[1:])
    found = {"output": tape.output, "h_n": tape.h_n, "c_n": tape.c_n, "input": grads.input, **grads.parameters}
    if states is not None:
        found |= {"h_0": grads.h_0, "c_0": grads.c_0}
    return found, {"output": output, "h_n": h_n, "c_n": c_n}


@cache
def expected(sizes, directions, dtype, ragged, states):
    drawn = draw(sizes, directions, dtype, ragged=ragged, states=states)
    return run("plain", make(sizes, directions, dtype), *drawn)[0]


def assert_same(found, other):
    assert found.keys() == other.keys()
    for name, value in found.items():
        assert np.array_equal(value, other[name]), name


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_is_the_plain_loop_whatever_the_threads(sizes, ragged, directions, dtype, kernels, threads):
    # with states where there are lengths, without where there are none; the next test has the other two
    drawn = draw(sizes, directions, dtype, ragged=ragged, states=ragged)
    lstm, alone = make(sizes, directions, dtype), None
    for count in THREADS:
        threads(count)
        found, called = run("compiled", lstm, *drawn)
        assert_same(called, {name: found[name] for name in called})
        if alone is None:
            alone = found
            for name, value in expected(sizes, directions, dtype, ragged, ragged).items():
                assert_close(found[name], value, RTOL[dtype], name)
        assert_same(found, alone)


VARIANTS = {
    "peephole": dict(cell=nplstm.CellSpec(peephole="diagonal")),
    "coupled": dict(cell=nplstm.CellSpec(coupled_input_forget=True)),
    "clip": dict(cell=nplstm.CellSpec(clip=0.5)),
    "projection": dict(proj_size=5),
    "all": dict(cell=nplstm.CellSpec(peephole="diagonal", coupled_input_forget=True, clip=0.9), proj_size=18),
}


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("sizes", [Sizes(1, 5, 130, 20), Sizes(3, 20, 37, 11), Sizes(32, 3, 64, 9)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_the_plain_loop_whatever_the_threads(
    variant, sizes, ragged, dtype, kernels, threads, exact_memory
):
    options = VARIANTS[variant]
    drawn = draw(sizes, 2, dtype, ragged=ragged, states=True, proj_size=options.get("proj_size", 0))
    lstm, alone = make(sizes, 2, dtype, **options), None
    plain, _ = run("plain", lstm, *drawn)
    for count in THREADS:
        threads(count)
        found, called = run("compiled", lstm, *drawn)
        assert_same(called, {name: found[name] for name in called})
        alone = alone or found
        assert_same(found, alone)
    for name, value in plain.items():
        assert_close(alone[name], value, 2 * RTOL[dtype], name)


@pytest.mark.parametrize("dtype", RTOL)
def test_long_sequences_are_shared_job_by_job(dtype, kernels, threads):
    """So many steps that they are several jobs, each with a barrier after every step."""
    sizes = Sizes(1, 3, 130, 700)
    drawn, lstm, found = draw(sizes, 2, dtype, ragged=False, states=True), make(sizes, 2, dtype), []
    for count in (1, 2):
        threads(count)
        found += run("compiled", lstm, *drawn)
    assert_same(found[0], found[2])
    assert_same(found[1], found[3])


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("sizes", SIZES[:-1], ids=str)
def test_arrays_without_room_around_them(sizes, ragged, directions, dtype, kernels, exact_memory, threads):
    """As elsewhere, in memory that AddressSanitizer guards to the byte; checkpoints and a stream, too."""
    threads(2)
    states = not ragged
    drawn = draw(sizes, directions, dtype, ragged=ragged, states=states)
    lstm = make(sizes, directions, dtype)
    found, _ = run("compiled", lstm, *drawn)
    spans, _ = run("compiled", lstm, *drawn, checkpoint_every=3)
    for name, value in expected(sizes, directions, dtype, ragged, states).items():
        assert_close(found[name], value, RTOL[dtype], name)
        assert_close(spans[name], value, RTOL[dtype], name)
    for name in ("output", "h_n", "c_n"):
        assert np.array_equal(spans[name], found[name]), name
    if directions == 1 and not ragged and sizes.B:
        assert_steps_are_the_call(lstm, drawn[0], drawn[1], found["output"], dtype)


def assert_steps_are_the_call(lstm, x, states, output, dtype):
    with nplstm.use_engines("compiled"):
        stream = lstm.stream(x.shape[1], states)
        steps = np.array([stream.step(x_t).copy() for x_t in x])
    assert_close(steps, output, RTOL[dtype], "steps of a stream")


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_do_not_depend_on_the_threads(batch, kernels, threads):
    """Layers whose steps are worth sharing, and a narrow one between them that has fewer panels than threads."""
    x = np.random.default_rng(0).standard_normal((40, batch, 130)).astype("float32")
    lstm, found = nplstm.LSTM(130, (260, 3, 200), num_layers=3, rng=0), []
    for count in THREADS:
        threads(count)
        with nplstm.use_engines("compiled"):
            stream = lstm.stream(batch)
            found.append(np.array([stream.step(x_t).copy() for x_t in x]))
    assert all(np.array_equal(found[0], steps) for steps in found[1:])


@pytest.mark.parametrize("layers", [1, 3, 24])
@pytest.mark.parametrize("directions", [1, 2])
def test_stacks_of_any_height(layers, directions, kernels):
    """A call without lengths is one call of the kernels for all layers."""
    lstm = nplstm.LSTM(3, 5, layers, bidirectional=directions == 2, dtype="float64", rng=0)
    x = np.random.default_rng(0).standard_normal((4, 2, 3))
    with nplstm.use_engines("plain"):
        output, states = lstm(x)
    with nplstm.use_engines("compiled"):
        found, found_states = lstm(x)
    for value, other in zip((found, *found_states), (output, *states), strict=True):
        assert_close(value, other, 1e-12, "a stack")


# --- arrays of every kind --------------------------------------------------------------------------------------


def unaligned(array):
    """The same values at addresses that no element may have."""
    room = np.empty(array.nbytes + 1, np.uint8)[1:]
    copy = room.view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert not copy.flags.aligned or not array.size
    return copy


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


KINDS = {
    "unaligned": unaligned,
    "read-only": read_only,
    "Fortran's order": np.asfortranarray,
    "negative strides": lambda array: array[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "every other": lambda array: np.repeat(np.repeat(array, 2, axis=2), 2, axis=0)[::2, :, ::2],
    "one for all": lambda array: np.broadcast_to(array[:1], array.shape),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ragged", [False, True])
def test_arrays_of_every_kind(kind, ragged, kernels):
    sizes = Sizes(3, 5, 19, 7)
    x, states, cotangents, lengths = draw(sizes, 2, "float32", ragged=ragged, states=True)
    lstm, change = make(sizes, 2, "float32"), KINDS[kind]
    given = [change(x), tuple(map(change, states)), tuple(map(change, cotangents))]
    plain = [np.array(given[0]), *(tuple(np.array(a, order="C") for a in arrays) for arrays in given[1:])]
    found, called = run("compiled", lstm, *given, lengths)
    for before, after in zip((given[0], *given[1]), (plain[0], *plain[1]), strict=True):
        assert np.array_equal(before, after), "what was given has changed"
    other, other_called = run("compiled", lstm, *plain, lengths)
    assert_same(found, other)
    assert_same(called, other_called)


@pytest.mark.parametrize("backwards", [False, True])
def test_rows_of_a_wider_array(backwards, kernels):
    """The engine reads x, h_0 and writes the output where they stand: with other columns beside, or backwards."""
    T, B, I, H = 6, 2, 5, 19
    lstm = nplstm.LSTM(I, H, dtype="float64", rng=0)
    x = np.random.default_rng(0).standard_normal((T, B, I))
    step = -1 if backwards else 1
    wide, out = np.full((T * B, I + 4), np.nan)[::step, 3 : 3 + I], np.full((T * B, H + 4), 7.0)
    wide[...] = x.reshape(T * B, I)
    initial, final = (State(np.zeros((1, B, H)), np.zeros((1, B, H))) for _ in range(2))
    into = out[::step, 2 : 2 + H]
    layer = LayerCall([wide], lstm._weights()[0], [StepInputs()], initial, final, [into], (False,))
    compiled_layer(layer, PackedSteps.equal(T, B), record=False)
    with nplstm.use_engines("compiled"):
        output, (h_n, c_n) = lstm(x)
    assert np.array_equal(into.reshape(T, B, H), output)
    assert np.array_equal(final.h, h_n)
    assert np.array_equal(final.c, c_n)
    assert (out[:, :2] == 7).all()
    assert (out[:, 2 + H :] == 7).all()


def test_gradients_are_arrays_of_their_own(kernels):
    """Who keeps the gradient of one bias does not keep those of the whole stack in memory."""
    lstm = nplstm.LSTM(8, 16, num_layers=2, bidirectional=True, proj_size=5, rng=0)
    with nplstm.use_engines("compiled"):
        tape = lstm.record(np.ones((3, 2, 8), np.float32))
        grads = tape.backward(np.ones_like(tape.output))
    for name, array in grads.parameters.items():
        assert array.base is None or array.base.nbytes == array.nbytes, name


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no interval timers")
def test_signals_are_handled_within_a_long_backward_pass(kernels):
    """Signals that come while nobody looks are one; so several were looked for in the one call."""
    lstm, handled = nplstm.LSTM(64, 128, num_layers=2, rng=0), []

    def interrupted(*_):
        raise KeyboardInterrupt

    with nplstm.use_engines("compiled"):
        tape = lstm.record(np.ones((2_000, 16, 64), np.float32))
        before = signal.signal(signal.SIGALRM, lambda *_: handled.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        try:
            tape.backward(tape.output)
            counted = len(handled)
            signal.signal(signal.SIGALRM, interrupted)
            signal.setitimer(signal.ITIMER_REAL, 0.01)  # once
            with pytest.raises(KeyboardInterrupt):
                tape.backward(tape.output)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert counted >= 3


# --- sigmoid and tanh ------------------------------------------------------------------------------------------


ULPS = 3  # measured: 2.7


def all_over(dtype):
    """Numbers of every exponent and sign, subnormal ones among them, and more of them where the functions bend."""
    kind = np.dtype(dtype)
    bits = np.random.default_rng(0).integers(0, 1 << 8 * kind.itemsize, 1 << 18, f"u{kind.itemsize}")
    info = np.finfo(kind)
    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        info.tiny,
        -info.tiny,
        info.smallest_subnormal,
        info.max,
        info.min,
    ]
    bend = [np.linspace(-edge, edge, 1 << 17) for edge in (1, 20, 110, 800)]
    return np.concatenate([bits.view(kind), *(np.array(part, kind) for part in (*bend, special))])


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


@pytest.mark.parametrize(("name", "reference"), [("sigmoid", sigmoid), ("tanh", np.tanh)])
@pytest.mark.parametrize("dtype", RTOL)
def test_functions_are_exact_to_a_few_roundings(name, reference, dtype, kernels):
    x = all_over(dtype)
    found = np.full_like(x, 7)
    kernels.module.functions(kernels.choice, name == "tanh", x, found)
    there = ~np.isnan(x)
    assert np.isnan(found[~there]).all()
    with np.errstate(under="ignore"):
        exact = reference(x[there].astype(np.longdouble))
        spacing = np.spacing(np.abs(exact.astype(x.dtype)))
    off = np.abs(found[there] - exact) / spacing
    assert off.max() <= ULPS, f"{off.max():.2f} at {x[there][off.argmax()]!r}"
    assert np.abs(found[there]).max() <= 1
    if name == "tanh":
        assert (np.signbit(found[there]) == np.signbit(x[there])).all()


# --- sums over very many rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("H", "options"), [(4, {}), (9, {}), (5, VARIANTS["peephole"]), (5, dict(proj_size=3))])
def test_sums_over_very_many_rows_keep_their_digits(H, options, kernels):
    T = 200_000
    rng = np.random.default_rng(0)
    x, grad = rng.standard_normal((T, 1, 3)), 0.1 + rng.standard_normal((T, 1, options.get("proj_size", H)))
    single, double = (make(Sizes(1, 3, H, T), 1, dtype, **options) for dtype in RTOL)
    double.load_state_dict({name: value.astype("float64") for name, value in single.parameters.items()})
    x, grad = x.astype("float32"), grad.astype("float32")
    with nplstm.use_engines("compiled"):
        found = single.record(x).backward(grad).parameters
        exact = double.record(x.astype("float64")).backward(grad.astype("float64")).parameters
    for name, value in exact.items():
        error = np.abs(found[name] - value).max() / np.abs(value).max()
        assert error <= 5e-7, f"{name}: {error:.2g}"


def test_an_infinite_input_saturates_the_gates(kernels):
    """Its products with what fills up the last panel are NaN, and stay there."""
    lstm, x = nplstm.LSTM(3, 5, rng=0), np.random.default_rng(0).standard_normal((6, 1, 3)).astype("float32")
    x[3, 0, 1] = np.inf
    found = []
    for engine in ("plain", "compiled"):
        with nplstm.use_engines(engine), np.errstate(invalid="ignore"):
            tape = lstm.record(x)
            found.append(tape.backward(np.ones_like(tape.output)))
    plain, compiled = found
    assert np.isfinite(plain.input).all()
    np.testing.assert_allclose(compiled.input, plain.input, atol=1e-6)
    np.testing.assert_allclose(compiled.parameters["weight_hh_l0"], plain.parameters["weight_hh_l0"], atol=1e-5)
