"""The engines of a CUDA device beside the plain loop: on a GPU, or on the CPU with all threads and barriers.

On the CPU each launch is also checked for what a GPU would not tell: accesses out of bounds, memory that two
threads use with nothing between them, waits that never end (see ``cuda_on_cpu``).
"""

import contextlib
import itertools
from functools import partial

import numpy as np
import pytest
from cases import CELLS, LAYERS
from conftest import require
from helpers import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from variants import Variant

import nplstm
from nplstm.backends import get_backend
from nplstm.backends._cuda import Device
from nplstm.engines.cuda import crossover, directions, persistent, source
from nplstm.engines.cuda.plan import Problem, Tile, find_plan

pytestmark = pytest.mark.other_backends

NUMPY = get_backend("numpy")
ENGINES = ["fused", "persistent"]

# By what is rounded ahead of the recurrent product: norms of the difference over some steps, relative.
PRECISIONS = {"float32": 1e-6, "tf32": 1e-3, "float16": 1e-3, "bfloat16": 1e-2}
HALF = 1e-2  # arrays of float16


@pytest.fixture(autouse=True)
def compiler(be):
    """On the CPU a C++ compiler makes kernels run."""
    if be.name == "strict":
        import cuda_on_cpu

        if cuda_on_cpu.compiler():
            require("g++", cuda_on_cpu.compiler())


@pytest.fixture
def emulator(be):
    """The device of the stand-in, as it was before the test."""
    if be.name != "strict":
        pytest.skip("the emulator's own options: a GPU has none of these")
    cuda = be.cuda
    before = vars(cuda).copy()
    yield cuda
    vars(cuda).update(
        {name: before[name] for name in ("seed", "chaos", "withheld", "max_turns", "race_check", "_device")}
    )


def forget_plans():
    find_plan.cache_clear()
    persistent._prepared.cache_clear()


@pytest.fixture
def change_source(monkeypatch):
    """Change the text of the kernels; what was compiled of it is not kept."""

    def change(old, new):
        whole = source.read_source
        texts = [whole(f"persistent_{direction}.cu") for direction in ("forward", "backward")]
        assert any(old in text for text in texts)
        monkeypatch.setattr(source, "read_source", lambda name: whole(name).replace(old, new))
        forget_plans()

    yield change
    forget_plans()


def large(emulator, multiprocessors=64):
    """Give the emulator more room, for launches of more blocks."""
    emulator._device = Device("CPU", (9, 0), multiprocessors, 232448)


class Problems:
    """One layer and its inputs, in an element type on a backend and in float64 on NumPy."""

    def __init__(self, be, dtype, *, T=4, B=3, I=5, H=7, L=1, lengths=None, seed=0, **options):
        rng = np.random.default_rng(seed)
        self.be, self.lengths, self.L, self.dtype = be, lengths, L, dtype
        self.lstm = nplstm.LSTM(I, H, L, **options, dtype=dtype, backend=be.name, rng=seed)
        self.exact = nplstm.LSTM(I, H, L, **options, dtype="float64", rng=seed)
        self.exact.load_state_dict(
            {k: be.to_numpy(v).astype("float64") for k, v in self.lstm.state_dict().items()}
        )
        D = 1 + self.lstm.bidirectional
        shapes = [(T, B, I), (L * D, B, H), (L * D, B, H), (T, B, D * H), (L * D, B, H), (L * D, B, H)]
        self.given = [rng.standard_normal(shape).astype(dtype).astype("float64") for shape in shapes]

    def run(self, lstm, be, dtype, **record):
        x, h_0, c_0, *cotangents = (be.asarray(array.astype(dtype)) for array in self.given)
        called = lstm(x, (h_0, c_0), lengths=self.lengths)
        tape = lstm.record(x, (h_0, c_0), lengths=self.lengths, **record)
        for one, other in zip((called[0], *called[1]), (tape.output, tape.h_n, tape.c_n), strict=True):
            if not record:  # the sums of a library's product may depend on how many rows it has
                assert_close(be.to_numpy(other), be.to_numpy(one), 16 * float(np.finfo(dtype).eps), "call")
        grads = tape.backward(cotangents[0], cotangents[1:])
        found = {"output": tape.output, "h_n": tape.h_n, "c_n": tape.c_n}
        found |= {"grad_input": grads.input, "grad_h_0": grads.h_0, "grad_c_0": grads.c_0, **grads.parameters}
        return {name: be.to_numpy(array) for name, array in found.items()}

    def expected(self):
        with nplstm.use_engines("plain"):
            return self.run(self.exact, NUMPY, "float64")

    def found(self, engine, precision="float32", **record):
        with nplstm.use_engines(engine), nplstm.use_precision(precision):
            return self.run(self.lstm, self.be, self.dtype, **record)


