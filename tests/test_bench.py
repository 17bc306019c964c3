"""``nplstm bench``, and the benchmark beside the rivals: what they check, calculate and write."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rivals import cases, figures, machine, measure, memory, others, with_nplstm, worker
from benchmarks.rivals.__main__ import main as rivals
from benchmarks.rivals.cases import GROUPS, Case, cases_of
from benchmarks.rivals.check import WrongResultError, check
from benchmarks.rivals.prepared import Prepared, Unavailable, choose
from benchmarks.rivals.report import write_report
from benchmarks.rivals.worker import REFERENCE, Worker, WorkerError
from nplstm import bench
from nplstm.cli import main
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
    monkeypatch.setattr(CompiledEngine, "refusal", lambda self, request: "there is no Numba")
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
    for group in GROUPS[:-1]:
        found = cases_of(group, 3.4e9, quick=True)
        assert found
        assert len(set(found)) == len(found)
        assert all(getattr(case, axis) <= most for case in found for axis, most in cases.QUICK.items())


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
        assert process.ask("start")["versions"]["numpy"] == np.__version__
        assert process.ask("prepare", TINY[1]) == ""
        check(process.ask("results"), reference(TINY[1]))
        assert process.ask("run", 2, 1) > 0
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
    found = worker.environment("compiled", 3)
    assert not {"OPENBLAS_CORETYPE", "OMP_WAIT_POLICY"} & set(found)
    assert found["OPENBLAS_NUM_THREADS"] == found["NPLSTM_NUM_THREADS"] == "3"
    assert found["NPLSTM_ENGINES"] == "compiled"
    assert worker.environment(REFERENCE, 3)["NPLSTM_ENGINES"] == "plain"
    assert "NPLSTM_ENGINES" not in worker.environment("torch", 3)
    assert worker.environment("numpy", 3, {"OPENBLAS_CORETYPE": "SkylakeX"})["OPENBLAS_CORETYPE"] == "SkylakeX"


@pytest.mark.parametrize(
    ("instructions", "kernels", "settings"),
    [
        (["avx2", "avx512f"], ["Haswell"], {"OPENBLAS_CORETYPE": "SkylakeX"}),
        (["avx2", "avx512f"], ["SkylakeX"], {}),
        (["avx2", "avx512f"], ["Cooperlake"], {}),
        (["avx2", "avx512f"], [], {}),
        (["avx2"], ["Haswell"], {}),
    ],
)
def test_there_is_a_second_pass_where_better_kernels_are_left_out(instructions, kernels, settings):
    found, remark = machine.best_kernels(instructions, kernels)
    assert found == settings
    assert (kernels[0] if kernels else "unknown") in remark


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
            "name": "defaults",
            "settings": {},
            "libraries": {
                "torch": {"versions": {"torch": "2.13.0"}, "blas": []},
                "compiled": {"versions": {"nplstm": "1.0"}, "blas": [{"architecture": "Haswell"}]},
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
        "- compiled: nplstm 1.0; BLAS kernels Haswell",
        "- numpy: not there (it is not there)",
        "- a remark",
        "| grid | inference | compiled | onnxruntime | 2 | 0.63 ▽ | 0.50 ▼ | 2 | 1 |",
        "| B=1 H=32 | 80 µs | 12 µs | 4 µs | 20.00 | 3.00 |",
        "| B=1 H=32 T=20 † | 2 ms | 500 µs | 1 ms | 2.00 | 0.50 ▼ |",
        "| B=1 H=32 T=20 | 3 s | 2 s | 1.50 |",
        "onnxruntime is called by io_binding, whichever is faster in a case.",
        "| T = 20 to 100 | inference | 1.00 | 0.50 |",
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
    assert (tmp_path / "out" / "rivals-compiled-defaults.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out").glob("*.part"))
