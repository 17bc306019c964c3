"""Engines: each beside the plain time loop over all that it claims, and what it says where it claims nothing."""

import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
from cases import CELLS, LAYERS
from conftest import needs_kernels, require
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st
from variants import Variant

import nplstm
from nplstm.backends import get_backend
from nplstm.engines._numpy import diagonal
from nplstm.engines.choose import _ENGINES

FAST = [name for name, engine in _ENGINES.items() if name != "plain" and engine.supports_backend("numpy")]
NUMPY = get_backend("numpy")
RTOL = {"float64": 1e-13, "float32": 5e-6}  # sums of some hundred float32 numbers, in another order


@pytest.fixture(scope="session")
def engine(request):
    """The engine of that name, where it can run here."""
    reason = _ENGINES[request.param].unsupported_reason(nplstm.engines.Request("numpy", nplstm.CellSpec()))
    if reason:
        require("kernels", reason)
    return request.param


@pytest.fixture
def threads():
    """Put the number of threads back after the test."""
    before = nplstm.get_num_threads()
    yield nplstm.set_num_threads
    nplstm.set_num_threads(before)


def run(engine, variant, **options):
    """Results and gradients of everything, by name."""
    with nplstm.use_engines(engine):
        point = variant.place()
        tape = variant.call(point, **options)
        results = variant.results(tape)
        output, states = variant.call(point, record=False)
        called = variant.results(NplstmResult(output, states))
        gradients = variant.gradients(tape, variant.cotangents(results))
    if not options.get("training", True):
        for name, value in called.items():
            assert np.array_equal(value, results[name]), f"{name}: call and record differ"
    return results | {f"grad_{name}": value for name, value in gradients.items()}


class NplstmResult:
    """What a plain call returns, with the names of a tape."""

    def __init__(self, output, states):
        self.output, self.h_n, self.c_n, self.s_n = output, *states, *[None] * (3 - len(states))


def agree(engine, variant, rtol, **options):
    expected = run("plain", variant, **options)
    found = run(engine, variant, **options)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, rtol, name)


@pytest.mark.parametrize("engine", FAST, indirect=True)
@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("layer", LAYERS)
def test_an_engine_is_the_plain_loop_or_refuses(engine, layer, dtype):
    variant = Variant("standard", layer, NUMPY, dtype)
    asked = dict(training=False, recurrent_given=variant.row.recurrent_given)
    with nplstm.use_engines(engine, "plain"):
        choice = variant.lstm.engine_for(**asked)
    if choice.name == "plain":
        options = [k for k in ("proj_size", "hidden_transform") if getattr(variant.lstm, k)]
        assert options
        assert all(option in choice.refused[engine] for option in options)
    else:
        agree(engine, variant, RTOL[dtype], training=False)
        if not variant.lstm.cell.draws:  # dropout between layers is not the engine's business
            agree(engine, variant, RTOL[dtype])


@pytest.mark.parametrize("engine", FAST, indirect=True)
@pytest.mark.parametrize("cell", CELLS)
def test_a_variant_is_refused_by_the_names_of_its_options(engine, cell):
    spec = nplstm.CellSpec(**CELLS[cell])
    lstm = nplstm.LSTM(2, 3, cell=spec, rng=0)
    with nplstm.use_engines(engine, "plain"):
        for training in (False, True):
            choice = lstm.engine_for(training=training)
            acting = set(spec.composing) | {n for n in spec.draws if training or n.startswith("zoneout")}
            if engine == "compiled":
                acting -= {"coupled_input_forget", "clip", "peephole" if spec.peephole == "diagonal" else None}
            assert choice.name == ("plain" if acting else engine)
            assert all(name in choice.refused[engine] for name in acting)


@st.composite
def problems(draw):
    """Sizes on both sides of a vector, a tile, a group of panels and a share."""
    B, H, T = draw(st.integers(1, 30)), draw(st.integers(1, 80)), draw(st.integers(1, 9))
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    options = dict(
        bidirectional=draw(st.booleans()),
        num_layers=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
    )
    return B, draw(st.integers(1, 20)), H, T, lengths, options, draw(st.integers(1, 5)), draw(st.integers(0, 99))


