"""``nplstm bench``, and the benchmark beside the rivals: what they check, calculate and write."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import busy
from benchmarks.rivals import (
    cases,
    figures,
    imports,
    machine,
    measure,
    memory,
    others,
    peak,
    prepared,
    session,
    sizes,
    with_nplstm,
    worker,
)
from benchmarks.rivals.__main__ import main as rivals
from benchmarks.rivals.cases import TIMED, Case, cases_of
from benchmarks.rivals.check import WrongResultError, check
from benchmarks.rivals.prepared import Prepared, Unavailable, choose, rate_of
from benchmarks.rivals.report import write_report
from benchmarks.rivals.worker import REFERENCE, Worker, WorkerError
from nplstm.commands import bench
from nplstm.commands.cli import main
from nplstm.engines.compiled import CompiledEngine

# nplstm bench


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command as the command line does, at tiny sizes; return what it prints."""
    monkeypatch.setattr(bench, "_TURN", 1e-4)
    tiny = (("step", 1, 3, 1), ("inference", 2, 3, 5), ("training", 2, 3, 5))
    monkeypatch.setattr(bench.bench, "__defaults__", (tiny,))

    def run(*given):
        assert main(["bench", "--seconds", "0", *given]) == 0
        return capsys.readouterr().out

    return run


def test_bench_prints_a_row_for_each_case(command):
    head, *rows = command().splitlines()
    assert head.split()[:3] == ["B", "H", "T"]
    assert "plain" in head
    assert [row.split()[:4] for row in rows[:3]] == [
        ["step", "1", "3", "1"],
        ["inference", "2", "3", "5"],
        ["training", "2", "3", "5"],
    ]


def test_bench_prints_json(command):
    found = json.loads(command("--json"))
    assert [row["task"] for row in found["rows"]] == ["step", "inference", "training"]
    assert all(row["seconds"]["plain"] > 0 for row in found["rows"])


def test_bench_says_which_engine_is_missing(command, monkeypatch):
    monkeypatch.setattr(CompiledEngine, "unsupported_reason", lambda self, request: "there is no Numba")
    assert "not compiled: there is no Numba" in command()
    found = json.loads(command("--json"))
    assert list(found["missing"]) == ["compiled"]
    assert "compiled" not in found["rows"][0]["seconds"]


# Rivals: cases


def test_cases_are_within_the_limit():
    grid = cases_of("grid", 3.4e9)
    assert {case.task for case in grid} == {"inference", "training"}
    assert len(grid) == 2 * 42
    assert max(case.work for case in grid) <= 3.4e9
    assert len(cases_of("grid", 1e12)) == 2 * 48


def test_quick_cases_are_small_and_there_are_some_in_each_group():
    for group in (*TIMED, "peak", "memory"):
        found = cases_of(group, 3.4e9, quick=True)
        assert found
        assert len(set(found)) == len(found)
        assert all(getattr(case, axis) <= most for case in found for axis, most in cases.QUICK.items())


def test_small_cases_and_those_of_the_peak_are_inference():
    small, peaks = cases_of("small", 3.4e9), cases_of("peak", 3.4e9)
    assert [(c.B, c.H, c.T) for c in small] == [(1, 32, 20), (1, 128, 20), (8, 32, 20), (8, 128, 20)]
    assert {(c.B, c.H, c.T) for c in peaks} == {(B, H, 20) for B in (8, 32, 128) for H in (128, 512, 1024)}
    assert {c.task for c in (*small, *peaks)} == {"inference"}


def test_operations_are_those_of_the_two_products():
    case = Case("peak", "inference", 2, 3, 5)
    products = [(4 * case.H, case.H)] * 2  # W_ih and W_hh
    assert case.operations == sum(2 * case.T * case.B * rows * columns for rows, columns in products)


def test_half_of_a_padded_batch_is_padding():
    (case, _) = cases_of("lengths", 3.4e9)
    lengths = case.lengths()
    assert lengths.shape == (case.B,)
    assert lengths.mean() == (case.T + 1) / 2
    assert lengths.min() >= 1
    assert lengths.max() <= case.T


# Rivals: what is timed is right

TINY = [
    Case("streaming", "step", 1, 3, 5),
    Case("grid", "inference", 2, 3, 5),
    Case("stacks", "inference", 2, 3, 5, layers=2, bidirectional=True),
    Case("stacks", "inference", 2, 3, 5, layers=3),
    Case("lengths", "inference", 4, 3, 7, padded=True),
    Case("lengths", "inference", 4, 3, 7, layers=2, bidirectional=True, padded=True),
]
TINY_TRAINING = [replace(case, task="training") for case in TINY[1:]]


