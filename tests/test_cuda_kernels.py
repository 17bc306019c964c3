"""The CUDA kernels compiled by NVRTC: each that an engine can use, to machine code for each chip.

This needs no GPU (see ``nvrtc.py``), and does not check results: ``test_cuda_engines.py`` does.
"""

import re
from collections import Counter
from typing import NamedTuple

import nvrtc
import pytest
from conftest import require
from nvrtc import CompileError, Job

from nplstm.backends._cuda import Device
from nplstm.engines.cuda import arguments, plan
from nplstm.engines.cuda.plan import ARITHMETIC, THREADS, Problem, Tile, instantiations
from nplstm.engines.cuda.source import STORED, kernel_options, persistent_options, read_source

CHIPS = ("sm_80", "sm_90")

PER_CELL = {"forward": 4, "backward": 1}
"""Rows of weights for a cell, which each direction defines."""

TAKEN = {
    "forward_step": arguments.FORWARD_STEP,
    "backward_step": arguments.BACKWARD_STEP,
    "stream_step": arguments.STREAM_STEP,
    "persistent_forward": arguments.FORWARD,
    "persistent_backward": arguments.BACKWARD,
}
"""By kernel, the structure that it takes."""

PRODUCTS = {
    "float32": "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
    "tf32": "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
    "float16": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "bfloat16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
}
BETWEEN_BLOCKS = {
    "ld.acquire.gpu.global.u32",
    "st.release.gpu.global.u32",
    "ld.global.cg.v4.u32",
    "st.relaxed.sys.global.u32",
}


class Build(NamedTuple):
    """One file compiled in one way."""

    file: str
    kernels: tuple[str, ...]
    dtype: str
    options: tuple[str, ...]
    chip: str
    arithmetic: str = ""  # of a persistent kernel

    def __str__(self):
        sizes = [option.partition("=")[2] for option in self.options if re.match("-D[A-Z_]+=[0-9]", option)][1:]
        return "-".join(filter(None, (self.file, self.dtype, self.arithmetic, "x".join(sizes), self.chip)))

    @property
    def job(self):
        return Job(read_source(f"{self.file}.cu"), self.options, self.chip)


def persistent_builds(chip):
    for direction, dtype, arithmetic, tile in instantiations():
        name, options = f"persistent_{direction}", persistent_options(dtype, arithmetic, tile)
        yield Build(name, (name,), dtype, options, chip, arithmetic)


def builds_of_steps(chip):
    for file, kernels in {"pointwise": ("forward_step", "backward_step"), "stream": ("stream_step",)}.items():
        for dtype in STORED:
            yield Build(file, kernels, dtype, kernel_options(dtype), chip)


PERSISTENT = [build for chip in CHIPS for build in persistent_builds(chip)]
BUILDS = [build for chip in CHIPS for build in builds_of_steps(chip)] + PERSISTENT


@pytest.fixture(scope="session")
def compiled(request):
    """Return what became of a build: those of all chosen tests are compiled in the background."""
    if reason := nvrtc.missing():
        require("nvrtc", reason)
    cache = getattr(request.config, "cache", None)
    compiler = nvrtc.Compiler(cache.mkdir("nvrtc") if cache else None)
    of_each = (item.callspec.params.get("build") for item in request.session.items if hasattr(item, "callspec"))
    compiler.begin(build.job for build in of_each if isinstance(build, Build))
    yield compiler
    compiler.close()


# --- each kernel -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS, ids=str)
def test_a_kernel_compiles_to_what_fits_into_registers(compiled, build):
    made = compiled(build.job)
    assert set(made.entries) == set(build.kernels)
    assert nvrtc.problems(made, THREADS) == []
    for name, entry in made.entries.items():
        assert entry.parameters == TAKEN[name].itemsize


@pytest.mark.parametrize("build", PERSISTENT, ids=str)
def test_a_persistent_kernel_has_the_instructions_that_it_is_about(compiled, build):
    made = set(compiled(build.job).instructions)
    assert {name for name in made if name.startswith("mma")} == {PRODUCTS[build.arithmetic]}
    assert made >= BETWEEN_BLOCKS


def test_nothing_is_compiled_twice_or_left_out():
    of = Counter(build.file for build in BUILDS)
    assert of["pointwise"] == of["stream"] == len(CHIPS) * len(STORED)
    assert len(set(BUILDS)) == len(BUILDS) == of.total()
    assert set(PRODUCTS) == {build.arithmetic for build in PERSISTENT} == set(ARITHMETIC)


# --- arithmetic --------------------------------------------------------------------------------------------------

# What the block's last thread touches last: where it is, from the beginning of the block's memory on. The compiler
# knows all that goes into it.
END = """
__device__ long long end;

extern "C" __global__ void probe(unsigned char* memory) {
    const Place p = place_of(0, NUMBERS, HAS_LEADER);
    Weights weights;
    weights.fill(p, memory + SUMS * sizeof(float), [](int, int, int) { return (real)0; });
    unsigned char* last = (unsigned char*)(weights.rest_of(p, p.most - 1, M_TILES - 1, 1) + 1);
    end = p.most > KEPT ? last - memory : (long long)(SUMS * sizeof(float));
}
"""