def whole(engine, lstm, x, states, cotangents, lengths, **record):
    with nplstm.use_engines(engine):
        output, (h_n, c_n) = lstm(x, states, lengths=lengths)
        tape = lstm.record(x, states, lengths=lengths, **record)
        grads = tape.backward(cotangents[0], cotangents[1:])
    # a BLAS may sum a product of fewer rows in another order
    rtol = 1e-14 if record and engine != "compiled" else 0.0
    for called, recorded in ((output, tape.output), (h_n, tape.h_n), (c_n, tape.c_n)):
        assert_close(recorded, called, rtol, "what a call and a recording compute")
    results = {"output": output, "h_n": h_n, "c_n": c_n, "input": grads.input, "h_0": grads.h_0, "c_0": grads.c_0}
    return results | dict(grads.parameters)


def draw_problem(problem, dtype="float64"):
    B, I, H, T, lengths, options, _, seed = problem
    rng = np.random.default_rng(seed)
    lstm = nplstm.LSTM(I, H, **options, dtype=dtype, rng=seed)
    D, L = 1 + options["bidirectional"], options["num_layers"]

    def array(*shape):
        return rng.standard_normal(shape).astype(dtype)

    time_first = (B, T) if options["batch_first"] else (T, B)
    states = (array(L * D, B, H), array(L * D, B, H))
    cotangents = (array(*time_first, D * H), array(L * D, B, H), array(L * D, B, H))
    return lstm, array(*time_first, I), states, cotangents, lengths


@pytest.mark.parametrize("engine", FAST, indirect=True)
@given(problem=problems())
def test_an_engine_is_the_plain_loop_at_any_size(engine, problem):
    drawn = draw_problem(problem)
    expected, found = whole("plain", *drawn), whole(engine, *drawn)
    for name, value in expected.items():
        assert_close(found[name], value, 1e-12, name)


