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
from nplstm.commands.doctor import advice, blas, command, examination, gpu, machine, rates, trial
from nplstm.commands.doctor.advice import advise
from nplstm.commands.doctor.blas import Blas
from nplstm.commands.doctor.examination import Engine, Examination
from nplstm.commands.doctor.gpu import Gpu
from nplstm.commands.doctor.machine import Processor, Versions, instruction_sets
from nplstm.commands.doctor.rates import Product, Rates
from nplstm.commands.doctor.report import write_report
from nplstm.commands.doctor.trial import KernelTrial, worth_trying
from nplstm.engines import cpus
from nplstm.engines.compiled.library import library
from nplstm.engines.cpus import Cpus, find_quota
from nplstm.errors import BackendUnavailableError

DOCUMENT = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text()
SECTIONS = "Versions Processor BLAS Threads Environment Speed GPU Engines".split()

CPUS = Cpus(affinity=8, quota=None, usable=8)
BLAS = Blas("OpenBLAS", "0.3.31", "/lib/libopenblas.so", "Haswell", 8, "pthreads", "OpenBLAS 0.3.31 DYNAMIC_ARCH")
STEP, SHAPE = "LSTM step", (2048, 512, 32)
RATES = Rates([Product(STEP, SHAPE, 8, 400.0, 1.0), Product(STEP, SHAPE, 1, 60.0, 0.15)], 400.0, 0.25)
PROCESSOR = Processor("Some CPU", ["avx2", "avx512f"], ["X86_V2"], ["X86_V4"], [])
TRIAL = KernelTrial("Haswell", 200.0, "SkylakeX", 390.0, 1.95)


def examined(**changes):
    """Return an examination in which all is well, with these changes."""
    found = Examination(
        versions=Versions("0.1", "3.11", "2.4", "Linux"),
        processor=PROCESSOR,
        cpus=CPUS,
        blas=replace(BLAS, kernels="SkylakeX"),
        environment={},
        rates=RATES,
        kernel_trial=None,
        gpu=Gpu(available=False, note="CuPy is not installed"),
        engines=[Engine("plain", available=True, note="")],
        advice=[],
    )
    return replace(found, **changes)


def silent(items, title):
    return items


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
    assert {tuple(product["shape"]) for product in products} == {*rates.SQUARES.values(), *rates.STEPS.values()}
    assert max(product["share"] for product in products) == 1
    for product in products:
        assert product["share"] == product["gflops"] / printed["rates"]["best_gflops"]
        assert 0.01 < product["gflops"] < 1e5
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
    for part in (np.__version__, "GFLOP/s", "ns an element", "CPUs for this process", "NumPy's SIMD, in use"):
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
    code = "import json; from dataclasses import asdict; from nplstm.commands.doctor.blas import *; "
    code += "print(json.dumps(asdict(find_blas())))"
    environment = os.environ | variables
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return Blas(**json.loads(run.stdout))


def openblas():
    """Return the OpenBLAS there is, or skip."""
    found = blas.find_blas()
    if found.name != "OpenBLAS":
        pytest.skip(f"NumPy uses {found.name} here, and OpenBLAS is what can be asked")
    return found


def test_openblas_tells_what_runs():
    found = openblas()
    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    assert found.version
    assert found.threads >= 1
    if build["name"] == "scipy-openblas":  # NumPy's wheel brings the library that it was built with
        assert found.version == build["version"]
        assert Path(found.file).parent.name in {"numpy.libs", ".dylibs"}


def test_openblas_is_asked_and_not_the_build():
    found = openblas()
    assert ask_blas(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1").threads == 1
    processor = machine.find_processor()
    if "DYNAMIC_ARCH" not in found.configuration or "avx2" not in processor.instructions:
        pytest.skip("kernels are chosen at run time on x86-64, by a build for many processors")
    assert ask_blas(OPENBLAS_CORETYPE="Haswell").kernels == "Haswell"
    assert ask_blas(OPENBLAS_CORETYPE="Sandybridge").kernels == "Sandybridge"


def test_a_thread_limit_is_lifted_again():
    before = openblas().threads
    with blas.thread_limit(2):
        with blas.thread_limit(1):
            assert blas.find_blas().threads == 1
        assert blas.find_blas().threads == 2
    assert blas.find_blas().threads == before


@pytest.fixture
def no_openblas(monkeypatch):
    """NumPy as it is where nothing answers to OpenBLAS's names."""
    monkeypatch.setattr(blas, "_openblas", lambda: None)


@pytest.mark.usefixtures("no_openblas", "quick")
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"Build Dependencies": {"blas": {"name": "accelerate", "version": "1"}}}, Blas("accelerate", "1")),
        ({"Build Dependencies": {"blas": {"name": "mkl-sdl"}}}, Blas("mkl-sdl")),
        ({}, Blas("unknown")),
    ],
)
def test_another_blas_is_survived(config, expected, monkeypatch):
    monkeypatch.setattr(np, "show_config", lambda mode: config)
    assert blas.find_blas() == expected
    found = examination.examine(silent)
    assert found.advice == []
    text = write_report(found)
    assert expected.name in text
    assert "kernels                       unknown" in text
    assert "BLAS threads                  unknown" in text
    assert "on one thread" not in text


