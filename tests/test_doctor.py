"""``nplstm doctor``: run as a user does, and each finding from made-up facts."""

import json
import os
import re
import subprocess
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import needs_kernels

from nplstm.commands.cli import main
from nplstm.commands.doctor import advice, machine, rates, report
from nplstm.commands.doctor.advice import advise
from nplstm.commands.doctor.machine import Blas, EngineStatus, Gpu, Processor, instruction_sets
from nplstm.commands.doctor.rates import KernelTrial, ProductRate, Rates, worth_trying
from nplstm.commands.doctor.report import Examination, write_report
from nplstm.engines import cpus
from nplstm.engines.blas import BlasThreads, find_blas_threads
from nplstm.engines.compiled.library import library
from nplstm.engines.cpus import Cpus, find_quota
from nplstm.errors import BackendUnavailableError

DOCUMENT = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text()
SECTIONS = ["Versions", "Processor", "CPUs for this process", "BLAS", "Environment", "Speed", "GPU", "Engines"]

CPUS = Cpus(affinity=8, quota=None, usable=8)
BLAS = Blas("OpenBLAS", "0.3.31", "/lib/libopenblas.so", "Haswell", 8, "pthreads")
STEP, SHAPE = "LSTM step", (2048, 512, 32)
RATES = Rates([ProductRate(STEP, SHAPE, 8, 400.0), ProductRate(STEP, SHAPE, 1, 60.0)], 0.25)
PROCESSOR = Processor("Some CPU", ["avx2", "avx512f"], ["X86_V2"], ["X86_V4"], [])
TRIAL = KernelTrial("Haswell", 200.0, "SkylakeX", 390.0, 1.95)


def examined(**changes):
    """Return an examination in which all is well, with these changes."""
    found = Examination(
        versions={"nplstm": "0.1", "python": "3.11", "numpy": "2.4", "platform": "Linux"},
        processor=PROCESSOR,
        cpus=CPUS,
        blas=replace(BLAS, kernels="SkylakeX"),
        environment={},
        rates=RATES,
        kernel_trial=None,
        gpu=Gpu(available=False, note="CuPy is not installed"),
        engines=[EngineStatus("plain", available=True, note="")],
        advice=[],
    )
    return replace(found, **changes)


def lines(found):
    return [item.line for item in found]


@pytest.fixture
def quick(monkeypatch):
    """Measure for the shortest time there is; the figures are real all the same."""
    monkeypatch.setattr(rates, "SECONDS", 0)


# As a user runs it