def assert_near(found, expected, limit):
    """Compare by the norm of what differs, relative to that of what is expected."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        size = np.linalg.norm(value)
        assert np.isfinite(found[name]).all(), name
        error = np.linalg.norm(found[name].astype("float64") - value)
        assert error <= limit * size, f"{name}: {error / size if size else error:.2g}, allowed {limit:.2g}"


# --- all that is claimed, and what is not ------------------------------------------------------------------------


def of_variant(engine, variant, **options):
    with nplstm.use_engines(engine):
        tape = variant.call(variant.place(), **options)
        results = variant.results(tape)
        gradients = variant.gradients(tape, variant.cotangents(results))
    found = results | {f"grad_{name}": value for name, value in gradients.items()}
    return {name: variant.be.to_numpy(value) for name, value in found.items()}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layer", LAYERS)
def test_an_engine_is_the_plain_loop_or_refuses(engine, layer, dtype, be):
    variant = Variant("standard", layer, be, dtype)
    with nplstm.use_engines(engine, "plain"):
        choice = variant.lstm.engine_for(3, recurrent_given=variant.row.recurrent_given)
    if choice.name == "plain":
        options = [k for k in ("proj_size", "hidden_transform") if getattr(variant.lstm, k)]
        options += ["float64"] * (dtype == "float64" and engine == "persistent")
        assert options
        assert any(option in choice.refused[engine] for option in options)
        return
    rtol = {"float64": 1e-13, "float32": 5e-6}[dtype]  # sums of some numbers in another order
    found, expected = (of_variant(name, variant, training=False) for name in (engine, "plain"))
    for name, value in expected.items():
        assert_close(found[name], value, rtol, name)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_variant_is_refused_by_the_names_of_its_options(engine, cell, be):
    spec = nplstm.CellSpec(**CELLS[cell])
    lstm = nplstm.LSTM(2, 3, cell=spec, backend=be.name, rng=0)
    with nplstm.use_engines(engine, "plain"):
        choice = lstm.engine_for(training=True)
    acting = {*spec.composing, *spec.draws}
    assert choice.name == ("plain" if acting else engine)
    assert all(name in choice.refused[engine] for name in acting)


def test_what_has_not_run_on_a_gpu_runs_by_name_alone(be):
    lstm = nplstm.LSTM(2, 3, backend=be.name, rng=0)
    choice = lstm.engine_for()
    assert choice.name == "plain"
    assert list(choice.refused) == ["persistent", "fused"]
    for name, reason in choice.refused.items():
        hint = "nplstm.use_engines('persistent', 'fused', 'plain') runs it anyway"
        assert reason == f"needs verification on a GPU; {hint}"
        with nplstm.use_engines(name, "plain"):
            assert lstm.engine_for().name == name


# --- sizes -------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    T, B = draw(st.integers(1, 6)), draw(st.integers(1, 19))
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    options = dict(T=T, B=B, I=draw(st.integers(1, 9)), H=draw(st.integers(1, 40)), lengths=lengths)
    options |= dict(L=draw(st.integers(1, 3)), bias=draw(st.booleans()), seed=draw(st.integers(0, 99)))
    return options | draw(st.sampled_from([{}, dict(bidirectional=True), dict(reverse=True)]))


@settings(max_examples=12)
@given(drawn=problems())
def test_persistent_at_any_size(drawn, be):
    problem = Problems(be, "float32", **drawn)
    expected = problem.expected()
    for precision, limit in PRECISIONS.items():
        assert_near(problem.found("persistent", precision), expected, limit)


@settings(max_examples=12)
@given(drawn=problems(), dtype=st.sampled_from(["float64", "float32", "float16"]))
def test_fused_at_any_size(drawn, dtype, be):
    problem = Problems(be, dtype, **drawn)
    assert_near(
        problem.found("fused"), problem.expected(), {"float64": 1e-13, "float32": 1e-6, "float16": HALF}[dtype]
    )


@pytest.mark.parametrize(
    "sizes", [dict(), dict(H=1, B=1, T=1), dict(H=37, B=11, lengths=[4, 0, *[3] * 9], L=2)], ids=str
)
def test_persistent_in_float16(sizes, be):
    problem = Problems(be, "float16", **sizes)
    assert_near(problem.found("persistent"), problem.expected(), HALF)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(H=1, B=1, T=1, I=1), dict(H=1, B=17), dict(H=131, B=1, T=2), dict(H=67, B=13, T=3,
        bidirectional=True), dict(H=31, B=67, T=2), dict(H=8, B=2, T=50),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_persistent_at_the_corners(sizes, precision, be):
    """One cell, one sequence, one step; primes; more groups than registers have room for."""
    if be.name == "strict":
        be.cuda._device = Device("CPU", (9, 0), 132, 232448)
    problem = Problems(be, "float32", **sizes)
    assert_near(problem.found("persistent", precision), problem.expected(), PRECISIONS[precision])


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_tile_computes_the_same(direction, precision, be, emulator, monkeypatch):
    """All that the plan may choose from, whatever it would choose here."""
    large(emulator)
    sizes = dict(H=21, B=21, T=3, lengths=[*[3] * 9, *[2] * 8, *[1] * 3, 0])
    problem = Problems(be, "float32", **sizes)
    expected = problem.expected()
    tiles = Problem(direction, precision, 21, 21, 1, False).tiles()
    whole = Problem.tiles
    for tile in tiles:
        monkeypatch.setattr(
            Problem, "tiles", lambda self, tile=tile: [tile] if self.phase == direction else whole(self)
        )
        forget_plans()
        assert_near(problem.found("persistent", precision), expected, PRECISIONS[precision])
    forget_plans()


def test_weights_beyond_the_registers(be, emulator, monkeypatch):
    """The least number of groups in registers, so that most are in the block's memory."""
    large(emulator)
    problem = Problems(be, "float32", H=150, B=3, T=3)
    few = {"forward": [Tile(4, 1, 1, 4)], "backward": [Tile(1, 2, 1, 2)]}
    monkeypatch.setattr(Problem, "tiles", lambda self: few[self.phase])
    forget_plans()
    assert_near(problem.found("persistent", "tf32"), problem.expected(), PRECISIONS["tf32"])
    forget_plans()