def reference(case):
    (way,) = with_nplstm.prepare(case.reference()).values()
    return way.results()


@pytest.mark.parametrize("case", TINY + TINY_TRAINING, ids=str)
def test_nplstm_runs_a_case(case):
    (way,) = with_nplstm.prepare(case).values()
    way.call()
    check(way.results(), reference(case))


@pytest.mark.parametrize("case", TINY, ids=str)
def test_onnxruntime_runs_a_case_either_way(case):
    rival = pytest.importorskip("benchmarks.rivals.with_onnxruntime", reason="onnxruntime is not installed")
    ways = rival.prepare(case)
    assert list(ways) == ["run", "io_binding"]
    for way in ways.values():
        way.call()
        check(way.results(), reference(case))


def test_onnxruntime_does_not_train():
    rival = pytest.importorskip("benchmarks.rivals.with_onnxruntime", reason="onnxruntime is not installed")
    with pytest.raises(Unavailable, match="no backward"):
        rival.prepare(TINY_TRAINING[0])


@pytest.mark.usefixtures("torch_reference")
@pytest.mark.parametrize("case", TINY + TINY_TRAINING, ids=str)
def test_torch_runs_a_case(case):
    from benchmarks.rivals import with_torch

    (way,) = with_torch.prepare(case).values()
    way.call()
    check(way.results(), reference(case))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda found: found | {"output": found["output"] + 1e-3}, "output: differs by"),
        (lambda found: found | {"grad_input": found["grad_input"] * 1.001}, "grad_input: differs by"),
        (lambda found: found | {"output": found["output"] * np.nan}, "output: differs by nan"),
        (lambda found: found | {"output": found["output"][1:]}, "output: expected the shape"),
        (lambda found: found | {"h": found["output"]}, "expected the results"),
    ],
)
def test_a_wrong_result_is_seen(spoil, message):
    right = reference(TINY_TRAINING[0])
    assert max(check(right, right).values()) == 0
    with pytest.raises(WrongResultError, match=message):
        check(spoil(right), right)


class FakeWorker:
    """Answers as a worker does; wrongly if there is something to add to its output."""

    pid = os.getpid()

    def __init__(self, added=0.0):
        self.added, self.asked = added, []

    def ask(self, command, *arguments):
        self.asked.append(command)
        if command == "results":
            return {"output": np.array([0.5]) + self.added}
        return {"prepare": "one way", "run": 0.05, "forget": None}[command]


def test_what_is_wrong_is_not_timed():
    workers = {REFERENCE: FakeWorker(), "torch": FakeWorker(1e-7), "plain": FakeWorker(1e-2)}
    record = measure.measure(TINY[1], workers, 0.0)
    assert list(record["values"]) == ["torch"]
    assert record["values"]["torch"]["runs"] == 5
    assert record["errors"]["torch"] == pytest.approx(2e-7)
    assert record["notes"] == {"torch": "one way", "plain": "one way"}
    assert "output: differs by 2.0e-02" in record["refused"]["plain"]
    assert "run" not in workers["plain"].asked + workers[REFERENCE].asked


# Rivals: measuring


def test_libraries_are_timed_in_turns_of_many_calls():
    turns = []

    def turn(name, seconds):
        return lambda calls, warm: turns.append((name, calls, warm)) or calls * seconds

    samples = measure.interleave({"fast": turn("fast", 1e-5), "slow": turn("slow", 0.3)}, 1.0)
    assert turns[-4:] == [("fast", 2000, 201), ("slow", 1, 0)] * 2
    assert samples["slow"] == [0.3] * len(samples["fast"])
    assert samples["fast"] == pytest.approx([1e-5] * 7)
    assert measure.interleave({}, 1.0) == {}


def test_a_disturbed_case_is_timed_again(monkeypatch):
    busy = iter([0.5, 0.2, 0.3])
    monkeypatch.setattr(measure.Others, "cores", lambda self: next(busy))
    workers = {REFERENCE: FakeWorker(), "torch": FakeWorker()}
    assert measure.measure(TINY[1], workers, 0.0)["others"] == 0.2
    busy = iter([0.5, 0.0])
    assert measure.measure(TINY[1], workers, 0.0)["others"] == 0.0