@pytest.fixture(scope="module")
def printed():
    """What ``--json`` prints, with one variable of ours in the environment."""
    run = subprocess.run(
        [sys.executable, "-m", "nplstm", "doctor", "--json"],
        env=os.environ | {"NPLSTM_TEST": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "measuring" not in run.stderr  # no bar where nobody looks
    return json.loads(run.stdout)


def test_the_json_has_the_documented_fields(printed):
    documented = set(re.findall(r"^\| `([\w.]+)`", DOCUMENT, flags=re.MULTILINE))

    def fields(value, prefix=""):
        for name, inner in value.items():
            first = inner[0] if isinstance(inner, list) and inner else inner
            if isinstance(first, dict) and name != "environment":
                yield from fields(first, f"{prefix}{name}.")
            else:
                yield prefix + name

    full = asdict(examined(kernel_trial=TRIAL, advice=advise(CPUS, BLAS, RATES, TRIAL)))
    assert set(fields(full)) == documented
    assert set(printed) == set(full)


def test_measured_numbers_are_numbers(printed):
    products = printed["rates"]["products"]
    assert {tuple(product["shape"]) for product in products} == {rates.SQUARE, rates.LARGE_STEP, rates.SMALL_STEP}
    assert all(0.01 < product["gflops"] < 1e5 for product in products)
    assert 0.01 < printed["rates"]["tanh_ns"] < 1000
    assert 1 <= printed["cpus"]["usable"] <= printed["cpus"]["affinity"]
    assert printed["versions"]["numpy"] == np.__version__
    assert printed["environment"]["NPLSTM_TEST"] == "1"


@pytest.mark.usefixtures("quick")
def test_the_text_has_a_section_for_everything(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    titles = re.findall(r"^(\w[\w ]*)", text, flags=re.MULTILINE)
    assert titles == [*SECTIONS, "What to do"]
    for part in (np.__version__, "GFLOP/s", "ns an element", "affinity", "NumPy's SIMD, found"):
        assert part in text
    assert all(len(line) <= 100 or "/" in line for line in text.splitlines())  # a path is left in one piece


def test_the_document_shows_these_sections():
    sample = re.search(r"```text\n(.*?)```", DOCUMENT, flags=re.DOTALL)[1]
    assert re.findall(r"^(\w[\w ]*)", sample, flags=re.MULTILINE) == [*SECTIONS, "What to do"]


def test_help_lists_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert re.search(r"^ +doctor +Tell whether NumPy", capsys.readouterr().out, flags=re.MULTILINE)


def test_other_commands_do_not_load_it():
    code = "import sys, nplstm.commands.cli; print([name for name in sys.modules if 'doctor' in name])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# Which BLAS


def ask_blas(**variables):
    """Return what is found in an interpreter with these variables."""
    code = "import json; from dataclasses import asdict; from nplstm.commands.doctor.machine import find_blas; "
    code += "print(json.dumps(asdict(find_blas())))"
    environment = os.environ | variables
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return Blas(**json.loads(run.stdout))


def openblas():
    """Return the OpenBLAS there is, or skip."""
    found = machine.find_blas()
    if found.name != "OpenBLAS":
        pytest.skip(f"NumPy uses {found.name} here")
    return found


def test_openblas_tells_what_runs():
    found = openblas()
    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    assert found.version
    assert found.threads >= 1
    assert found.kernels
    assert found.threading
    assert found.note == ""
    if build["name"] == "scipy-openblas":  # NumPy's wheel brings the library that it was built with
        assert found.version == build["version"]
        assert Path(found.file).parent.name in {"numpy.libs", ".dylibs"}


def test_openblas_is_asked_and_not_the_build():
    openblas()
    assert ask_blas(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1").threads == 1
    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    dynamic = "DYNAMIC_ARCH" in build.get("openblas configuration", "")
    if not dynamic or "avx2" not in machine.find_processor().instructions:
        pytest.skip("kernels are chosen at run time on x86-64, by a build for many processors")
    assert ask_blas(OPENBLAS_CORETYPE="Haswell").kernels == "Haswell"
    assert ask_blas(OPENBLAS_CORETYPE="Sandybridge").kernels == "Sandybridge"


def test_the_blas_is_numpys(monkeypatch):
    pools = [
        {"user_api": "openmp", "filepath": "/numpy.libs/libgomp.so", "internal_api": "openmp"},
        {"user_api": "blas", "filepath": "/scipy.libs/libopenblas.so", "internal_api": "openblas"},
        {"user_api": "blas", "filepath": "/numpy.libs/libopenblas.so", "internal_api": "openblas"},
    ]
    pretended = types.SimpleNamespace(threadpool_info=lambda: pools)
    monkeypatch.setitem(sys.modules, "threadpoolctl", pretended)
    assert machine.find_blas().file == "/numpy.libs/libopenblas.so"


CONFIGS = [
    ({"Build Dependencies": {"blas": {"name": "accelerate", "version": "1"}}}, Blas("accelerate", "1")),
    ({"Build Dependencies": {"blas": {"name": "mkl-sdl"}}}, Blas("mkl-sdl")),
    ({}, Blas("unknown")),
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("config", "expected"), CONFIGS)
def test_another_blas_is_survived(config, expected, monkeypatch):
    """A library that neither threadpoolctl nor the engines know."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", types.SimpleNamespace(threadpool_info=list))
    monkeypatch.setattr(machine, "find_blas_threads", lambda: None)
    monkeypatch.setattr(rates, "find_blas_threads", lambda: None)
    monkeypatch.setattr(np, "show_config", lambda mode: config)
    assert machine.find_blas() == expected
    found = report.examine()
    assert found.advice == []
    text = write_report(found)
    assert expected.name in text
    assert "thread" not in text


@pytest.mark.usefixtures("quick")
def test_without_threadpoolctl_the_report_says_how_to_install_it(monkeypatch):
    here = openblas()
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)  # raises ImportError
    found = report.examine()
    assert found.blas.name == "OpenBLAS"
    assert found.blas.threads == here.threads
    assert found.blas.kernels is found.blas.file is found.kernel_trial is None
    assert "pip install 'nplstm[doctor]'" in found.blas.note
    assert "pip install 'nplstm[doctor]'" in write_report(found)


@pytest.mark.parametrize(("per_thread", "threading"), [(True, "openmp"), (False, None)])
def test_without_threadpoolctl_the_engines_tell_openmp(per_thread, threading, monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(machine, "find_blas_threads", lambda: BlasThreads(lambda: 3, print, per_thread))
    found = machine.find_blas()
    assert (found.threads, found.threading) == (3, threading)


# Kernels: recommended only where they were measured to be faster


@pytest.mark.parametrize(
    ("changes", "instructions", "expected"),
    [
        ({}, ["avx2", "avx512f"], True),
        ({"kernels": "Zen"}, ["avx512f"], True),
        ({"kernels": "SkylakeX"}, ["avx512f"], False),
        ({"kernels": "SapphireRapids"}, ["avx512f"], False),
        ({}, ["avx2"], False),
        ({"kernels": None}, ["avx512f"], False),
        ({"name": "mkl"}, ["avx512f"], False),
    ],
)
def test_kernels_are_tried_where_they_could_gain(changes, instructions, expected):
    processor = replace(PROCESSOR, instructions=instructions)
    assert worth_trying(processor, replace(BLAS, **changes)) is expected


def test_kernels_are_recommended_where_they_gain():
    (found,) = advise(CPUS, BLAS, RATES, TRIAL)
    assert found.line == "export OPENBLAS_CORETYPE=SkylakeX"
    assert "1.95 times as fast" in found.finding
    text = write_report(examined(blas=BLAS, kernel_trial=TRIAL, advice=[found]))
    assert text.endswith("\n       export OPENBLAS_CORETYPE=SkylakeX")
    assert "  1. OpenBLAS runs its Haswell kernels" in text


@pytest.mark.parametrize(
    "slow",
    [
        replace(TRIAL, speedup=1.05),
        replace(TRIAL, speedup=0.9),
        replace(TRIAL, tried="Haswell"),  # a build with one set of kernels, which does not read the variable
        None,
    ],
)
def test_kernels_are_not_recommended_otherwise(slow):
    assert advise(CPUS, BLAS, RATES, slow) == []
    text = write_report(examined(blas=BLAS, kernel_trial=slow))
    assert "What to do\n  nothing" in text
    assert ("no reason to change" if slow else "SkylakeX could not be tried") in " ".join(text.split())


def test_a_trial_compares_pairs_of_runs(monkeypatch):
    speeds = iter([100, 150, 200, 500, 100, 170])  # without and with, in turns

    def run(variables):
        assert variables in ({}, {"OPENBLAS_CORETYPE": "SkylakeX"})
        return {"kernels": "SkylakeX" if variables else "Haswell", "gflops": next(speeds)}

    monkeypatch.setattr(rates, "_run", run)
    assert rates.try_kernels() == KernelTrial("Haswell", 100, "SkylakeX", 170, 1.7)


def test_a_run_is_an_interpreter_of_its_own():
    found = openblas()
    run = rates._run({})
    assert run["kernels"] == found.kernels
    assert run["gflops"] > 0


@pytest.mark.parametrize("code", ["import os; os.abort()", "print('no JSON')", "raise SystemExit(1)"])
def test_a_run_that_fails_is_no_result(code, monkeypatch):
    run, instead = subprocess.run, [sys.executable, "-c", code]
    monkeypatch.setattr(rates.subprocess, "run", lambda command, **options: run(instead, **options))
    assert rates.try_kernels() is None


def test_no_interpreter_is_no_result(monkeypatch):
    monkeypatch.setattr(rates.sys, "executable", "/no/such/python")
    assert rates.try_kernels() is None


@pytest.mark.usefixtures("quick")
def test_the_doctor_tries_only_where_it_is_worth_it(monkeypatch):
    monkeypatch.setattr(report, "try_kernels", lambda: TRIAL)
    for worth in (False, True):
        monkeypatch.setattr(report, "worth_trying", lambda *_, worth=worth: worth)
        found = report.examine()
        assert found.kernel_trial == (TRIAL if worth else None)
        assert ("export OPENBLAS_CORETYPE=SkylakeX" in lines(found.advice)) is worth


# Threads


def test_more_threads_than_cpus_are_too_many():
    in_a_container = Cpus(affinity=64, quota=2.0, usable=2)
    many = replace(BLAS, threads=64)
    (found,) = advise(in_a_container, many, RATES, None)
    assert found.line == "export OPENBLAS_NUM_THREADS=2"
    assert "OpenBLAS runs 64 threads" in found.finding
    others = {
        "export OMP_NUM_THREADS=2": [replace(many, threading="openmp"), replace(many, name="flexiblas")],
        "export MKL_NUM_THREADS=2": [replace(many, name="mkl", threading="intel")],
        "export BLIS_NUM_THREADS=2": [replace(many, name="blis")],
    }
    for line, libraries in others.items():
        assert [lines(advise(in_a_container, library, RATES, None)) for library in libraries] == [[line]] * len(
            libraries
        )
    assert lines(advise(in_a_container, many, RATES, TRIAL))[1] == found.line
    assert advise(in_a_container, replace(many, threads=2), RATES, None) == []
    assert advise(in_a_container, replace(many, threads=None), RATES, None) == []


def test_one_thread_is_recommended_where_it_is_faster():
    def measured(*speeds):
        names = ["big step", "small step"]
        products = [ProductRate(name, SHAPE, 8, 10.0) for name in names]
        products += [ProductRate(name, SHAPE, 1, speed) for name, speed in zip(names, speeds, strict=True)]
        return Rates([ProductRate("square", SHAPE, 8, 100.0), *products], 0.2)

    (found,) = advise(CPUS, BLAS, measured(90.0, 30.0), None)
    assert found.line == "export OPENBLAS_NUM_THREADS=1"
    assert "at least 3.0 times as fast on one thread as on 8" in found.finding
    assert advise(CPUS, BLAS, measured(90.0, 10.5), None) == []  # of both steps, or not at all
    too_many = Cpus(affinity=8, quota=4.0, usable=4)
    assert lines(advise(too_many, BLAS, measured(90.0, 30.0), None)) == ["export OPENBLAS_NUM_THREADS=4"]
    alone = [product for product in RATES.products if product.threads == 1]
    assert advise(CPUS, replace(BLAS, threads=1), Rates(alone, 0.2), None) == []


def test_lines_are_for_the_systems_shell(monkeypatch):
    with monkeypatch.context() as context:
        context.setattr(advice.os, "name", "nt")
        windows = lines(advise(CPUS, BLAS, RATES, TRIAL))
    assert windows == ["set OPENBLAS_CORETYPE=SkylakeX"]


@pytest.mark.parametrize(
    ("files", "memberships", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b\n", 3.0),
        ({"a/cpu.max": "300000 100000", "cpu.max": "200000 100000"}, "0::/a\n", 2.0),
        ({"cpu.max": "400000 100000"}, "0::/of/the/host\n", 4.0),
        ({}, "0::/a\n", None),
        ({"cpu.max": "nonsense"}, "0::/\n", None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/x\n0::/\n", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/\n", None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, "3:cpuset:/\n", None),
    ],
)
def test_quotas_are_read_from_control_groups(files, memberships, expected, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert find_quota(memberships, tmp_path) == expected


def test_cpus_are_those_of_this_process(monkeypatch, tmp_path):
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    monkeypatch.setattr(cpus, "MEMBERSHIPS", tmp_path / "none")
    assert cpus.find_cpus() == Cpus(3, None, 3)
    monkeypatch.delattr(cpus.os, "sched_getaffinity")
    monkeypatch.setattr(cpus.os, "cpu_count", lambda: None)
    assert cpus.find_cpus() == Cpus(1, None, 1)


# The machine


def test_instruction_sets_have_one_spelling():
    linux = "fpu sse4_2 avx f16c fma avx2 avx512f avx512_vnni".split()
    assert instruction_sets(linux) == "sse42 avx f16c fma avx2 avx512f avx512vnni".split()
    assert instruction_sets("SSE2 SSE42 FMA3 AVX2 AVX512F".split()) == "sse42 fma3 avx2 avx512f".split()
    assert instruction_sets(["X86_V2", "X86_V3", "X86_V4", "NEON"]) == ["avx2", "avx512f", "neon"]


def test_a_processor_is_described_without_cpuinfo(monkeypatch, tmp_path):
    here = machine.find_processor()
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    there = machine.find_processor()
    assert there.model
    assert {"avx2", "asimd"} & set(here.instructions) == {"avx2", "asimd"} & set(there.instructions)
    monkeypatch.setattr(np, "show_config", lambda mode: {})
    assert machine.find_processor().instructions == []


def test_the_environment_has_what_acts(monkeypatch):
    for name in [name for name in os.environ if name.startswith(machine.VARIABLES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("NPLSTM_ENGINES", "")
    monkeypatch.setenv("UNRELATED", "1")
    found = machine.find_environment()
    assert found == {"OMP_NUM_THREADS": "3", "NPLSTM_ENGINES": ""}
    assert "NPLSTM_ENGINES              (empty)" in write_report(examined(environment=found))
    assert "none set" in write_report(examined())


# GPU and engines


def test_no_gpu_says_why(monkeypatch):
    def missing(name):
        raise BackendUnavailableError(f"backend {name!r}: CuPy is not installed; pip install it")

    monkeypatch.setattr(machine, "get_backend", missing)
    assert machine.find_gpu() == Gpu(available=False, note="CuPy is not installed; pip install it")


def test_a_gpu_is_described(monkeypatch):
    properties = {"name": b"Some GPU", "totalGlobalMem": 80 * 2**30}
    runtime = types.SimpleNamespace(getDeviceProperties=lambda device: [None, properties][device])
    cuda = types.SimpleNamespace(runtime=runtime, Device=lambda: types.SimpleNamespace(id=1))
    cupy = types.SimpleNamespace(__version__="14.0", cuda=cuda)
    monkeypatch.setattr(machine, "get_backend", lambda name: types.SimpleNamespace(xp=cupy))
    found = machine.find_gpu()
    assert found == Gpu(available=True, cupy="14.0", device="Some GPU", memory_bytes=80 * 2**30)
    assert "Some GPU, 80 GiB" in write_report(examined(gpu=found))


def test_engines_say_what_they_need(monkeypatch):
    reason = "needs its library of kernels, which is missing: pip install it"
    monkeypatch.setattr("nplstm.engines.compiled.library.problem", lambda: reason)
    compiled, numpy, plain = machine.find_engines()
    assert compiled == EngineStatus("compiled", available=False, note=reason, kernels=None)
    assert (numpy, plain) == tuple(EngineStatus(name, available=True, note="") for name in ("numpy", "plain"))
    text = " ".join(write_report(examined(engines=[compiled, numpy])).split())
    assert f"compiled not available: {reason} numpy available What to do" in text


def test_kernels_are_named():
    needs_kernels()
    compiled = machine.find_engines()[0]
    assert compiled == EngineStatus("compiled", available=True, note="", kernels=library().instruction_set)
    assert f"available, kernels for {compiled.kernels}" in write_report(examined(engines=[compiled]))


@pytest.mark.parametrize("chosen", ["baseline", "none"])
def test_kernels_of_the_environment_are_named(chosen):
    needs_kernels()
    code = "from nplstm.commands.doctor.machine import find_engines; print(find_engines()[0])"
    environment = os.environ | {"NPLSTM_KERNELS": chosen}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    expected = (
        "needs its library of kernels, which NPLSTM_KERNELS=none turns off"
        if chosen == "none"
        else "kernels='baseline'"
    )
    assert expected in printed.decode()


# Measuring


def test_what_a_call_takes_is_the_mean(monkeypatch):
    clock = [0.0]
    durations = iter([100, 1, 5, 3, 7])  # the first warms up

    def call():
        clock[0] += next(durations)

    monkeypatch.setattr(rates.time, "perf_counter", lambda: clock[0])
    assert rates.seconds_per_call(call, 8) == 3  # 1, 5, 3
    assert next(durations) == 7


def test_one_call_is_timed_however_long_it_takes(monkeypatch):
    monkeypatch.setattr(rates.time, "perf_counter", iter([0.0, 10.0]).__next__)
    assert rates.seconds_per_call(lambda: None, 0) == 10.0


def test_a_rate_counts_multiplications_and_additions():
    assert rates.gflops((1000, 1000, 1000), 2.0) == 1.0


@pytest.mark.usefixtures("quick")
def test_steps_are_measured_on_one_thread_where_there_are_more(monkeypatch):
    numbers, measured = [4], []
    blas = BlasThreads(lambda: numbers[-1], numbers.append)
    monkeypatch.setattr(rates, "find_blas_threads", lambda: blas)
    monkeypatch.setattr(rates, "seconds_per_call", lambda call, seconds: measured.append(numbers[-1]) or 1.0)
    both = rates.measure_rates(4)
    assert [product.threads for product in both.products] == [4, 4, 1, 4, 1]
    assert measured == [4, 4, 1, 4, 1, 4] * rates.ROUNDS
    assert numbers[-1] == 4
    for threads in (1, None):
        assert [product.threads for product in rates.measure_rates(threads).products] == [threads] * 3


@pytest.mark.usefixtures("quick")
def test_measuring_leaves_the_number_of_threads_as_it_was():
    openblas()
    blas = find_blas_threads()
    before = blas.get()
    blas.set(2)
    try:
        rates.measure_rates(2)
        assert blas.get() == 2
    finally:
        blas.set(before)


def test_the_first_round_does_not_count(monkeypatch):
    taken = iter([100.0] * 4 + [1.0] * 4 + [2.0] * 4 + [9.0] * 4)
    monkeypatch.setattr(rates, "seconds_per_call", lambda call, seconds: next(taken))
    found = rates.measure_rates(None)
    assert found.tanh_ns == 2e9 / rates.TANH_SIZE  # the median of 1, 2 and 9 seconds
    assert found.products[0].gflops == rates.gflops(rates.SQUARE, 2.0)


def test_a_line_is_shown_at_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(report, "examine", examined)
    assert report.doctor() == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert report.doctor() == 0
    assert capsys.readouterr().err == "measuring for a few seconds ...\n"
