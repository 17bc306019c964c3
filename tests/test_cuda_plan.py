"""Plans of persistent launches and the choice between engines: arithmetic, which needs no device."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nplstm
from nplstm.backends._cuda import Device
from nplstm.engines.cuda import arguments, plan
from nplstm.engines.cuda.crossover import fused_step
from nplstm.engines.cuda.plan import ARITHMETIC, Plan, Problem, Tile, find_plan, instantiations
from nplstm.engines.cuda.source import kernel_options, persistent_options, read_source

H200 = Device("NVIDIA H200", (9, 0), 132, 232448)
A100 = Device("NVIDIA A100", (8, 0), 108, 166912)

PROBLEMS = st.builds(
    Problem,
    phase=st.sampled_from(["forward", "backward"]),
    precision=st.sampled_from(list(ARITHMETIC)),
    batch=st.integers(1, 300),
    hidden=st.integers(1, 2100),
    directions=st.integers(1, 8),
    chained=st.booleans(),
)
DEVICES = st.sampled_from([H200, A100]) | st.builds(
    Device, st.just("some"), st.just((8, 6)), st.integers(1, 200), st.integers(40_000, 240_000)
)


@given(problem=PROBLEMS, device=DEVICES)
def test_a_plan_covers_everything_and_fits(problem, device):
    found = find_plan(problem, device)
    if found is None:
        return
    tile = found.tile
    assert found.blocks * tile.units(problem.phase) >= problem.hidden
    assert (found.blocks - 1) * tile.units(problem.phase) < problem.hidden, "a block without a cell"
    assert found.tiles * tile.rows >= problem.batch
    assert (found.tiles - 1) * tile.rows < problem.batch, "a block without a sequence"
    columns, rows = found.grid(problem.directions)
    assert columns * rows <= device.multiprocessors
    assert found.block_memory <= device.block_memory
    assert found.step > 0


@given(problem=PROBLEMS, device=DEVICES)
def test_what_is_kept_and_what_is_not_are_all_weights(problem, device):
    found = find_plan(problem, device)
    if found is None:
        return
    tile, most = found.tile, -(-problem.groups // 8)
    registers = min(most, tile.kept) * tile.m * 8 * 4 * 32  # bytes of a warp
    sums = 8 * 8 * tile.n * (16 * tile.m + 4) * 4
    assert registers * 8 + found.block_memory - sums == most * 8 * tile.m * 16 * 64, "16 rows of 64 bytes a group"


@given(problem=PROBLEMS, device=DEVICES)
def test_a_larger_device_is_never_worse(problem, device):
    larger = device._replace(multiprocessors=device.multiprocessors + 7, block_memory=device.block_memory + 5000)
    found, other = find_plan(problem, device), find_plan(problem, larger)
    assert found is None or (other is not None and other.step <= found.step)


def test_no_plan_where_nothing_fits():
    assert find_plan(Problem("forward", "tf32", 1, 2048, 1, False), H200) is None
    assert find_plan(Problem("forward", "float16", 1, 2048, 1, False), H200) is not None
    assert find_plan(Problem("forward", "tf32", 256, 1024, 1, False), H200) is None
    assert find_plan(Problem("forward", "float32", 1, 64, 1, False), Device("tiny", (8, 0), 2, 49152)) is None


def test_every_instantiation_is_one_that_a_plan_may_choose():
    found = instantiations()
    assert len(found) == len(set(found)) == 51
    for direction, dtype, arithmetic, tile in found:
        assert tile in Problem(direction, arithmetic, 1, 1, 1, False).tiles()
        assert dtype == "float32" or arithmetic == "float16"
        assert 256 % tile.units(direction) == 0
        assert tile.passes * tile.n <= 8


def test_tiles_that_the_model_never_takes_are_not_compiled_for_nothing():
    """Each is the best one for something on a Hopper or an Ampere chip."""
    taken = set()
    for direction, precision in {(d, a) for d, _, a, _ in instantiations()}:
        for batch in (1, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256):
            for hidden in (8, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048):
                for directions, chained in ((1, False), (2, False), (4, True)):
                    for device in (H200, A100):
                        found = find_plan(
                            Problem(direction, precision, batch, hidden, directions, chained), device
                        )
                        taken |= {(direction, precision, found.tile)} if found else set()
    assert {(d, a, tile) for d, _, a, tile in instantiations()} == taken


def test_the_model_ranks_as_it_should():
    def step(**changes):
        problem = Problem("forward", "tf32", 16, 256, 1, False)._replace(**changes)
        found = find_plan(problem, H200)
        assert isinstance(found, Plan)
        return found.step

    assert step(precision="float16") < step() < step(precision="float32")
    assert step(batch=1) < step() < step(batch=64)
    assert step(hidden=64) < step() < step(hidden=512)
    assert step() < step(phase="backward")
    assert fused_step(Problem("forward", "tf32", 1, 64, 1, False)) == pytest.approx(20)
    assert fused_step(Problem("forward", "tf32", 1, 64, 2, False)) == pytest.approx(40)
    assert fused_step(Problem("forward", "tf32", 1024, 2048, 1, False)) > 100


def test_the_table_in_the_document_is_the_model():
    text = (Path(__file__).parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")
    for precision, direction, batch in itertools.product(
        ("tf32", "float16"), ("forward", "backward"), (1, 16, 64, 256)
    ):
        row = [precision, direction, str(batch)]
        for hidden in (64, 128, 256, 512, 1024, 2048):
            problem = Problem(direction, precision, batch, hidden, 1, False)
            found, step = find_plan(problem, H200), fused_step(problem)
            row.append(f"{found.step:.1f}" if found and found.step <= step else f"({step:.0f})")
        assert f"| {' | '.join(row)} |\n" in text


# --- what Python and the kernels have to agree on ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["WARPS", "MAX_DIRECTIONS"])
def test_constants_are_the_same(name):
    found = re.search(rf"\b{name} = (\d+)", read_source("persistent_forward.cu"))
    assert found is not None
    assert int(found[1]) == getattr(plan, name)


def test_precisions_have_the_same_numbers():
    text = read_source("persistent_forward.cu")
    names = {"float32": "FLOAT32", "tf32": "TF32", "float16": "IN_FLOAT16", "bfloat16": "IN_BFLOAT16"}
    for precision, number in ARITHMETIC.items():
        assert f"#define {names[precision]} {number}\n" in text


STRUCTURES = {
    "ForwardStep": ("pointwise.cu", arguments.FORWARD_STEP),
    "BackwardStep": ("pointwise.cu", arguments.BACKWARD_STEP),
    "StreamStep": ("stream.cu", arguments.STREAM_STEP),
    "Shape": ("persistent_forward.cu", arguments.FORWARD["shape"]),
    "Exchange": ("persistent_forward.cu", arguments.FORWARD["direction"].base["own"]),
    "ForwardDirection": ("persistent_forward.cu", arguments.FORWARD["direction"].base),
    "BackwardDirection": ("persistent_backward.cu", arguments.BACKWARD["direction"].base),
}


def fields_of(text, structure):
    """Read a C structure: names in order, and of each whether it is an address, its bytes, or its structure."""
    body = re.search(rf"struct {structure} {{(.*?)\n}};", text, re.DOTALL)
    assert body is not None
    lines = re.sub(r"//.*", "", body[1])
    found = []
    for kind, pointer, names in re.findall(r"(?:const )?(long long|\w+)(\*?) ([\w, ]+);", lines):
        size = "address" if pointer else {"long long": 8, "int": 4, "u32": 4}.get(kind, kind)
        found += [(name.strip(), size) for name in names.split(",")]
    return found


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_have_the_same_fields(structure):
    file, kind = STRUCTURES[structure]
    found = fields_of(read_source(file), structure)
    assert [name for name, _ in found] == list(kind.names)
    for name, size in found:
        inner = kind[name]
        assert (inner.names is not None) == (size == "Exchange")
        if inner.names is None:
            assert inner.itemsize == (8 if size == "address" else size), name
            assert (inner == np.uint64) == (size == "address"), name


def test_arguments_stay_below_what_a_launch_takes():
    assert max(arguments.FORWARD.itemsize, arguments.BACKWARD.itemsize) < 4096


def test_options_say_what_a_kernel_is_made_for():
    assert kernel_options("float64") == ("--std=c++17", "-DSTORED=double")
    made = persistent_options("float16", "float16", Tile(4, 2, 1, 3))
    assert made == (
        "--std=c++17", "-DSTORED=float16", "-DARITHMETIC=2",
        "-DM_TILES=4", "-DN_TILES=2", "-DPASSES=1", "-DKEPT=3",
    )  # fmt: skip


def test_a_file_is_included_once_and_in_order():
    text = read_source("persistent_forward.cu")
    assert "#include" not in text
    assert "#pragma once" not in text
    of_each = ["struct alignas(16) quad", "typedef RealOf<STORED>::type real", "struct Gates", "struct Piece"]
    assert [text.count(line) for line in of_each] == [1, 1, 1, 1]
    assert sorted(of_each[:3], key=text.index) == of_each[:3]


# --- precision ---------------------------------------------------------------------------------------------------


def test_a_precision_is_one_of_four():
    with pytest.raises(
        nplstm.ArgumentError,
        match=r"precision: expected one of 'float32', 'tf32', .*, got 'half'",
    ):
        nplstm.use_precision("half").__enter__()


def test_a_precision_holds_within_its_context_and_comes_from_the_environment(monkeypatch):
    from nplstm.engines import precision

    assert precision.allowed_precision() == "float32"
    with nplstm.use_precision("tf32"):
        with nplstm.use_precision("float16"):
            assert precision.allowed_precision() == "float16"
        assert precision.allowed_precision() == "tf32"
    monkeypatch.setenv("NPLSTM_PRECISION", "bfloat16")
    precision._from_environment.cache_clear()
    assert precision.allowed_precision() == "bfloat16"
    monkeypatch.setenv("NPLSTM_PRECISION", "low")
    precision._from_environment.cache_clear()
    with pytest.raises(nplstm.ArgumentError, match="NPLSTM_PRECISION: expected one of"):
        precision.allowed_precision()
    monkeypatch.undo()
    precision._from_environment.cache_clear()


def test_numpy_is_exact_whatever_is_allowed():
    lstm, x = nplstm.LSTM(2, 3, rng=0), np.ones((4, 1, 2), np.float32)
    expected, notes = lstm(x)[0], lstm.engine_for().notes
    with nplstm.use_precision("bfloat16"):
        assert np.array_equal(lstm(x)[0], expected)
        assert lstm.engine_for().notes == notes