MEMORY = {
    "columns": lambda be, a: be.asarray(np.ascontiguousarray(a.swapaxes(-1, -2))).swapaxes(-1, -2),
    "every second": lambda be, a: be.asarray(np.repeat(a, 2, axis=-1))[..., ::2],
    "backwards": lambda be, a: be.asarray(np.ascontiguousarray(a[::-1]))[::-1],
    "one number": lambda be, a: be.xp.broadcast_to(be.asarray(a[..., :1]), a.shape),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("lengths", [None, [4, 2, 3]])
def test_elements_may_stand_anywhere_in_memory(engine, memory, lengths, be):
    """A kernel takes an address, and would read what stands next to it."""
    problem = Problems(be, "float32")
    given = [MEMORY[memory](be, array.astype("float32")) for array in problem.given]
    found = []
    for name in ("plain", engine):
        with nplstm.use_engines(name):
            tape = problem.lstm.record(given[0], given[1:3], lengths=lengths)
            grads = tape.backward(given[3], given[4:])
        arrays = [tape.output, tape.h_n, tape.c_n, grads.input, grads.h_0, grads.c_0, *grads.parameters.values()]
        found.append([be.to_numpy(array) for array in arrays])
    for one, other in zip(*found, strict=True):
        assert_close(other, one, 2e-6)


def test_an_address_of_other_elements_is_none(be):
    from nplstm.engines.cuda import addresses

    array = be.asarray(np.zeros((4, 6), "float32"))
    assert addresses.address(array[1:3]) == addresses.rows_address(array[1:3]) == addresses.address(array) + 24
    assert addresses.rows_address(array[::2, 1:3]) == addresses.address(array) + 4
    assert addresses.row_stride(array[::2, 1:3]) == 12
    for wrong in (array[:, :5], array[::2], array.T):
        with pytest.raises(AssertionError, match="other elements"):
            addresses.address(wrong)
    for wrong in (array.T, array[:, ::2]):
        with pytest.raises(AssertionError, match="other elements"):
            addresses.rows_address(wrong)


# --- stacks, spans, checkpoints ----------------------------------------------------------------------------------


@pytest.fixture
def chains(monkeypatch):
    """Let layers follow each other wherever they can; count the launches that do."""
    taken = []
    for name in ("persistent_forward_steps", "persistent_backward_steps"):
        whole = getattr(persistent, name)

        def counted(*args, whole=whole, name=name, chained=False):
            taken.append(name) if chained else None
            return whole(*args, chained=chained)

        monkeypatch.setattr(persistent, name, counted)
    monkeypatch.setattr(crossover, "worth_a_chain", lambda direction, x, precision, widths, steps: len(widths) > 1)
    return taken


@pytest.mark.parametrize(
    "sizes",
    [
        dict(L=2, T=1), dict(L=3, T=11, H=13, B=5), dict(L=2, H=37, B=3, T=7, reverse=True),
        dict(L=4, H=9, B=9, T=5, lengths=[5, 1, 0, 2, 5, 4, 3, 3, 1]), dict(L=8, H=3, T=9, bias=False),
        dict(L=2, H=19, B=2, T=6, reverse=True, lengths=[2, 6]),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_layers_that_follow_each_other(sizes, precision, be, chains, emulator):
    large(emulator)
    problem = Problems(be, "float32", **sizes)
    expected = problem.expected()
    assert_near(problem.found("persistent", precision), expected, PRECISIONS[precision])
    assert set(chains) == {"persistent_forward_steps", "persistent_backward_steps"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "options", [{}, dict(lengths=[7, 2, 5]), dict(bidirectional=True, lengths=[7, 7, 1])], ids=str
)
def test_spans_of_steps_make_the_whole(engine, options, be, monkeypatch):
    problem = Problems(be, "float32", T=7, **options)
    whole = problem.found(engine)
    monkeypatch.setattr(directions, "BLOCK_BYTES", 4 * 4 * 7 * 3 * 2)  # two steps, or one
    for name, value in problem.found(engine).items():
        exact = name in ("output", "h_n", "c_n", "grad_h_0", "grad_c_0", "grad_input")
        assert_close(value, whole[name], 0 if exact and engine == "persistent" else 1e-5, name)


@pytest.mark.parametrize("engine", ENGINES)
def test_checkpoints(engine, be):
    problem = Problems(be, "float32", T=7, lengths=[7, 2, 5], bidirectional=True, L=2)
    assert_near(problem.found(engine, checkpoint_every=3), problem.expected(), 1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_to_run(engine, be):
    lstm = nplstm.LSTM(2, 3, bidirectional=True, backend=be.name, rng=0)
    for batch, lengths in ((0, None), (2, [0, 0])):
        x, h_0 = be.xp.zeros((4, batch, 2), dtype="float32"), be.xp.zeros((2, batch, 3), dtype="float32") + 1
        with nplstm.use_engines(engine):
            tape = lstm.record(x, (h_0, h_0), lengths=lengths)
            grads = tape.backward(be.xp.zeros((4, batch, 6), dtype="float32"), (h_0, h_0))
        assert np.array_equal(be.to_numpy(tape.h_n), be.to_numpy(h_0))
        assert np.array_equal(be.to_numpy(grads.h_0), be.to_numpy(h_0))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_recording_goes_back_in_its_own_precision_as_often_as_asked(engine, be):
    problem = Problems(be, "float32", T=5, H=16)
    x, h_0, c_0, *cotangents = (be.asarray(array.astype("float32")) for array in problem.given)
    with nplstm.use_engines(engine, "plain"):
        with nplstm.use_precision("bfloat16"):
            tape = problem.lstm.record(x, (h_0, c_0))
            first = tape.backward(cotangents[0], cotangents[1:])
        second = tape.backward(cotangents[0], cotangents[1:])
    for name, value in first.parameters.items():
        assert np.array_equal(be.to_numpy(value), be.to_numpy(second.parameters[name])), name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_small_gradients_are_as_exact_as_large_ones(precision, be):
    problem = Problems(be, "float32", T=5, H=16)
    problem.given[3:] = [array * 1e-9 for array in problem.given[3:]]
    assert_near(problem.found("persistent", precision), problem.expected(), PRECISIONS[precision])


@pytest.mark.parametrize("engine", ENGINES)
def test_checkpoints_go_back_in_the_precision_of_the_recording(engine, be):
    problem = Problems(be, "float32", T=7, H=16)
    x, h_0, c_0, *cotangents = (be.asarray(array.astype("float32")) for array in problem.given)
    found = []
    for every in (None, 3):
        with nplstm.use_engines(engine, "plain"), nplstm.use_precision("bfloat16"):
            tape = problem.lstm.record(x, (h_0, c_0), checkpoint_every=every)
        found.append(
            {k: be.to_numpy(v) for k, v in tape.backward(cotangents[0], cotangents[1:]).parameters.items()}
        )
    for name, value in found[0].items():
        assert_close(found[1][name], value, 1e-6, name)


def test_the_largest_numbers_are_none_too_large(be):
    """Exact products are put together of two parts; the first one of these would be rounded to infinity."""
    problem = Problems(be, "float32")
    problem.given[1][..., 1] = 3.4028e38
    problem.given[1][..., 2] = -3.4028e38
    expected = problem.expected()["output"]
    output = problem.found("persistent")["output"]
    assert np.isfinite(expected).all()
    assert_close(output.astype("float64"), expected, 1e-5)


# --- what happens between threads --------------------------------------------------------------------------------


def results_under(problem, emulator, seed, chaos):
    emulator.seed, emulator.chaos = seed, chaos
    return problem.found("persistent", "tf32")


def test_the_same_bits_each_time(be):
    problem = Problems(be, "float32", T=5, B=9, H=33, bidirectional=True)
    first, *others = [problem.found("persistent", "tf32") for _ in range(10)]
    assert all(np.array_equal(first[name], other[name]) for other in others for name in first)


@pytest.mark.parametrize("sizes", [dict(T=4, B=9, H=33, bidirectional=True), dict(T=5, B=3, H=21, L=3)], ids=str)
def test_the_same_bits_in_whatever_order_threads_go_on(sizes, be, emulator, chains):
    large(emulator)
    problem = Problems(be, "float32", **sizes)
    first = results_under(problem, emulator, 0, False)
    for seed in range(1, 8):
        other = results_under(problem, emulator, seed, seed % 2 == 0)
        assert all(np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("block", [(0, 0), (1, 0), (2, 1)])
def test_a_wait_that_never_ends_is_an_error_and_no_result(block, be, emulator, monkeypatch):
    monkeypatch.setattr(persistent, "PATIENCE", 50)
    problem = Problems(be, "float32", T=5, B=3, H=21, bidirectional=True)
    x = be.asarray(problem.given[0].astype("float32"))
    emulator.withheld = block
    with nplstm.use_engines("persistent"):
        output, (h_n, _) = problem.lstm(x)
        emulator.withheld = None
        direction = be.to_numpy(output)[..., block[1] * 21 : block[1] * 21 + 21]
        others = be.to_numpy(output)[..., (1 - block[1]) * 21 : (1 - block[1]) * 21 + 21]
        running = [cell for cell in range(21) if cell // 8 != block[0]]
        assert np.isnan(direction[..., running]).all()
        assert np.isnan(be.to_numpy(h_n)[block[1]][:, running]).all()
        assert np.isfinite(others).all(), "the other direction does not wait for this one"
        with pytest.raises(nplstm.DeviceError, match="gave up waiting around step 0, and its results, NaN"):
            problem.lstm(x)
    problem.found("persistent")  # and all is well again


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_slow_block_is_not_told_wrong_numbers(direction, be, emulator, monkeypatch, change_source):
    """Others lose patience with it while it still reads what they sent two steps before."""
    large(emulator)
    emulator.race_check = False
    line = "    Sums total = {};"
    change_source(line, f"    if (blockIdx.x == 2) for (int k = 0; k < 300; ++k) __syncwarp();\n{line}")
    problem = Problems(be, "float32", T=8, B=3, H=40)
    x, cotangent = (be.asarray(problem.given[k].astype("float32")) for k in (0, 3))
    lost = 0
    for seed in range(6):
        emulator.seed = seed
        with nplstm.use_engines("persistent"):
            monkeypatch.setattr(persistent, "PATIENCE", 2**30)
            tape = problem.lstm.record(x)
            expected = be.to_numpy(tape.output if direction == "forward" else tape.backward(cotangent).h_0)
            monkeypatch.setattr(persistent, "PATIENCE", 150)
            found = be.to_numpy(problem.lstm(x)[0] if direction == "forward" else tape.backward(cotangent).h_0)
            there = np.isfinite(found)
            lost += not there.all()
            assert_close(found[there], expected[there], 1e-6)
            with contextlib.suppress(nplstm.DeviceError):
                problem.lstm(x)
            monkeypatch.setattr(persistent, "PATIENCE", 2**30)
            with contextlib.suppress(nplstm.DeviceError):
                problem.lstm(x)
    assert lost, "nobody lost patience"


def test_each_of_two_equal_devices_has_its_own_kernels(be, emulator):
    asked = []
    whole = emulator.kernel
    emulator.kernel = lambda *args: asked.append(emulator.device().number) or whole(*args)
    problem = Problems(be, "float32")
    for number in (0, 1, 0):
        emulator._device = Device("CPU", (9, 0), 8, 232448, number)
        problem.found("persistent")
    del emulator.kernel
    assert asked == [0, 0, 1, 1]


def test_blocks_that_cannot_run_at_once_are_not_launched(be, emulator):
    emulator._device = Device("CPU", (9, 0), 2, 232448)
    problem = Problems(be, "float32", H=40)
    with (
        nplstm.use_engines("persistent"),
        pytest.raises(nplstm.ArgumentError, match=r"H=40 in float32 .* do not fit"),
    ):
        problem.found("persistent")
    with nplstm.use_engines("persistent", "fused"):
        assert problem.lstm.engine_for().name == "fused"


def test_flags_start_over_before_they_run_out(be, monkeypatch):
    from nplstm.engines.cuda import exchange

    problem = Problems(be, "float32", T=9, H=20)
    first = problem.found("persistent")
    monkeypatch.setattr(exchange, "_LAST", 25)
    for _ in range(4):
        again = problem.found("persistent")
        assert all(np.array_equal(first[name], again[name]) for name in first)


# --- the checks above see what is wrong --------------------------------------------------------------------------

BROKEN = {
    "no wait": ("while (arrived && (int)(look(flags + b) - value) < 0)", "while (false)"),
    "no barrier ahead of the sums": ("arrived = __syncthreads_and(arrived);", ""),
    "no barrier behind them": ("            __syncthreads();\n        }\n", "        }\n"),
    "one place for all states": ("(size_t)(state & (shape.ring - 1))", "(size_t)(0 * state)"),
    "a flag ahead of what it tells of": (
        "__syncthreads();\n    announce_state(shape, p, direction.own, 0);",
        "announce_state(shape, p, direction.own, 0);",
    ),
    "a wait for the state before": ("ready(shape, s))", "ready(shape, max(s - 1, 0)))"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_kernel_that_is_broken_is_caught(fault, be, emulator, change_source):
    from cuda_on_cpu import KernelFault

    change_source(*BROKEN[fault])
    emulator.seed = 3
    problem = Problems(be, "float32", T=4, B=3, H=21)
    with pytest.raises(KernelFault, match="nothing orders it"):
        problem.found("persistent")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("grad * gate.i * (one - gate.g * gate.g)", "grad * gate.i * (one - gate.g)"),
        ("grad_c = grad * gate.f;", "grad_c = grad;"),
        ("if (!state.began[pass][o]) grad_h += state.grad_h[pass][o];", ""),
        ("c = gate.f * c + gate.i * gate.g;", "c = gate.f * c + gate.i;"),
    ],
)
def test_wrong_mathematics_is_caught(old, new, be, emulator, change_source):
    change_source(old, new)
    problem = Problems(be, "float32", lengths=[4, 2, 3])
    with pytest.raises(AssertionError, match="allowed"):
        assert_near(problem.found("persistent"), problem.expected(), 1e-6)


# --- real time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("batch", [None, 1, 3, 9])
@pytest.mark.parametrize(
    "stack", [dict(hidden_size=21), dict(hidden_size=(5, 33, 18), num_layers=3, bias=False)], ids=str
)
def test_steps_are_the_call(engine, dtype, batch, stack, be):
    lstm = nplstm.LSTM(11, **stack, dtype=dtype, backend=be.name, rng=0)
    lead = () if batch is None else (batch,)
    x = be.asarray(np.random.default_rng(0).standard_normal((6, *lead, 11)).astype(dtype))
    with nplstm.use_engines("plain"):
        output, final = lstm(x)
    with nplstm.use_engines(engine):
        stream = lstm.stream(batch)
    assert stream.engine.name == engine
    limit = {"float64": 1e-14, "float32": 2e-6, "float16": 5e-3}[dtype]
    for _ in range(2):
        for x_t, expected in zip(x, output, strict=True):
            assert_close(be.to_numpy(stream.step(x_t)), be.to_numpy(expected), limit, "output")
        flat = partial(itertools.chain.from_iterable) if isinstance(lstm.hidden_size, tuple) else iter
        for one, other in zip(flat(stream.state), flat(final), strict=True):
            assert_close(be.to_numpy(one), be.to_numpy(other), limit, "state")
        stream.reset()


def test_a_stream_belongs_to_its_device(be, emulator, monkeypatch):
    lstm = nplstm.LSTM(3, 5, backend=be.name, rng=0)
    with nplstm.use_engines("fused"):
        stream = lstm.stream(1)
    monkeypatch.setattr(emulator, "stream", lambda: (1, 0))
    with pytest.raises(nplstm.BackendError, match="the stream is on device 0, and the current device is 1"):
        stream.step(be.asarray(np.zeros((1, 3), "float32")))


def test_a_stream_takes_up_a_state(be):
    lstm = nplstm.LSTM(3, 5, 2, backend=be.name, rng=0)
    x = be.asarray(np.random.default_rng(0).standard_normal((4, 2, 3)).astype("float32"))
    with nplstm.use_engines("fused"):
        stream, other = lstm.stream(2), lstm.stream(2)
        for x_t in x[:3]:
            stream.step(x_t)
        other.state = stream.state  # after an odd number of steps
        assert np.array_equal(be.to_numpy(stream.step(x[3])), be.to_numpy(other.step(x[3])))


# --- what engine_for says ----------------------------------------------------------------------------------------


def test_the_crossover_is_told_and_can_be_overruled(be, emulator):
    emulator._device = Device("NVIDIA H200", (9, 0), 132, 232448)
    lstm = nplstm.LSTM(8, 1024, backend=be.name, rng=0)
    with nplstm.use_engines("persistent", "fused", "plain"), nplstm.use_precision("tf32"):
        small, large_one = lstm.engine_for(16), lstm.engine_for(64 * 1024)
        middle = nplstm.LSTM(8, 512, backend=be.name, rng=0).engine_for(256)
    assert small.name == "persistent"
    assert small.notes[0].startswith(
        "layer 0 forward: 64 blocks of 16 cells for each 8 sequences, products in tf32, "
    )
    assert str(small).startswith(f"persistent\n  {small.notes[0]}\n")
    assert large_one.name == "fused"
    assert large_one.notes == ("products in tf32",)
    assert "needs weights that fit on 132 multiprocessors (NVIDIA H200)" in large_one.refused["persistent"]
    assert middle.name == "persistent"
    assert middle.notes[1] == "layer 0 backward: step by step"


def test_what_is_told_of_a_stack_is_what_runs(be, emulator):
    emulator._device = Device("NVIDIA H200", (9, 0), 132, 232448)
    with nplstm.use_engines("persistent", "plain"), nplstm.use_precision("float16"):
        chain = nplstm.LSTM(8, 256, 4, backend=be.name, rng=0).engine_for(1)
        dropping = nplstm.LSTM(8, 256, 4, dropout=0.5, backend=be.name, rng=0).engine_for(1, training=True)
        both = nplstm.LSTM(8, 256, bidirectional=True, backend=be.name, rng=0).engine_for(1)
        tiny = nplstm.LSTM(8, 4, backend=be.name, rng=0).engine_for(1)
    forward, backward = chain.notes
    assert forward.startswith("4 layers together forward: ")
    assert "sequences and layer, products in float16, " in forward
    assert "products in tf32, " in backward
    assert [note.partition(":")[0] for note in dropping.notes][:2] == ["layer 0 forward", "layer 1 forward"]
    assert "sequences and direction" in both.notes[0]
    assert tiny.notes[0].startswith("layer 0 forward: one block of ")


def test_an_old_device_is_refused(be, emulator):
    emulator._device = Device("old", (7, 5), 40, 65536)
    with nplstm.use_engines("persistent", "fused"):
        choice = nplstm.LSTM(2, 3, backend=be.name, rng=0).engine_for()
    assert "needs compute capability 8.0; old has 7.5" in choice.refused["persistent"]