def test_a_library_that_is_none_is_passed_over(monkeypatch, tmp_path):
    (tmp_path / "libopenblas.so").write_text("no library")
    monkeypatch.setattr(blas, "libraries", lambda: [tmp_path / "libopenblas.so", tmp_path / "none"])
    assert blas._openblas.__wrapped__() is None


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

    monkeypatch.setattr(trial, "_run", run)
    assert trial.try_kernels(silent) == KernelTrial("Haswell", 100, "SkylakeX", 170, 1.7)


def test_a_run_is_an_interpreter_of_its_own():
    found = openblas()
    run = trial._run({})
    assert run["kernels"] == found.kernels
    assert run["gflops"] > 0


@pytest.mark.parametrize("code", ["import os; os.abort()", "print('no JSON')", "raise SystemExit(1)"])
def test_a_run_that_fails_is_no_result(code, monkeypatch):
    run, instead = subprocess.run, [sys.executable, "-c", code]
    monkeypatch.setattr(trial.subprocess, "run", lambda command, **options: run(instead, **options))
    assert trial.try_kernels(silent) is None


def test_no_interpreter_is_no_result(monkeypatch):
    monkeypatch.setattr(trial.sys, "executable", "/no/such/python")
    assert trial.try_kernels(silent) is None


@pytest.mark.usefixtures("quick")
def test_the_doctor_tries_only_where_it_is_worth_it(monkeypatch):
    monkeypatch.setattr(examination, "try_kernels", lambda progress: TRIAL)
    for worth in (False, True):
        monkeypatch.setattr(examination, "worth_trying", lambda *_, worth=worth: worth)
        found = examination.examine(silent)
        assert found.kernel_trial == (TRIAL if worth else None)
        assert ("export OPENBLAS_CORETYPE=SkylakeX" in lines(found.advice)) is worth


# Threads


def test_more_threads_than_cpus_are_too_many():
    in_a_container = Cpus(affinity=64, quota=2.0, usable=2)
    many = replace(BLAS, threads=64)
    (found,) = advise(in_a_container, many, RATES, None)
    assert found.line == "export OPENBLAS_NUM_THREADS=2"
    assert "OpenBLAS runs 64 threads" in found.finding
    assert lines(advise(in_a_container, replace(many, threading="OpenMP"), RATES, None)) == [
        "export OMP_NUM_THREADS=2"
    ]
    assert lines(advise(in_a_container, many, RATES, TRIAL))[1] == found.line
    assert advise(in_a_container, replace(many, threads=2), RATES, None) == []
    assert advise(in_a_container, replace(many, threads=None), RATES, None) == []


def test_one_thread_is_recommended_where_it_is_faster():
    def measured(*speeds):
        names = ["big step", "small step"]
        products = [Product(name, SHAPE, 8, 10.0, 0.1) for name in names]
        products += [Product(name, SHAPE, 1, speed, 0.1) for name, speed in zip(names, speeds, strict=True)]
        return Rates([Product("square", SHAPE, 8, 100.0, 1.0), *products], 100.0, 0.2)

    (found,) = advise(CPUS, BLAS, measured(90.0, 30.0), None)
    assert found.line == "export OPENBLAS_NUM_THREADS=1"
    assert "at least 3.0 times as fast on one thread as on 8" in found.finding
    assert advise(CPUS, BLAS, measured(90.0, 10.5), None) == []  # of both steps, or not at all
    too_many = Cpus(affinity=8, quota=4.0, usable=4)
    assert lines(advise(too_many, BLAS, measured(90.0, 30.0), None)) == ["export OPENBLAS_NUM_THREADS=4"]
    alone = [product for product in RATES.products if product.threads == 1]
    assert advise(CPUS, replace(BLAS, threads=1), Rates(alone, 60.0, 0.2), None) == []


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
    numpys = "SSE42 AVX F16C FMA3 AVX2 AVX512F AVX512VNNI".split()
    expected = "sse42 avx f16c fma avx2 avx512f avx512vnni".split()
    assert instruction_sets(linux) == instruction_sets(numpys) == expected


