"""The kernels without Python: under sanitizers on this machine, and on an emulated one with NEON.

``make sanitize`` runs the tests of the compiled engine in the same way.
"""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import require
from kernels.build import CHECKS_BY_CALL, EAGER, FAMILIES, HASTY, build, changed, sets_of
from kernels.driver import CASES, RTOL, compare, run_program

ADDRESS = ("-fsanitize=address", "-O1", CHECKS_BY_CALL)
UNDEFINED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", CHECKS_BY_CALL)
THREAD = ("-fsanitize=thread", "-O1")
ARM_COMPILER, ARM_EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"


def has_sanitizers(folder: Path) -> str:
    """Say why nothing can be compiled with sanitizers here; say nothing if it can."""
    if not shutil.which("gcc"):
        return "gcc is not installed"
    if platform.system() != "Linux" or platform.machine() not in FAMILIES:
        return "the sanitizers are tried on Linux alone, on x86-64 and aarch64"
    source = folder / "nothing.c"
    source.write_text("int main(void) { return 0; }", encoding="utf-8")
    for flags in (UNDEFINED, THREAD):
        if subprocess.run(
            ["gcc", *flags, source, "-o", folder / "nothing"], capture_output=True, check=False
        ).returncode:
            return f"gcc cannot link with {flags[0]}"
    return ""


@pytest.fixture(scope="module")
def _sanitizers(tmp_path_factory):
    if reason := has_sanitizers(tmp_path_factory.mktemp("nothing")):
        require("sanitizers", reason)


def run_cases(program: list[str], folder: Path, cases=CASES) -> None:
    for case in cases:
        for dtype in RTOL:
            compare(run_program(program, case, dtype, folder), case, dtype)


def supported() -> list[str]:
    """The instruction sets that this machine can run."""
    from instruction_sets import AVAILABLE

    return [name for name in FAMILIES.get(platform.machine(), ()) if name == "baseline" or name in AVAILABLE]


def set_named(name: str, family: str = platform.machine()):
    return next(of for of in sets_of(family) if of.name == name)


@pytest.mark.usefixtures("_sanitizers")
@pytest.mark.parametrize("name", supported())
def test_no_kernel_leaves_its_arrays(name, tmp_path):
    """Values and gradients, with AddressSanitizer around arrays that have no room to spare; all work is shared."""
    flags = (
        UNDEFINED if name == "baseline" else ADDRESS
    )  # what C leaves undefined is the same in each; it takes longer
    program = build("run_case", set_named(name), tmp_path, *flags, sources=changed(tmp_path / "sources", EAGER))
    run_cases([str(program)], tmp_path)


@pytest.mark.usefixtures("_sanitizers")
@pytest.mark.parametrize(
    ("file", "passage", "slip"),
    [
        ("product.h", r"k < K; \+\+k, w \+= w_k", "k <= K; ++k, w += w_k"),
        ("sequence.h", r"store_first\(h, there, now\.h\)", "store_first(h, there + LANES, now.h)"),
    ],
    ids=["product", "sequence"],
)
def test_the_sanitizer_sees_a_kernel_that_goes_too_far(file, passage, slip, tmp_path):
    sources = changed(tmp_path / "sources", {file: {passage: slip}})
    program = build("run_case", set_named("baseline"), tmp_path, *ADDRESS, sources=sources)
    with pytest.raises(RuntimeError, match="heap-buffer-overflow"):
        run_cases([str(program)], tmp_path)


def run_races(folder: Path, changes: dict[str, dict[str, str]]) -> subprocess.CompletedProcess[str]:
    sources = changed(folder / "sources", changes)
    program = build("pool_races", set_named("baseline"), folder, *THREAD, sources=sources)
    # the sanitizer would end a child of fork that starts threads
    environment = {"TSAN_OPTIONS": "die_after_fork=0"}
    return subprocess.run([program], env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.usefixtures("_sanitizers")
@pytest.mark.parametrize("changes", [EAGER, HASTY], ids=["eager", "hasty"])
def test_threads_do_not_race(changes, tmp_path):
    done = run_races(tmp_path, changes)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("_sanitizers")
def test_the_sanitizer_sees_a_barrier_that_waits_for_no_one(tmp_path):
    slip = {r"wait_for\(&barrier->arrivals\[other\], round\)": ";"}
    done = run_races(tmp_path, {**EAGER, "pool.c": {**EAGER["pool.c"], **slip}})
    assert done.returncode
    assert "data race" in done.stderr or "not waited for" in done.stderr


@pytest.mark.parametrize("name", FAMILIES["aarch64"])
def test_an_emulated_aarch64(name, tmp_path):
    for program in (ARM_COMPILER, ARM_EMULATOR):
        if not shutil.which(program):
            require("neon", f"{program} is not installed, which NEON's kernels are tried with")
    program = build("run_case", set_named(name, "aarch64"), tmp_path, "-static", compiler=ARM_COMPILER)
    run_cases([ARM_EMULATOR, str(program)], tmp_path)