@given(
    L=st.integers(2, 5), B=st.integers(1, 4), H=st.integers(1, 9), T=st.integers(1, 9), reverse=st.booleans(),
    block=st.integers(2, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_layers_along_the_diagonal(L, B, H, T, reverse, block, seed):
    rng = np.random.default_rng(seed)
    lstm = nplstm.LSTM(3, H, L, reverse=reverse, dtype="float64", rng=seed)
    x, h_0, c_0 = rng.standard_normal((T, B, 3)), rng.standard_normal((L, B, H)), rng.standard_normal((L, B, H))
    cotangents = rng.standard_normal((T, B, H)), h_0, c_0
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nplstm.engines._numpy.diagonal._BLOCK_STEPS", block)
        whole_diagonal = diagonal.diagonal_forward
        patch.setattr(
            "nplstm.engines._numpy.diagonal.diagonal_forward",
            lambda *a, **k: taken.append(1) or whole_diagonal(*a, **k),
        )
        found = whole("numpy", lstm, x, (h_0, c_0), cotangents, None)
    assert bool(taken) == (T >= L)
    for name, value in whole("plain", lstm, x, (h_0, c_0), cotangents, None).items():
        assert_close(found[name], value, 1e-12, name)


@pytest.mark.parametrize("name", [*FAST, "plain"])
@given(problem=problems())
def test_checkpoints_change_results_by_roundings(name, problem):
    if name == "compiled":
        needs_kernels()
    drawn, every = draw_problem(problem), problem[6]
    expected, found = whole(name, *drawn), whole(name, *drawn, checkpoint_every=every)
    for key, value in expected.items():
        assert_close(found[key], value, 1e-12, key)


@pytest.mark.parametrize("layer", [name for name, row in LAYERS.items() if not row.recurrent_given])
@pytest.mark.parametrize("cell", ["standard", "everything", "everything coupled", "recurrent dropout by step"])
def test_checkpoints_of_variants(cell, layer, be):
    """Masks, contexts and transforms with a state, cut into spans."""
    found = []
    for every in (None, 3):
        variant = Variant(cell, layer, be)
        record = partial(variant.lstm.record, checkpoint_every=every)
        variant.lstm.record = record
        tape = variant.call(variant.place())
        results = variant.results(tape)
        results |= {f"grad_{n}": g for n, g in variant.gradients(tape, variant.cotangents(results)).items()}
        found.append({name: be.to_numpy(value) for name, value in results.items()})
    for name, value in found[0].items():
        assert_close(found[1][name], value, 1e-12, name)


@pytest.mark.parametrize("engine", [*FAST, "plain"], indirect=True)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("every", [None, 2])
def test_nothing_to_run(engine, bidirectional, every):
    """No sequence, no step that is not masked, or sequences of length 0 alone."""
    D = 1 + bidirectional
    lstm = nplstm.LSTM(2, 3, bidirectional=bidirectional, rng=0)
    for batch, said in ((0, {}), (2, dict(lengths=[0, 0])), (2, dict(mask=np.zeros((4, 2), bool)))):
        x, h_0 = np.ones((4, batch, 2), np.float32), np.ones((D, batch, 3), np.float32)
        with nplstm.use_engines(engine):
            tape = lstm.record(x, (h_0, h_0), **said, checkpoint_every=every)
            assert np.array_equal(lstm(x, (h_0, h_0), **said)[1][0], h_0)
            grads = tape.backward(np.ones_like(tape.output), (h_0, h_0))
        assert np.array_equal(tape.h_n, h_0)
        assert np.array_equal(tape.c_n, h_0)
        assert not grads.input.any()
        assert not any(grad.any() for grad in grads.parameters.values())
        if "mask" not in said:  # what a masked step shows is h_0
            assert np.array_equal(grads.h_0, h_0)


def test_a_recurrent_input_cannot_be_checkpointed():
    lstm = nplstm.LSTM(2, 3, hidden_transform=nplstm.Projection(4), rng=0)
    x, r_0, c_0 = (np.zeros(shape, np.float32) for shape in ((5, 1, 2), (1, 1, 4), (1, 1, 3)))
    with pytest.raises(nplstm.ArgumentError, match="checkpoint_every: the recurrent input was given"):
        lstm.record(x, (r_0, c_0), checkpoint_every=2)
    with pytest.raises(nplstm.ArgumentError, match="checkpoint_every: expected an integer >= 1, got 0"):
        lstm.record(x, checkpoint_every=0)


# --- threads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["compiled"], indirect=True)
@pytest.mark.parametrize(("B", "H"), [(1, 251), (3, 150), (13, 70), (40, 53)])
@pytest.mark.parametrize("ragged", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(engine, B, H, ragged, threads):
    """Sizes that are worth a second thread: sequences are shared, or where there are few the cells of a step."""
    lengths = np.random.default_rng(0).integers(0, 7, B).tolist() if ragged else None
    options = dict(bidirectional=True, num_layers=1, bias=True, batch_first=False)
    drawn = draw_problem((B, 5, H, 7, lengths, options, None, 0), "float32")
    found = []
    for count in (1, 2, 3, 5):
        threads(count)
        found.append(whole(engine, *drawn))
    assert all(np.array_equal(found[0][name], other[name]) for other in found[1:] for name in other)


@pytest.mark.parametrize("engine", FAST, indirect=True)
def test_calls_from_several_threads_at_once(engine, threads):
    """Inference, recordings and streams of one layer, more of them than there are threads."""
    threads(3)
    options = dict(bidirectional=False, num_layers=2, bias=True, batch_first=False)
    drawn = draw_problem((9, 6, 70, 40, None, options, None, 0), "float32")
    expected = whole(engine, *drawn)
    lstm, x = drawn[0], drawn[1]
    failures = []

    def work():
        try:
            for _ in range(5):
                found = whole(engine, *drawn)
                assert all(np.array_equal(found[name], expected[name]) for name in expected)
                with nplstm.use_engines(engine):
                    stream = lstm.stream(9, drawn[2])
                steps = np.array([stream.step(x_t).copy() for x_t in x])
                assert_close(steps, expected["output"], 1e-5, "stream")
        except BaseException as error:  # noqa: BLE001  told by the main thread
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.parametrize("engine", ["compiled"], indirect=True)
def test_threads_that_have_fallen_asleep_are_woken(engine, threads):
    """Calls come just as threads stop waiting for them, at every moment of that."""
    threads(4)
    lstm, x = nplstm.LSTM(5, 251, rng=0), np.ones((3, 2, 5), np.float32)
    with nplstm.use_engines(engine):
        stream, expected = lstm.stream(2), lstm(x)[0]
        for pause in np.random.default_rng(0).uniform(0, 1e-3, 300):
            time.sleep(pause)
            assert np.array_equal(lstm(x)[0], expected)
            stream.reset()
            assert_close(np.array([stream.step(x_t).copy() for x_t in x]), expected, 1e-6, "stream")


@pytest.mark.parametrize("every", [None, 100])
def test_threads_do_not_meet_where_sequences_end(every, threads):
    """Shares of a ragged batch, in several blocks of steps, over which nobody waits for anybody."""
    needs_kernels()
    lengths = np.linspace(20, 300, 16).astype(int).tolist()
    options = dict(bidirectional=False, num_layers=1, bias=True, batch_first=False)
    drawn = draw_problem((16, 8, 64, 300, lengths, options, None, 0), "float32")
    threads(1)
    expected = whole("compiled", *drawn, checkpoint_every=every)
    threads(2)
    for _ in range(5):
        found = whole("compiled", *drawn, checkpoint_every=every)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_the_number_of_threads_is_checked_and_read_from_the_environment(threads):
    with pytest.raises(nplstm.ArgumentError, match="threads: expected an integer >= 1, got 0"):
        threads(0)
    threads(2)
    assert nplstm.get_num_threads() == 2
    code = "import nplstm; print(nplstm.get_num_threads())"
    environment = {"NPLSTM_NUM_THREADS": "7", "PATH": ""}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "7"


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own():
    needs_kernels()
    code = """
import os, numpy as np, nplstm
nplstm.set_num_threads(2)
lstm = nplstm.LSTM(64, 256, rng=0)
x = np.ones((50, 16, 64), np.float32)
with nplstm.use_engines("compiled"):
    before = lstm(x)[0]
    child = os.fork()
    same = np.array_equal(lstm(x)[0], before)
if child == 0:
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0 and same
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


# --- which one -------------------------------------------------------------------------------------------------


def test_the_choice_says_why():
    with nplstm.use_engines("compiled", "numpy", "plain"):
        choice = nplstm.LSTM(2, 3, cell=nplstm.CellSpec(layer_norm="cell_state")).engine_for()
    assert choice.name == "plain"
    assert str(choice).splitlines()[0] == "plain"
    assert all("layer_norm" in choice.refused[name] for name in ("compiled", "numpy"))
    lstm = nplstm.LSTM(2, 3, rng=0, cell=nplstm.CellSpec(clip=1.0))
    with nplstm.use_engines("numpy"), pytest.raises(nplstm.ArgumentError, match=r"none of those allowed.*clip"):
        lstm(np.zeros((1, 1, 2), np.float32))
    with pytest.raises(
        nplstm.ArgumentError,
        match="names: expected one of 'compiled', 'numpy', 'persistent', 'fused', 'plain', got 'fast'",
    ):
        nplstm.use_engines("fast").__enter__()
    with pytest.raises(nplstm.ArgumentError, match="names: expected at least one"):
        nplstm.use_engines().__enter__()


def test_another_backend_has_the_plain_engine():
    choice = nplstm.LSTM(2, 3, backend="strict").engine_for()
    assert choice.name == "plain"
    assert "numpy" not in choice.refused, "it is not for such arrays at all"
    with nplstm.use_engines("numpy", "plain"):
        assert "'strict'" in nplstm.LSTM(2, 3, backend="strict").engine_for().refused["numpy"]


def test_the_environment_names_engines_of_several_backends():
    """Each layer is run by those that are for its arrays, and by default where none of them is."""
    code = "import nplstm; print(nplstm.LSTM(2, 3).engine_for().name)"

    def engine(names):
        found = run_python(code, NPLSTM_ENGINES=names)
        assert found.returncode == 0, found.stderr
        return found.stdout.strip()

    assert engine("persistent,fused,numpy,plain") == "numpy"
    assert engine("persistent,plain") == "plain"
    assert engine("fused") == engine("")


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={"PATH": "", **environment}, capture_output=True, text=True, check=False
    )


def test_without_kernels_the_numpy_engine_runs_and_says_why():
    code = "import nplstm; print(nplstm.LSTM(2, 3).engine_for())"
    printed = run_python(code, NPLSTM_KERNELS="none").stdout
    assert printed == "numpy\n  not compiled: needs its library of kernels, which NPLSTM_KERNELS=none turns off\n"


def test_the_environment_names_the_engines():
    code = "import nplstm; print(nplstm.LSTM(2, 3).engine_for().name)"
    assert run_python(code, NPLSTM_ENGINES="plain").stdout.strip() == "plain"
    assert "NPLSTM_ENGINES: expected one of" in run_python(code, NPLSTM_ENGINES="fast").stderr


# --- the checks see what they are for --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slip",
    [
        ("nplstm.engines._numpy.forward", "bias_planes"),
        ("nplstm.engines._numpy.backward", "_factors"),
        ("nplstm.engines._numpy.backward", "_states_before"),
        ("nplstm.engines.compiled.kernel_weights", "_packed"),
        ("nplstm.engines.compiled.backward", "_params"),
    ],
    ids=".".join,
)
def test_the_comparison_sees_a_slip(slip, monkeypatch):
    module, name = slip
    engine = "numpy" if "_numpy" in module else "compiled"
    if engine == "compiled":
        needs_kernels()
    correct = getattr(__import__(module, fromlist=[name]), name)

    def wrong(*args, **kwargs):
        result = correct(*args, **kwargs)
        if not isinstance(result, tuple):
            return result * (1 + 1e-9)
        field = "of_h" if hasattr(result, "of_h") else "weight_hh"
        return result._replace(**{field: getattr(result, field) * (1 + 1e-9)})

    monkeypatch.setattr(f"{module}.{name}", wrong)
    with pytest.raises(AssertionError, match="differs by"):
        agree(engine, Variant("standard", "bidirectional", NUMPY), RTOL["float64"], training=False)


@pytest.mark.parametrize("names", [("compiled",), ("numpy",), ("plain",)])
def test_a_cell_runs_on_the_engines(names):
    """One step of an LSTMCell is the LSTM's, on each engine and both ways."""
    if names == ("compiled",):
        needs_kernels()
    cell, lstm = nplstm.LSTMCell(5, 7, dtype="float64", rng=0), nplstm.LSTM(5, 7, dtype="float64")
    lstm.load_state_dict({name + "_l0": array for name, array in cell.parameters.items()})
    x, h, c = (np.random.default_rng(k).standard_normal((3, n)) for k, n in enumerate((5, 7, 7)))
    with nplstm.use_engines(*names):
        tape = cell.record(x, (h, c))
        assert tape._tape._pass.tape.engine.name == names[0]
        grads = tape.backward(h, c)
    with nplstm.use_engines("plain"):
        expected = lstm.record(x[None], (h[None], c[None]))
        whole = expected.backward(None, (h[None], c[None]))
    pairs = [(tape.h, expected.h_n[0]), (tape.c, expected.c_n[0]), (grads.input, whole.input[0])]
    pairs += [(grads.h_0, whole.h_0[0]), (grads.c_0, whole.c_0[0])]
    pairs += [(grad, whole.parameters[name + "_l0"]) for name, grad in grads.parameters.items()]
    for found, wanted in pairs:
        assert np.abs(found - wanted).max() <= 1e-13


def test_one_step_without_kernels_is_taken_by_the_time_loop():
    """The NumPy engine is made for sequences, and runs a cell where nothing else is allowed."""
    cell, x = nplstm.LSTMCell(2, 3, rng=0), np.ones((1, 2), np.float32)
    for names, expected in ((("numpy", "plain"), "plain"), (("numpy",), "numpy")):
        with nplstm.use_engines(*names):
            assert cell.record(x)._tape._pass.tape.engine.name == expected
