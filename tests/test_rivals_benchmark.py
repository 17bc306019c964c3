"""The benchmark beside torch and onnxruntime on a CPU: wrong results are not timed, libraries take turns."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import busy
from benchmarks.common import timing, with_nplstm
from benchmarks.common.cases import Case, Prepared
from benchmarks.common.checks import WrongResultError, differences, relative_maximum
from benchmarks.rivals import cases, footprint, instruction_sets, measure, passes, peak, serve, system, worker
from benchmarks.rivals.__main__ import main as rivals
from benchmarks.rivals.worker import REFERENCE, Unavailable, Worker, WorkerError

MEASURED = Path(__file__).parent.parent / "docs" / "measured"


def test_quick_cases_are_small_and_there_are_some_in_each_group():
    assert len(cases.cases_of("grid")) == 2 * 42  # within the limit
    for group in (*cases.TIMED, "peak", "memory"):
        found = cases.cases_of(group, quick=True)
        assert found
        assert len(set(found)) == len(found)
        assert all(getattr(case, axis) <= most for case in found for axis, most in cases.QUICK.items())


def test_half_of_a_padded_batch_is_padding():
    (case, _) = cases.cases_of("lengths")
    lengths = case.lengths()
    assert lengths.mean() == (case.T + 1) / 2
    assert (lengths.min() >= 1, lengths.max() <= case.T) == (True, True)


# Each library runs what it is asked for

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
    exact = case.reference()
    return with_nplstm.prepare(exact, with_nplstm.make_layer(exact)).results()


def check(results, expected):
    return differences(results, expected, measure.tolerance, relative_maximum)


def test_nplstm_runs_a_case():
    for case in TINY + TINY_TRAINING:
        way = with_nplstm.prepare(case, with_nplstm.make_layer(case))
        way.call()
        check(way.results(), reference(case))


def test_onnxruntime_runs_a_case_either_way():
    rival = pytest.importorskip("benchmarks.rivals.run_onnxruntime", reason="onnxruntime is not installed")
    for case in TINY:
        ways = rival.prepare(case)
        assert list(ways) == (["io_binding"] if case.task == "step" else ["run", "io_binding"])
        for way in ways.values():
            way.call()
            check(way.results(), reference(case))
    with pytest.raises(Unavailable, match="no backward"):
        rival.prepare(TINY_TRAINING[0])


@pytest.mark.usefixtures("torch_reference")
def test_torch_runs_a_case():
    from benchmarks.rivals import run_torch

    for case in TINY + TINY_TRAINING:
        (way,) = run_torch.prepare(case).values()
        way.call()
        check(way.results(), reference(case))


# What is timed is right, and timed in turns


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

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_what_is_wrong_is_not_timed():
    workers = {REFERENCE: FakeWorker(), "torch": FakeWorker(1e-7), "plain": FakeWorker(1e-2)}
    record = measure.measure(TINY[1], workers, 0.0)
    assert list(record["values"]) == ["torch"]
    assert record["values"]["torch"] == {"median": 0.05, "q1": 0.05, "q3": 0.05, "runs": 5}
    assert record["errors"]["torch"] == pytest.approx(2e-7)
    assert "output: differs by 2.0e-02" in record["refused"]["plain"]
    assert "run" not in workers["plain"].asked + workers[REFERENCE].asked


def test_libraries_are_timed_in_turns_of_many_calls():
    turns = []

    def turn(name, seconds):
        return lambda calls, warm: turns.append((name, calls, warm)) or calls * seconds

    samples = timing.interleave({"fast": turn("fast", 1e-5), "slow": turn("slow", 0.3)}, 1.0)
    assert turns[-4:] == [("fast", 2000, 201), ("slow", 1, 0)] * 2
    assert samples["slow"] == [0.3] * len(samples["fast"])
    assert samples["fast"] == pytest.approx([1e-5] * 7)
    assert timing.summary([5.0, 1.0, 2.0, 3.0, 4.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0, "runs": 5}


def test_a_disturbed_case_is_timed_again(monkeypatch):
    busy = iter([0.5, 0.2, 0.3])
    monkeypatch.setattr(measure.OtherPrograms, "cores", lambda self: next(busy))
    workers = {REFERENCE: FakeWorker(), "torch": FakeWorker()}
    assert measure.measure(TINY[1], workers, 0.0)["others"] == 0.2
    busy = iter([0.5, 0.0])
    assert measure.measure(TINY[1], workers, 0.0)["others"] == 0.0


def test_the_fastest_way_is_chosen(monkeypatch):
    monkeypatch.setattr(serve, "seconds_of", lambda call, calls: call())
    ways = {name: Prepared(lambda seconds=seconds: seconds, dict) for name, seconds in (("a", 2.0), ("b", 1.0))}
    assert serve.choose(ways)[0] == "b"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell the highest use of all time alone")
def test_memory_is_counted_at_its_peak():
    with system.PeakMemory() as found:
        np.ones(8_000_000)
    assert 60e6 < found.risen < 90e6


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
    mine = ("OPENBLAS_CORETYPE", "OMP_WAIT_POLICY", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "NPLSTM_KERNELS")
    for name in mine:
        monkeypatch.setenv(name, "mine")
    found = worker.environment("compiled", 3)
    assert not set(mine) & set(found)
    assert found["OPENBLAS_NUM_THREADS"] == found["NPLSTM_NUM_THREADS"] == "3"
    assert found["NPLSTM_ENGINES"] == "compiled"
    assert worker.environment(REFERENCE, 3)["NPLSTM_ENGINES"] == "plain"
    assert "NPLSTM_ENGINES" not in worker.environment("torch", 3)
    assert worker.environment("numpy", 3, {"OPENBLAS_CORETYPE": "SkylakeX"})["OPENBLAS_CORETYPE"] == "SkylakeX"


# Instruction sets

AVX512 = ["avx", "fma", "avx2", "avx512f", "avx512bw"]


@pytest.mark.parametrize(
    ("instructions", "names"),
    [(AVX512, ["avx512", "avx2"]), (["fma", "avx2"], ["avx2"]), (["sse42"], ["baseline"]), (["asimd"], ["neon"])],
)
def test_each_instruction_set_of_the_machine_is_measured(instructions, names):
    found = instruction_sets.instruction_sets(instructions, ["X86_V3", "X86_V4"])
    assert [one.name for one in found] == [one.settings["NPLSTM_KERNELS"] for one in found] == names
    assert [one.best for one in found] == [True, False][: len(found)]


def test_libraries_are_told_to_use_avx2_alone():
    _, avx2 = instruction_sets.instruction_sets(AVX512, ["X86_V3", "X86_V4", "AVX512_ICL"])
    assert (avx2.settings["ONEDNN_MAX_CPU_ISA"], avx2.settings["OPENBLAS_CORETYPE"]) == ("AVX2", "Haswell")
    assert avx2.settings["NPY_DISABLE_CPU_FEATURES"] == "X86_V4,AVX512_ICL"
    (only,) = instruction_sets.instruction_sets(["avx2"], ["X86_V3"])
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
    right = {"ATen": "AVX2", "oneDNN": "brgemm:avx2", "MKL": "Intel(R) Architecture", "BLAS": "Haswell"}
    ((part, found),) = said.items()
    assert not instruction_sets.not_as_asked("avx2", right)
    assert instruction_sets.not_as_asked("avx2", right | said) == f"{part} runs {found}"
    assert not instruction_sets.not_as_asked("avx512", said)


def test_onednn_and_mkl_tell_what_they_run():
    printed = (
        "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:blk,undef,src:f32\n"
        "onednn_verbose,v1,primitive,exec,cpu,rnn,brgemm:avx2,forward_inference,src_layer:f32\n"
        "MKL_VERBOSE oneMKL 2024.0 Product build 20240605 for Intel(R) 64 architecture Intel(R) Architecture "
        "processors, Lnx 2.60GHz lp64 gnu_thread\n"
    )
    found = {"oneDNN": "brgemm:avx2", "MKL": "Intel(R) Architecture"}
    assert instruction_sets.parse_verbose(printed) == found


class TalkingWorker(FakeWorker):
    """A worker that also tells what it runs: torch and the engine what they were told, NumPy always AVX-512."""

    def __init__(self, library, threads, settings=None):
        super().__init__()
        self.library, self.threads, self.settings = library, threads, settings

    def ask(self, command, *arguments):
        if command == "start":
            return {self.library: "1.0"}
        if command == "instructions":
            return {"NumPy": "X86_V4"} if self.library == "numpy" else {"it": self.settings["NPLSTM_KERNELS"]}
        return super().ask(command, *arguments)


def test_a_run_has_a_pass_for_each_instruction_set(monkeypatch):
    monkeypatch.setattr(passes, "Worker", TalkingWorker)
    monkeypatch.setattr(passes, "find_sets", lambda: instruction_sets.instruction_sets(AVX512, ["X86_V4"]))
    monkeypatch.setattr(passes, "build_peak", lambda name, folder: peak.build_peak("baseline", folder))
    monkeypatch.setattr(passes, "measure_sizes", lambda libraries: [{"group": "size"}])
    saved, libraries = [], ["torch", "onnxruntime", "compiled", "numpy"]
    options = dict(
        only=["small", "peak", "size"], instructions=["avx512", "avx2"], seconds=0.0, threads=2, quick=True
    )
    passes.measure_all(SimpleNamespace(libraries=libraries, **options), lambda run: saved.append(json.dumps(run)))
    best, avx2 = json.loads(saved[-1])["passes"]
    assert list(best["libraries"]) == libraries
    assert list(avx2["libraries"]) == ["torch", "compiled"]
    assert "cannot be told" in avx2["unavailable"]["onnxruntime"]
    assert avx2["unavailable"]["numpy"] == "NumPy runs X86_V4"
    assert {r["group"] for r in best["records"]} == {"small", "size"}
    assert {r["group"] for r in avx2["records"]} == {"small"}
    reason = "the share of the peak is not measured: the program for the peak has no variant for baseline"
    assert best["remarks"] == [reason]


def test_the_peak_of_a_core_is_measured(tmp_path):
    for one in instruction_sets.find_sets():
        try:
            program = peak.build_peak(one.name, tmp_path)
        except OSError as error:
            pytest.skip(str(error))
        # a core with these units computes 16 to 128 operations a cycle; sanitizers and emulators are slower
        assert 1e9 < peak.measure_peak(program) < 2e12


def test_the_first_call_is_timed_beside_the_second():
    records = footprint.measure_imports(["plain"], 1, {}, 1)
    assert [r["task"] for r in records] == ["import", "import and first call", "first call", "second call"]
    imported, called, first, _ = (r["values"]["plain"]["median"] for r in records)
    assert called > imported + first


# Beside busy processes


def test_a_rate_counts_calls(monkeypatch):
    clock = [0.0]

    def call():
        clock[0] += 0.25

    monkeypatch.setattr(serve.time, "perf_counter", lambda: clock[0])
    assert serve.rate_of(call, 10.0) == 4.0
    assert serve.rate_of(call, 0.0) == 4.0  # one call at least


def test_busy_processes_end_with_the_context():
    with busy.busy_processes(2) as started:
        assert [process.poll() for process in started] == [None, None]
    assert all(process.poll() is not None for process in started)


def test_rates_are_taken_idle_and_busy(monkeypatch):
    class Rated(TalkingWorker):
        """Half as fast with each more thread; torch cannot train."""

        def ask(self, command, *arguments):
            if command == "prepare" and self.library == "torch" and arguments[0].task == "training":
                raise WorkerError("Unavailable: no backward")
            if command == "start" and self.library == "numpy":
                raise WorkerError("it is not there")
            return {"rate": 400 / self.threads, "wait": 0.25}.get(command) or super().ask(command, *arguments)

    monkeypatch.setattr(busy, "Worker", Rated)
    monkeypatch.setattr(busy, "_WARM", 0.0)
    run = busy.measure(["torch", "compiled", "numpy"], 0.0, 3)
    assert run["rows"][0]["rates"] == {"idle 1": 400, "idle 2": 200, "busy 1": 400, "busy 2": 200}
    assert [r["library"] for r in run["rows"] if r["task"] == "training"] == ["compiled"]
    assert "- numpy: not measured (it is not there)" in busy.write_table(run).splitlines()


# The command


def test_documents_have_the_report_of_the_measured_figures(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    saved = MEASURED / "rivals.json"
    assert rivals(["--report-only", str(saved), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "rivals.md").read_bytes() == (MEASURED / "rivals.md").read_bytes()
    assert len(list(tmp_path.glob("rivals-*.png"))) == 4
    run = json.loads(saved.read_text(encoding="utf-8"))
    run["passes"][0]["records"][-1]["refused"] = {"numpy": "output: differs", "torch": "Unavailable: no backward"}
    (tmp_path / "wrong.json").write_text(json.dumps(run), encoding="utf-8")
    assert rivals(["--report-only", str(tmp_path / "wrong.json"), "--out", str(tmp_path)]) == 1
    assert "not timed:** numpy" in capsys.readouterr().out