def test_a_processor_is_described_without_cpuinfo(monkeypatch, tmp_path):
    here = machine.find_processor()
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    there = machine.find_processor()
    assert there.model
    assert {"avx2", "asimd"} & set(here.instructions) == {"avx2", "asimd"} & set(there.instructions)
    monkeypatch.setattr(machine, "_numpy_core", types.SimpleNamespace)  # NumPy's list is not public
    assert machine.find_processor().instructions == []


def test_the_environment_has_what_acts(monkeypatch):
    for name in (*machine.VARIABLES, *(name for name in os.environ if name.startswith("NPLSTM_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("NPLSTM_ENGINES", "")
    monkeypatch.setenv("UNRELATED", "1")
    found = machine.find_environment()
    assert found == {"OMP_NUM_THREADS": "3", "NPLSTM_ENGINES": ""}
    assert "NPLSTM_ENGINES                (empty)" in write_report(examined(environment=found))
    assert "none set" in write_report(examined())


# GPU and engines


def test_no_gpu_says_why(monkeypatch):
    def missing(name):
        raise BackendUnavailableError(f"backend {name!r}: CuPy is not installed; pip install it")

    monkeypatch.setattr(gpu, "get_backend", missing)
    assert gpu.find_gpu() == Gpu(available=False, note="CuPy is not installed; pip install it")


def test_a_gpu_is_described(monkeypatch):
    properties = {"name": b"Some GPU", "totalGlobalMem": 80 * 2**30}
    runtime = types.SimpleNamespace(getDeviceProperties=lambda device: [None, properties][device])
    cuda = types.SimpleNamespace(runtime=runtime, Device=lambda: types.SimpleNamespace(id=1))
    cupy = types.SimpleNamespace(__version__="14.0", cuda=cuda)
    monkeypatch.setattr(gpu, "get_backend", lambda name: types.SimpleNamespace(xp=cupy))
    found = gpu.find_gpu()
    assert found == Gpu(available=True, cupy="14.0", device="Some GPU", memory_bytes=80 * 2**30)
    assert "Some GPU, 80 GiB" in write_report(examined(gpu=found))


def test_engines_say_what_they_need(monkeypatch):
    reason = "its library of kernels is missing: pip install it"
    monkeypatch.setattr("nplstm.engines.compiled.library.problem", lambda: reason)
    compiled, numpy, plain = examination._engines()
    assert compiled == Engine("compiled", available=False, note=reason, kernels=None)
    assert (numpy, plain) == tuple(Engine(name, available=True, note="") for name in ("numpy", "plain"))
    text = " ".join(write_report(examined(engines=[compiled, numpy])).split())
    assert f"compiled not available: {reason} numpy available What to do" in text


def test_kernels_are_named():
    needs_kernels()
    compiled = examination._engines()[0]
    assert compiled == Engine("compiled", available=True, note="", kernels=library().instruction_set)
    assert f"available, kernels for {compiled.kernels}" in write_report(examined(engines=[compiled]))


@pytest.mark.parametrize("chosen", ["baseline", "none"])
def test_kernels_of_the_environment_are_named(chosen):
    needs_kernels()
    code = "from nplstm.commands.doctor import examination as e; print(e._engines()[0])"
    environment = os.environ | {"NPLSTM_KERNELS": chosen}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    expected = "NPLSTM_KERNELS=none leaves its kernels out" if chosen == "none" else "kernels='baseline'"
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
    limits = []
    monkeypatch.setattr(rates, "thread_limit", lambda count: limits.append(count) or blas.thread_limit(None))
    both = rates.measure_rates(silent, 4)
    assert [product.threads for product in both.products] == [4, 4, 4, 4, 1, 1]
    assert limits == [4, 4, 4, 4, 1, 1, None] * rates.ROUNDS
    for threads in (1, None):
        assert [product.threads for product in rates.measure_rates(silent, threads).products] == [threads] * 4


def test_the_first_round_does_not_count(monkeypatch):
    taken = iter([100.0] * 5 + [1.0] * 5 + [2.0] * 5 + [9.0] * 5)
    monkeypatch.setattr(rates, "seconds_per_call", lambda call, seconds: next(taken))
    found = rates.measure_rates(silent, None)
    assert found.tanh_ns == 2e9 / rates.TANH_SIZE  # the median of 1, 2 and 9 seconds
    assert found.best_gflops == rates.gflops(rates.SQUARES["square"], 2.0)


def test_a_bar_is_shown_at_a_terminal_only(monkeypatch, capsys):
    items = [1, 2, 3]
    assert command._show_progress(items, "measuring") is items
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(command._show_progress(items, "measuring")) == items
    assert "measuring" in capsys.readouterr().err

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("nplstm._progress.import_module", missing)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert command._show_progress(items, "measuring") is items
    assert capsys.readouterr().err == "measuring for a few seconds ...\n"