def test_a_summary_has_quartiles():
    assert measure.summary([5.0, 1.0, 2.0, 3.0, 4.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0, "runs": 5}
    assert measure.summary([2.0]) == {"median": 2.0, "q1": 2.0, "q3": 2.0, "runs": 1}


def test_the_fastest_way_is_chosen(monkeypatch):
    monkeypatch.setattr("benchmarks.rivals.prepared.seconds_of", lambda call, calls: call())
    ways = {name: Prepared(lambda seconds=seconds: seconds, dict) for name, seconds in (("a", 2.0), ("b", 1.0))}
    assert choose(ways)[0] == "b"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell the highest use of all time alone")
def test_memory_is_counted_at_its_peak():
    with memory.Peak() as peak:
        np.ones(8_000_000)
    assert 60e6 < peak.risen < 90e6


def test_own_work_is_not_others():
    seen = others.Others([])
    assert sum(range(3_000_000)) > 0
    assert seen.cores() >= 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that stop a process")
def test_a_worker_answers_and_stops():
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    with Worker("plain", 1) as process:
        assert process.ask("start")["numpy"] == np.__version__
        assert process.ask("instructions")["NumPy"]
        assert process.ask("prepare", TINY[1]) == ""
        check(process.ask("results"), reference(TINY[1]))
        assert process.ask("run", 2, 1) > 0
        assert process.ask("rate", 0.01, 0.0) > 0
        assert 0 <= process.ask("wait", 0.01) < 0.1
        if sys.platform == "linux":
            assert Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        with pytest.raises(WorkerError, match="AttributeError"):
            process.ask("nonsense")
        os.kill(process.pid, 9)
        with pytest.raises(WorkerError, match="the process ended"):
            process.ask("start")


def test_workers_have_the_libraries_own_defaults(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("NPLSTM_KERNELS", "avx2")
    found = worker.environment("compiled", 3)
    assert not {"OPENBLAS_CORETYPE", "OMP_WAIT_POLICY", "NPLSTM_KERNELS"} & set(found)
    assert not {"ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"} & set(found)
    assert found["OPENBLAS_NUM_THREADS"] == found["NPLSTM_NUM_THREADS"] == "3"
    assert found["NPLSTM_ENGINES"] == "compiled"
    assert worker.environment(REFERENCE, 3)["NPLSTM_ENGINES"] == "plain"
    assert "NPLSTM_ENGINES" not in worker.environment("torch", 3)
    assert worker.environment("numpy", 3, {"OPENBLAS_CORETYPE": "SkylakeX"})["OPENBLAS_CORETYPE"] == "SkylakeX"


# Rivals: instruction sets

AVX512 = ["avx", "fma", "avx2", "avx512f", "avx512bw"]


@pytest.mark.parametrize(
    ("instructions", "names"),
    [(AVX512, ["avx512", "avx2"]), (["fma", "avx2"], ["avx2"]), (["sse42"], ["baseline"]), (["asimd"], ["neon"])],
)
def test_each_instruction_set_of_the_machine_is_measured(instructions, names):
    found = machine.instruction_sets(instructions, [])
    assert [one.name for one in found] == [one.settings["NPLSTM_KERNELS"] for one in found] == names
    assert [one.best for one in found] == [True, False][: len(found)]


def test_libraries_are_told_to_use_avx2_alone():
    best, avx2 = machine.instruction_sets(AVX512, ["X86_V3", "X86_V4", "AVX512_ICL"])
    assert best.settings == {"NPLSTM_KERNELS": "avx512", "OPENBLAS_CORETYPE": "SkylakeX"}
    assert avx2.settings["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert avx2.settings["OPENBLAS_CORETYPE"] == "Haswell"
    assert avx2.settings["NPY_DISABLE_CPU_FEATURES"] == "X86_V4,AVX512_ICL"
    (only,) = machine.instruction_sets(["avx2"], ["X86_V3"])
    assert "NPY_DISABLE_CPU_FEATURES" not in only.settings  # an empty list would be an error to NumPy


@pytest.mark.parametrize(
    "said",
    [
        {"ATen": "AVX512"},
        {"oneDNN": "brgemm:avx512_core"},
        {"MKL": "Intel(R) Advanced Vector Extensions 512 (Intel(R) AVX-512) enabled"},
        {"NumPy": "X86_V3, X86_V4"},
        {"BLAS": "SkylakeX"},
    ],
    ids=str,
)
def test_avx512_in_another_pass_is_seen(said):
    (part, found), *_ = said.items()
    assert machine.not_as_asked("avx2", {"other": "AVX2"} | said) == f"{part} runs {found}"
    assert not machine.not_as_asked("avx512", said)


def test_what_is_avx2_is_as_asked():
    said = {
        "ATen": "AVX2",
        "oneDNN": "brgemm:avx2",
        "MKL": "Intel(R) Architecture",
        "NumPy": "X86_V3",
        "BLAS": "Haswell",
    }
    assert not machine.not_as_asked("avx2", said)


def test_onednn_and_mkl_tell_what_they_run():
    printed = (
        "onednn_verbose,v1,info,cpu,isa:Intel AVX2\n"
        "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:blk,undef,src:f32\n"
        "onednn_verbose,v1,primitive,exec,cpu,rnn,brgemm:avx2,forward_inference,src_layer:f32\n"
        "MKL_VERBOSE oneMKL 2024.0 Product build 20240605 for Intel(R) 64 architecture Intel(R) Architecture "
        "processors, Lnx 2.60GHz lp64 gnu_thread\n"
    )
    assert machine.parse_verbose(printed) == {"oneDNN": "brgemm:avx2", "MKL": "Intel(R) Architecture"}
    assert machine.parse_verbose("") == {}


class TalkingWorker(FakeWorker):
    """A worker that also tells what it runs: torch and the engine what they were told, NumPy always AVX-512."""

    def __init__(self, library, threads, settings):
        super().__init__()
        self.library, self.threads, self.settings = library, threads, settings

    def ask(self, command, *arguments):
        if command == "start":
            return {self.library: "1.0"}
        if command == "instructions":
            return {"NumPy": "X86_V4"} if self.library == "numpy" else {"it": self.settings["NPLSTM_KERNELS"]}
        return super().ask(command, *arguments)

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def measured(monkeypatch):
    """Return a function that measures with workers that only pretend, on a machine with AVX-512."""
    monkeypatch.setattr(session, "Worker", TalkingWorker)
    monkeypatch.setattr(session, "find_sets", lambda: machine.instruction_sets(AVX512, ["X86_V4"]))
    monkeypatch.setattr(session, "measure_peak", lambda program: 1e11)
    monkeypatch.setattr(session, "measure_sizes", lambda libraries: [{"group": "size"}])

    def run(groups, instructions=("avx512", "avx2"), saved=None):
        options = session.Options(
            groups, ["torch", "onnxruntime", "compiled", "numpy"], instructions, 0.0, 2, 3.4e9, quick=True
        )
        return session.measure_all(options, lambda run: None if saved is None else saved.append(json.dumps(run)))

    return run


def test_a_run_has_a_pass_for_each_instruction_set(measured):
    saved = []
    best, avx2 = measured(["small", "size"], saved=saved)["passes"]
    assert list(best["libraries"]) == ["torch", "onnxruntime", "compiled", "numpy"]
    assert list(avx2["libraries"]) == ["torch", "compiled"]
    assert "cannot be told" in avx2["unavailable"]["onnxruntime"]
    assert avx2["unavailable"]["numpy"] == "NumPy runs X86_V4"
    assert {r["group"] for r in best["records"]} == {"small", "size"}
    assert {r["group"] for r in avx2["records"]} == {"small"}
    assert json.loads(saved[-1])["passes"][1]["name"] == "avx2"


def test_one_instruction_set_can_be_asked_for(measured):
    (only,) = measured(["small"], ["avx2"])["passes"]
    assert only["name"] == "avx2"


def test_the_peak_is_left_out_where_it_cannot_be_measured(measured, monkeypatch):
    monkeypatch.setattr(session, "build_peak", lambda name, folder: folder / name)
    found = measured(["peak"])["passes"][0]
    assert [(r["peak"], r["operations"]) for r in found["records"]] == [(1e11, 16 * 20 * 4 * 64 * 64)]

    def fail(name, folder):
        raise OSError("no compiler")

    monkeypatch.setattr(session, "build_peak", fail)
    found = measured(["peak"])["passes"][0]
    assert found["records"] == []
    assert found["remarks"] == ["the share of the peak is not measured: no compiler"]


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")
def test_the_peak_of_a_core_is_measured(tmp_path):
    for one in machine.find_sets():
        if one.name == "baseline":
            continue
        program = peak.build_peak(one.name, tmp_path)
        # a core with these units computes 16 to 128 operations a cycle; sanitizers and emulators are slower
        assert 1e9 < peak.measure_peak(program) < 2e12


def test_why_there_is_no_peak_is_said(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="no variant for baseline"):
        peak.build_peak("baseline", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="no C compiler"):
        peak.build_peak("avx2", tmp_path)


# Rivals: what is no call


def test_sizes_are_those_of_files(tmp_path):
    (tmp_path / "__pycache__").mkdir()
    for name, size in (("a.py", 3), ("b.so", 5), ("libc.so.1", 7), ("__pycache__/a.pyc", 11)):
        (tmp_path / name).write_bytes(bytes(size))
    assert sizes.size_of(tmp_path) == (15, 12)
    folder, _ = sizes.measure_sizes(["plain"])
    assert folder["values"]["plain"]["median"] > 1e5


def test_the_first_call_is_timed_beside_the_second():
    records = imports.measure_imports(["plain"], 1, {}, 1)
    assert [(r["group"], r["task"]) for r in records] == [
        ("import", "import"),
        ("import", "import and first call"),
        ("first", "first call"),
        ("first", "second call"),
    ]
    imported, called, first, _ = (r["values"]["plain"]["median"] for r in records)
    assert called > imported + first


# Beside busy processes


def test_a_rate_counts_calls(monkeypatch):
    clock = [0.0]

    def call():
        clock[0] += 0.25

    monkeypatch.setattr(prepared.time, "perf_counter", lambda: clock[0])
    assert rate_of(call, 10.0) == 4.0
    assert rate_of(call, 0.0) == 4.0  # one call at least


def test_busy_processes_end_with_the_context():
    with busy.busy_processes(2) as started:
        assert [process.poll() for process in started] == [None, None]
    assert all(process.poll() is not None for process in started)


def test_rates_are_shown_beside_each_other(monkeypatch):
    class Rated(TalkingWorker):
        """Half as fast with each more thread; torch cannot train."""

        def __init__(self, library, threads):
            super().__init__(library, threads, {})

        def ask(self, command, *arguments):
            if command == "prepare" and self.library == "torch" and arguments[0].task == "training":
                raise WorkerError("Unavailable: no backward")
            if command == "start" and self.library == "numpy":
                raise WorkerError("it is not there")
            return {"rate": 400 / self.threads, "wait": 0.25}.get(command) or super().ask(command, *arguments)

    monkeypatch.setattr(busy, "Worker", Rated)
    monkeypatch.setattr(busy, "_WARM", 0.0)
    monkeypatch.setattr(busy.Others, "cores", lambda self: 0.5)
    run = json.loads(json.dumps(busy.measure(["torch", "compiled", "numpy"], 0.0, 3)))
    assert run["rows"][0]["rates"] == {"idle 1": 400, "idle 2": 200, "busy 1": 400, "busy 2": 200}
    lines = busy.write_table(run).splitlines()
    assert "- numpy: not measured (it is not there)" in lines
    assert "| inference | B=1 H=512 T=20 † | torch | 400 | 200 | 400 | 200 | 50% |" in lines
    assert "| compiled | 250 ms |" in lines
    assert [r["library"] for r in run["rows"] if r["task"] == "training"] == ["compiled"]


# Rivals: what is calculated and written


def record(group, task, B, H, T, **medians):
    values = {name: {"median": m, "q1": m, "q3": m, "runs": 5} for name, m in medians.items()}
    case = Case(group, task, B, H, T)
    shown = {"group": group, "task": task, "label": case.label, "case": case.as_dict(), "unit": "s"}
    return shown | {"values": values, "refused": {}, "notes": {}, "others": 0.0}


RECORDS = [
    record("streaming", "step", 1, 32, 5, torch=8e-5, onnxruntime=1.2e-5, compiled=4e-6),
    record("grid", "inference", 1, 32, 20, torch=2e-3, onnxruntime=5e-4, compiled=1e-3),
    record("grid", "inference", 8, 32, 20, torch=1e-3, onnxruntime=8e-4, compiled=1e-3),
    record("grid", "training", 1, 32, 20, torch=3.0, compiled=2.0),
    *(record("growth", "inference", 8, 32, T, torch=T * 1e-4, compiled=T**0.5 * 1e-4) for T in (20, 50, 100)),
    record("growth", "inference", 8, 64, 100, torch=4e-2, compiled=2e-3),
    record("peak", "inference", 8, 128, 20, torch=2.0, compiled=1.0) | {"operations": 5e10, "peak": 1e11},
    record("peak", "inference", 8, 512, 20, onnxruntime=1.0) | {"operations": 5e10, "peak": 1e11},
]
RECORDS[1] = RECORDS[1] | {"notes": {"onnxruntime": "io_binding"}, "others": 0.5}
RECORDS[3] = RECORDS[3] | {"refused": {"onnxruntime": "Unavailable: no backward", "numpy": "output: differs"}}
RUN = {
    "machine": {
        "date": "2026-01-01", "commit": "abc", "processor": "Some CPU", "instructions": ["avx2"], "cpus": 2,
        "memory_bytes": 2**30, "platform": "Linux", "python": "3.11", "load": 0.1,
    },
    "threads": 2,
    "passes": [
        {
            "name": "avx2",
            "settings": {"NPLSTM_KERNELS": "avx2"},
            "libraries": {
                "torch": {"versions": {"torch": "2.13.0"}, "instructions": {}},
                "compiled": {
                    "versions": {"nplstm": "1.0"},
                    "instructions": {"BLAS": "Haswell", "NumPy": "X86_V3"},
                },
            },
            "unavailable": {"numpy": "it is not there"},
            "remarks": ["a remark"],
            "records": RECORDS,
        }
    ],
}  # fmt: skip


def test_a_geometric_mean_treats_both_sides_alike():
    assert figures.geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
    assert figures.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_a_share_is_of_the_peak():
    shown = RECORDS[-2]
    assert figures.share(shown, "compiled") == 0.5
    assert figures.share(shown, "onnxruntime") is None


def test_engines_are_compared_by_group_and_task():
    found = {(c.group, c.task, c.own, c.rival): c for c in figures.compare(RECORDS)}
    assert found["grid", "inference", "compiled", "torch"].ratios == [2.0, 1.0]
    beside = found["grid", "inference", "compiled", "onnxruntime"]
    assert beside.ratios == [0.5, 0.8]
    assert (beside.lost, beside.far_behind) == (2, 1)
    assert ("grid", "training", "compiled", "onnxruntime") not in found
    assert not any(group == "growth" for group, *_ in found)


def test_slopes_are_those_of_logarithms():
    assert figures.slope([(x, 3 * x**2) for x in (1, 2, 5, 10)]) == pytest.approx(2.0)
    (_, _, over_t, of_t), (_, _, over_h, of_h) = figures.slopes(RECORDS)
    assert over_t == [20, 50, 100]
    assert of_t == pytest.approx({"torch": 1.0, "compiled": 0.5})
    assert over_h == [32, 64]
    assert of_h == pytest.approx({"torch": 2.0, "compiled": 1.0})


def test_the_report_says_what_was_found():
    lines = write_report(json.loads(json.dumps(RUN))).splitlines()
    for line in (
        "## Instruction set avx2",
        "- environment: `NPLSTM_KERNELS=avx2`",
        "- torch: torch 2.13.0",
        "- compiled: nplstm 1.0; it reports BLAS Haswell, NumPy X86_V3",
        "- numpy: not measured (it is not there)",
        "- a remark",
        "| grid | inference | compiled | onnxruntime | 2 | 0.63 ▽ | 0.50 ▼ | 2 | 1 |",
        "| B=1 H=32 | 80 µs | 12 µs | 4 µs | 20.00 | 3.00 |",
        "| B=1 H=32 T=20 † | 2 ms | 500 µs | 1 ms | 2.00 | 0.50 ▼ |",
        "| B=1 H=32 T=20 | 3 s | 2 s | 1.50 |",
        "onnxruntime is called by io_binding, whichever is faster in a case.",
        "| T = 20 to 100 | inference | 1.00 | 0.50 |",
        "| B=8 H=128 T=20 | 100 | 25% |  | 50% |",
        "**Not timed:** numpy, training, B=1 H=32 T=20: output: differs",
    ):
        assert line in lines
    assert not any("no backward" in line for line in lines)


def test_table_and_picture_are_made_again_from_json(tmp_path, capsys):
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(RUN))
    assert rivals(["--report-only", str(saved), "--out", str(tmp_path / "out")]) == 1  # something was not timed
    assert write_report(RUN) in capsys.readouterr().out
    assert (tmp_path / "out" / "rivals.md").read_text(encoding="utf-8") == write_report(RUN)
    assert (tmp_path / "out" / "rivals-compiled-avx2.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out").glob("*.part"))