def end_of_memory(problem, tile):
    text = "\n".join(
        [
            "#define threadIdx (uint3{THREADS - 1, 0, 0})",
            f"#define OUTPUTS_PER_CELL {PER_CELL[problem.phase]}",
            f"#define NUMBERS {problem.numbers}",
            f"#define HAS_LEADER {int(problem.chained)}",
            read_source("persistent.cuh"),
            END,
        ]
    )
    return nvrtc.stored(text, persistent_options("float32", problem.precision, tile), "end")


@pytest.mark.parametrize(("direction", "dtype", "arithmetic", "tile"), instantiations(), ids=str)
def test_the_plan_counts_as_the_kernel_does(compiled, direction, dtype, arithmetic, tile):
    problem = Problem(direction, arithmetic, 1, 1, 1, False)
    expected = {
        "WARPS": plan.WARPS,
        "THREADS": THREADS,
        "MAX_DIRECTIONS": plan.MAX_DIRECTIONS,
        "ROWS": tile.rows,
        "UNITS": tile.units(direction),
        "GROUP": problem.group,
        "sizeof(sent)": problem.bytes,
        "SUMS * sizeof(float)": plan._sums_bytes(tile),
    }
    text = f"#define OUTPUTS_PER_CELL {PER_CELL[direction]}\n{read_source('persistent.cuh')}"
    found = nvrtc.values(text, persistent_options(dtype, arithmetic, tile), [*expected])
    assert dict(zip(expected, found, strict=True)) == expected


LARGE = Device("as large as one likes", (9, 0), 10**6, 10**9)


@pytest.mark.parametrize(("hidden", "chained"), [(64, False), (256, True), (1000, False), (2048, True)])
@pytest.mark.parametrize("direction", PER_CELL)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_block_is_given_the_memory_that_it_uses(compiled, direction, precision, hidden, chained):
    problem = Problem(direction, precision, 1, hidden, 1, chained)
    for tile in problem.tiles()[::3]:
        planned = plan._plan(problem, tile, LARGE)
        assert end_of_memory(problem, tile) == planned.block_memory


# --- the tests themselves ----------------------------------------------------------------------------------------

KERNEL = 'extern "C" __global__ void __launch_bounds__(256, 1) test(const Arguments a) {{\n    {body}\n}}\n'


def made_of(compiled, body, chip="sm_80", arguments="float* x; int n;"):
    text = f"struct Arguments {{ {arguments} }};\n" + KERNEL.format(body=body)
    return compiled(Job(text, ("--std=c++17",), chip))


def test_what_is_well_has_no_problems(compiled):
    made = made_of(compiled, "a.x[threadIdx.x] = a.n;")
    assert nvrtc.problems(made, 256) == []
    assert made.entries["test"].parameters == 16
    assert set(made.instructions) > {"mov.u32", "st.global.f32", "ret"}


@pytest.mark.parametrize("chip", CHIPS)
def test_a_group_too_many_spills(compiled, chip):
    options = persistent_options("float32", "tf32", Tile(2, 1, 1, 12))
    made = compiled(Job(read_source("persistent_forward.cu"), options, chip))
    found = nvrtc.problems(made, THREADS)
    assert any(re.search(r"persistent_forward: \d+ bytes of spilled registers", problem) for problem in found)


PROBLEMS = {
    "float y[20]; for (int i = 0; i < 20; ++i) y[i * a.n % 20] = a.x[i]; a.x[0] = y[a.n];": "bytes of stack",
    "__shared__ float y[20]; y[threadIdx.x] = a.n; __syncthreads(); a.x[0] = y[a.n];": "80 bytes of shared memory",
    "int unused;": 'warning #177-D: variable "unused" was declared but never referenced',
}


@pytest.mark.parametrize("body", PROBLEMS)
def test_a_problem_is_seen(compiled, body):
    found = nvrtc.problems(made_of(compiled, body), 256)
    assert any(PROBLEMS[body] in problem for problem in found), found


def test_threads_that_do_not_fit_together_are_seen(compiled):
    made = compiled(PERSISTENT[0].job)
    assert nvrtc.problems(made, 256) == []
    assert any("registers, and a thread may have 64" in problem for problem in nvrtc.problems(made, 1024))


def test_too_many_parameters_are_seen(compiled):
    made = made_of(compiled, "a.x[0] = a.y[a.n];", "sm_90", "float* x; float y[1030]; int n;")
    assert any("4136 bytes of parameters" in problem for problem in nvrtc.problems(made, 256))


def test_a_mistake_is_told_in_the_words_of_the_compiler(compiled):
    with pytest.raises(CompileError, match='error: identifier "there_is_none" is undefined'):
        made_of(compiled, "a.x[0] = there_is_none;")


def test_what_was_compiled_is_kept_for_the_next_time(compiled, tmp_path, monkeypatch):
    job = Job("struct Arguments { int n; };\n" + KERNEL.format(body=""), ("--std=c++17",), "sm_80")
    first, second = nvrtc.Compiler(tmp_path), nvrtc.Compiler(tmp_path)
    made = first(job)
    first.close()
    monkeypatch.setattr(nvrtc, "_compile", None)
    assert second(job) == made
    second.close()
