"""The benchmark on a GPU, without one: its cases, figures and reports, and whole runs of made-up libraries.

How nplstm runs a case is tested on the stand-in for CuPy, whose kernels run on the emulator of a device; how torch
does, where torch is installed, on the CPU.
"""

import json
import math
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import require
from cuda_on_cpu import compiler

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cases, figures, sanitize, small, verify, with_nplstm, workbench
from benchmarks.gpu import session as sessions
from benchmarks.gpu.cases import KINDS, PRECISIONS, Case, UnknownTermError, cases_of, rounded, select
from benchmarks.gpu.check import TOLERANCES, WrongResultError, differences, relative_difference
from benchmarks.gpu.library import Library, Meter, MissingError, Prepared, is_out_of_memory, seconds_waited
from benchmarks.gpu.measure import DeviceLostError, measure
from benchmarks.gpu.model import modelled
from benchmarks.gpu.report import write_report, write_summary, wrong
from benchmarks.gpu.session import Deadline, Options, Session, new_run
from benchmarks.gpu.verify import Shape
from benchmarks.gpu.workbench import Workbench
from nplstm.backends._cuda import Device
from nplstm.engines.cuda.crossover import fused_step
from nplstm.engines.cuda.plan import Problem, find_plan
from nplstm.errors import BackendUnavailableError

ROOT = Path(__file__).parent.parent

H100 = Device("H100", (9, 0), multiprocessors=132, block_memory=232448)

ALL = [name for name in PRECISIONS if name != "bfloat16"]


@pytest.fixture
def emulator():
    if reason := compiler():
        require("g++", reason)


# ---------------------------------------------------------------------- cases


def test_the_table_is_what_was_asked_for():
    table = cases_of("table", ALL)
    assert len(set(table)) == len(table) == 3 * 4 * 6 * 2 * 3
    assert {case.T for case in table} == {512}
    assert {case.B for case in table} == {1, 16, 64, 256}
    assert {case.H for case in table} == {64, 128, 256, 512, 1024, 2048}
    assert {(case.layers, case.bidirectional) for case in table} == {(1, False), (4, False), (2, True)}
    assert {case.task for case in table} == {"forward", "training"}
    assert {case.kind for case in table} == set(KINDS)


def test_single_layers_come_first():
    kinds = [case.kind for case in cases_of("table", ALL)]
    assert kinds == sorted(kinds, key=list(KINDS).index)


def test_where_cudnn_persists():
    found = {(case.B, case.H) for case in cases_of("table", list(PRECISIONS)) if case.cudnn_persists}
    assert found == {(B, H) for B in (16, 64) for H in (128, 256, 512, 1024)}
    inside = Case("table", "forward", "float16", 128, 1024)
    assert inside.cudnn_persists
    for other in (
        dict(precision="tf32"),
        dict(layers=2),
        dict(bidirectional=True),
        dict(H=1152),
        dict(H=192),
        dict(B=12),
        dict(B=136),
    ):
        assert not replace(inside, **other).cudnn_persists


def test_steps_of_a_stream_are_counted_singly():
    streaming = cases_of("streaming", ["float32"])
    assert [(case.H, case.task) for case in streaming] == [
        (H, task) for H in (64, 128, 256, 512) for task in ("step", "latency")
    ]
    assert {case.steps for case in streaming} == {1}
    assert Case("table", "training", "tf32", 1, 2).steps == 512


def test_quick_cases_are_among_all_and_of_each_kind():
    for part in cases.PARTS:
        quick, whole = cases_of(part, ALL, quick=True), cases_of(part, ALL)
        assert quick
        assert set(quick) < set(whole)
    assert {case.kind for case in cases_of("table", ALL, quick=True)} == set(KINDS)
    assert len(cases_of("table", ALL, quick=True)) <= 40


def test_cases_are_selected_by_terms():
    table = cases_of("table", ALL)
    found = select(table, ["B=16", "B=64", "tf32", "4-layer"])
    assert {case.B for case in found} == {16, 64}
    assert {case.precision for case in found} == {"tf32"}
    assert {case.kind for case in found} == {"4-layer"}
    assert {case.task for case in found} == {"forward", "training"}
    assert select(table, []) == table
    with pytest.raises(UnknownTermError, match="B=17"):
        select(table, ["B=17"])


def test_weights_and_inputs_are_numbers_that_the_precision_has():
    case = Case("table", "training", "float16", 3, 5, T=7, layers=2, bidirectional=True)
    weights = case.weights()
    assert weights["weight_ih_l1_reverse"].shape == (20, 10)
    assert {array.dtype for array in weights.values()} == {np.dtype("float16")}
    assert case.input().shape == (7, 3, 5)
    assert case.cotangent().shape == (7, 3, 10)
    assert case.input().dtype == np.float16
    np.testing.assert_array_equal(replace(case, task="forward").input(), case.input())
    assert not np.array_equal(case.input(), case.cotangent()[..., :5])
    assert np.abs(Case("table", "forward", "tf32", 1, 4).weights()["weight_hh_l0"]).max() <= 0.5


def test_no_two_sequences_are_the_same():
    x = Case("table", "forward", "tf32", 64, 512).input()
    assert x.size > cases._POOL
    assert len(np.unique(x[:, :, 0])) > 0.99 * 512 * 64


def test_rounding_to_bfloat16():
    values = np.array([1.0, 1 + 2.0**-9, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 3.14159274, 0.0], np.float32)
    expected = np.array([1.0, 1.0, 1 + 4 * 2.0**-8, -1.0, 3.140625, 0.0], np.float32)
    np.testing.assert_array_equal(rounded(values, "bfloat16"), expected)
    assert rounded(values, "tf32") is values


# ---------------------------------------------------------------------- checks


def test_a_difference_is_relative_to_the_norm():
    expected = np.array([3.0, 4.0])
    assert relative_difference(np.array([3.0, 4.05]), expected) == pytest.approx(0.01)
    assert relative_difference(expected, expected) == 0.0
    assert relative_difference(np.ones(2), np.zeros(2)) == math.inf
    assert relative_difference(np.full(4, 0.01), np.zeros(4), least=0.1) == pytest.approx(0.1)
    assert math.isnan(relative_difference(np.array([np.nan]), np.ones(1)))


def test_a_difference_is_taken_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 7, 11))
    whole = relative_difference(a, b)
    monkeypatch.setattr("benchmarks.gpu.check._AT_ONCE", 10)
    assert relative_difference(a, b) == pytest.approx(whole)
    assert whole == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (dict(a=np.full(3, 1.1)), r"a: differs by 1\.0e-01"),
        (dict(a=np.array([1.0, np.nan, 1.0])), "a: differs by nan"),
        (dict(a=np.ones(4)), r"a: expected the shape \(3,\), got \(4,\)"),
        (dict(b=np.ones(3)), r"expected the results \['a'\], got \['b'\]"),
    ],
)
def test_what_differs_is_wrong(found, match):
    assert differences(dict(a=np.ones(3)), dict(a=np.ones(3)), 1e-5) == {"a": 0.0}
    with pytest.raises(WrongResultError, match=match):
        differences(found, dict(a=np.ones(3)), 1e-5)


def test_each_library_runs_out_of_memory_in_its_own_words():
    named = type("OutOfMemoryError", (Exception,), {})
    for error in (
        named("x"),
        MemoryError(),
        RuntimeError("CUDA out of memory"),
        RuntimeError("CUDNN_ALLOC_FAILED"),
    ):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("an illegal memory access was encountered"))


# ---------------------------------------------------------------------- the model


def test_the_model_of_a_layer_is_its_steps_and_the_products_around_them():
    case = Case("table", "forward", "tf32", 16, 256)
    problem = Problem("forward", "tf32", 16, 256, 1, False)
    step = min(find_plan(problem, H100).step, fused_step(problem))
    assert modelled(case, H100) == pytest.approx(step + 8 * 16 * 256 * 256 / 250e6)


def test_the_model_of_what_does_not_fit_is_step_by_step():
    case = Case("table", "forward", "float32", 256, 2048)
    problem = Problem("forward", "float32", 256, 2048, 1, False)
    assert find_plan(problem, H100) is None
    assert modelled(case, H100) > fused_step(problem)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_model_grows_with_what_is_done(precision):
    one = Case("table", "forward", precision, 16, 128)
    more = [replace(one, task="training"), replace(one, bidirectional=True, layers=2), replace(one, layers=4)]
    assert all(modelled(case, H100) > modelled(one, H100) for case in more)
    assert modelled(replace(one, layers=4), H100) < 4 * modelled(one, H100)  # each a step behind the one below


# ---------------------------------------------------------------------- made-up libraries


class MadeUpMeter(Meter):
    """Tells what a made-up call says that it takes."""

    def __init__(self):
        self.lost = False

    def seconds(self, call, calls):
        return sum(call() for _ in range(calls))

    def peak_bytes(self, call):
        return call.bytes

    def wait(self):
        if self.lost:
            raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    def release(self):
        self.wait()


class Call:
    def __init__(self, seconds, peak):
        self.spent, self.bytes = seconds, peak

    def __call__(self):
        return self.spent


class MadeUp(Library):
    """A library whose steps take so many microseconds, by case; ``fails`` raises, or changes results, by case."""

    def __init__(self, name, us, *, meter=None, peak=100, fails=None, engine="", ways=("",)):
        self.name, self.meter = name, meter or MadeUpMeter()
        self._us, self._peak, self._fails, self._engine, self._ways = us, peak, fails, engine, ways
        self.inside, self.prepared = [], []

    def facts(self):
        return {self.name: "1.0"}

    @contextmanager
    def settings(self, case):
        self.inside.append(case.precision)
        yield

    def prepare(self, case):
        self.prepared.append(case)
        changed = self._fails(self, case) if self._fails else 0.0
        us = self._us(case) if callable(self._us) else self._us
        results = {"output": np.ones(5) + changed}
        call = Call(us * case.steps / 1e6, self._peak)
        return {self.name + way: Prepared(call, lambda: results, self._engine, ("a note",)) for way in self._ways}

    def choice(self, case):
        return "persistent" if case.B < 64 else "fused"


class OutOfMemoryError(Exception):
    pass


BOTH = "nplstm", "torch"


def run_case(ours, theirs=None, case=None, **options):
    case = case or Case("table", "forward", "tf32", 16, 256)
    libraries = [theirs or MadeUp("torch", 6.0), ours]
    return measure(case, libraries, **(dict(seconds=0.05, slack=1.0, device=H100) | options))


def test_a_case_is_timed():
    record = run_case(MadeUp("nplstm", 2.0, engine="persistent", peak=90))
    assert record["outcome"] == "timed"
    assert record["values"]["nplstm"]["runs"] >= 5
    assert figures.microseconds(record, "nplstm") == pytest.approx(2.0)
    assert figures.ratio(record) == pytest.approx(3.0)
    assert figures.spread(record) == pytest.approx(0.0)
    assert figures.memory_ratio(record) == pytest.approx(0.9)
    assert figures.share(record) == pytest.approx(record["model_us"] / 2.0)
    assert record["engines"] == {"torch": "", "nplstm": "persistent"}
    assert record["notes"]["nplstm"] == ["a note"]
    assert record["differences"] == {"nplstm": {"output": 0.0}}
    json.dumps(record)


def test_turns_are_long_enough_and_alternate():
    order = []

    class Watched(MadeUpMeter):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def seconds(self, call, calls):
            order.append((self.name, calls * call()))
            return super().seconds(call, calls)

    run_case(MadeUp("nplstm", 2.0, meter=Watched("nplstm")), MadeUp("torch", 3.0, meter=Watched("torch")))
    names = [name for name, _ in order[-10:]]
    assert names == ["torch", "nplstm"] * 5
    assert all(spent >= 0.01 for _, spent in order[-10:])


def test_everything_happens_in_the_settings_of_the_precision():
    ours = MadeUp("nplstm", 2.0)
    run_case(ours)
    assert set(ours.inside) == {"tf32"}
    assert len(ours.inside) >= 2 + 5 + 1  # to prepare, for the results, for turns, for the memory


def test_what_disagrees_is_not_timed():
    record = run_case(MadeUp("nplstm", 2.0, fails=lambda library, case: 1e-2))
    assert record["outcome"] == "wrong"
    assert record["refused"]["nplstm"].startswith("WRONG: output: differs by 1.0e-02")
    assert record["values"] == record["memory"] == {}
    loose = run_case(MadeUp("nplstm", 2.0, fails=lambda library, case: 1e-2), slack=10.0)
    assert loose["outcome"] == "timed"


def test_tolerances_are_those_of_the_precision():
    for precision, tolerance in TOLERANCES.items():
        case = Case("table", "forward", precision, 1, 64)
        for share, outcome in ((0.5, "timed"), (2.0, "wrong")):
            ours = MadeUp("nplstm", 1.0, fails=lambda library, case, by=share * tolerance: by)
            assert run_case(ours, case=case)["outcome"] == outcome


def raising(error):
    def fail(library, case):
        raise error

    return fail


def test_out_of_memory_is_recorded():
    for name in BOTH:
        made = {n: MadeUp(n, 1.0, fails=raising(OutOfMemoryError("no")) if n == name else None) for n in BOTH}
        record = run_case(made["nplstm"], made["torch"])
        assert record["outcome"] == "out of memory"
        assert record["refused"] == {name: "out of memory: no"}
        assert record["values"] == {}


def test_out_of_memory_while_the_memory_is_measured():
    class Small(MadeUpMeter):
        def peak_bytes(self, call):
            raise OutOfMemoryError("just so")

    record = run_case(MadeUp("nplstm", 2.0, meter=Small()))
    assert record["outcome"] == "timed"
    assert record["memory"] == {"torch": 100}
    assert figures.memory_ratio(record) is None
    assert "just so" in record["refused"]["nplstm"]


def test_an_error_of_a_library_is_told():
    record = run_case(MadeUp("nplstm", 1.0, fails=raising(ValueError("it broke\nin many lines"))))
    assert record["outcome"] == "failed"
    assert record["refused"] == {"nplstm": "ValueError: it broke"}


def test_an_error_in_the_midst_of_timing_is_told():
    class Flaky(MadeUpMeter):
        def seconds(self, call, calls):
            raise ValueError("gave up waiting")

    record = run_case(MadeUp("nplstm", 1.0, meter=Flaky()))
    assert record["outcome"] == "failed"
    assert "gave up waiting" in record["refused"]["torch and nplstm"]


def lose(library, case):
    library.meter.lost = True
    raise RuntimeError("launch failed")


def test_a_device_that_is_lost_ends_it():
    with pytest.raises(DeviceLostError, match="launch failed; then cudaErrorIllegalAddress"):
        run_case(MadeUp("nplstm", 1.0, fails=lose))
    ours = MadeUp("nplstm", 1.0)
    ours.meter.lost = True
    with pytest.raises(DeviceLostError, match="IllegalAddress"):
        run_case(ours)


def test_engines_that_refuse_are_left_out_of_a_comparison():
    from nplstm.errors import ArgumentError

    libraries = [
        MadeUp("persistent", 1.0, fails=raising(ArgumentError("does not fit"))),
        MadeUp("fused", 2.0),
        MadeUp("plain", 3.0),
    ]
    case = Case("engines", "forward", "tf32", 1, 64)
    record = measure(case, libraries, seconds=0.01, slack=1.0, device=None)
    assert record["outcome"] == "timed"
    assert set(record["values"]) == {"fused", "plain"}
    assert record["memory"] == {}
    assert record["model_us"] is None
    assert figures.fastest(record) == "fused"


def test_latency_is_taken_by_the_clock_of_the_host():
    class Slow(MadeUpMeter):
        waits = 0

        def wait(self):
            self.waits += 1
            time.sleep(1e-4)

    meter = Slow()
    assert seconds_waited(meter, lambda: None, 3) >= 3e-4
    assert meter.waits == 3
    case = Case("streaming", "latency", "float32", 1, 64, T=5)
    record = run_case(MadeUp("nplstm", 1.0, meter=Slow()), case=case, seconds=0.001)
    assert record["values"]["nplstm"]["median"] >= 1e-4
    assert record["memory"] == {}


# ---------------------------------------------------------------------- whole runs

PLACE = {
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "abc1234",
    "gpu": "Made Up 100",
    "multiprocessors": 132,
    "gpu_memory_bytes": 80 * 2**30,
    "torch": "2.0",
    "cuDNN": "9.1.0",
    "CuPy": "14.0",
    "nplstm": "0.1",
    "driver": "600.1",
}


def made_bench(rival=None, ours=None, **said):
    made = {}

    def engine(engines, name):
        us = {"persistent": 2.0, "fused": 3.0, "plain": 50.0}
        if name in us:
            return MadeUp(name, lambda case: us[name] * (case.B if name == "persistent" else 1), engine=name)
        return made.setdefault(name, ours or MadeUp(name, 2.0, engine="persistent"))

    rival = rival or MadeUp("torch", lambda case: 8.0 if case.B < 256 else 1.5, ways=("",))
    clocks = {"driver": "600.1", "SM clock, MHz": "1980"}
    return Workbench(rival, engine, H100, lambda: dict(PLACE), lambda: clocks, **(dict(backend="strict") | said))


def run_session(
    bench=None, *, parts=("table", "streaming"), budget=None, clock=time.monotonic, run=None, **options
):
    run = run or new_run(dict(PLACE))
    saved = []
    chosen = Options(parts, options.pop("precisions", ["tf32"]), seconds=0.001, **options)
    session = Session(bench or made_bench(), chosen, Deadline(budget, clock), run, lambda r: saved.append(len(r)))
    session.go()
    assert saved
    json.loads(json.dumps(run))
    return run


def test_a_whole_run(capsys):
    run = run_session(quick=True, precisions=ALL)
    records = run["records"]
    assert len(records) == 36 + 4
    assert {record["outcome"] for record in records} == {"timed"}
    assert run["left_out"] == []
    assert not wrong(run)
    assert run["clocks_after"]["SM clock, MHz"] == "1980"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 40  # one for each row: what is to be seen of how far it is
    assert any("torch/nplstm 4.00 (persistent)" in line for line in lines)


def test_a_wrong_result_in_a_whole_run():
    ours = MadeUp("nplstm", 2.0, fails=lambda library, case: 0.5 * (case.H == 512))
    run = run_session(made_bench(ours=ours), parts=("table",), quick=True)
    assert [r["label"] for r in run["records"] if r["outcome"] == "wrong"] == ["1-layer B=64 H=512"] * 2
    assert wrong(run)
    assert "WRONG: output: differs by 5.0e-01" in write_summary(run)


def test_out_of_memory_in_a_whole_run():
    def fails(library, case):
        if case.H == 1024:
            raise OutOfMemoryError("of 80 GiB none is left")
        return 0.0

    run = run_session(made_bench(ours=MadeUp("nplstm", 2.0, fails=fails)), parts=("table",), quick=True)
    assert [r["outcome"] for r in run["records"]].count("out of memory") == 2
    assert not wrong(run)  # the machine is small, and that is all
    assert "none is left" in write_summary(run)


def test_the_budget_runs_out():
    now = iter(range(1000))
    run = run_session(parts=("table", "streaming"), budget=10, clock=lambda: next(now), quick=True)
    assert len(run["records"]) == 9
    assert len(run["left_out"]) == 12 - 9 + 4
    assert run["left_out"][0] == "table: tf32 training 2-layer-bidirectional B=16 H=256"
    assert "streaming: float32 step 1-layer B=1 H=128" in run["left_out"]
    assert f"**Left out**, since the time was out or the device was lost: {len(run['left_out'])}" in write_report(
        run
    )
    assert not wrong(run)


def test_checks_are_left_out_when_the_time_is_out():
    run = run_session(parts=("verify", "soak", "sanitize"), budget=0, quick=True)
    assert run["left_out"] == [*(f"verify: {shape}" for shape in verify.SMALL), "soak", "sanitize"]


def test_a_run_is_gone_on_with():
    now = iter(range(1000))
    run = run_session(parts=("table",), budget=5, clock=lambda: next(now), quick=True)
    first = [r["case"] for r in run["records"]]
    ours = MadeUp("nplstm", 2.0)
    run = run_session(made_bench(ours=ours), parts=("table",), quick=True, run=run)
    assert run["left_out"] == []
    assert len(run["records"]) == 12
    assert [r["case"] for r in run["records"]][: len(first)] == first
    assert not {json.dumps(case) for case in first} & {json.dumps(c.as_dict()) for c in ours.prepared}


def test_what_went_wrong_is_tried_again():
    run = run_session(made_bench(ours=MadeUp("nplstm", 2.0, fails=raising(ValueError("x")))), quick=True)
    assert wrong(run)
    run = run_session(quick=True, run=run)
    assert not wrong(run)
    assert len(run["records"]) == 12 + 4


def test_a_lost_device_ends_the_run():
    ours = MadeUp("nplstm", 2.0, fails=lambda library, case: lose(library, case) if case.H == 512 else 0.0)
    run = run_session(made_bench(ours=ours), quick=True)
    assert "launch failed" in run["stopped"]
    assert wrong(run)
    assert run["clocks_after"] == {}
    assert len(run["records"]) + len(run["left_out"]) + 1 == 12 + 4
    assert "**stopped**" in write_summary(run)


def test_ways_of_a_stream_are_beside_each_other():
    bench = made_bench(MadeUp("torch", 40.0, ways=("", ", graph")), MadeUp("nplstm", 5.0))
    text = write_summary(run_session(bench, parts=("streaming",), quick=True))
    assert "| H | what | torch | torch, graph | nplstm | torch / nplstm | torch, graph / nplstm |" in text
    assert "| 128 | step | 40 | 40 | 5 | 8.00 | 8.00 |" in text


def test_engines_are_compared_alone():
    run = run_session(parts=("engines",), quick=True)
    assert set(run["records"][0]["values"]) == {"torch", "persistent", "fused", "plain"}
    (_, _, rows), *_ = figures.by_engine(run["records"])
    # made up: "persistent" takes 2 us for each sequence, "fused" 3 us; the choice changes at B = 64
    assert list(figures.overtaken(rows)) == [(256, 64, 64), (1024, 256, 256)]
    text = write_report(run)
    assert "| 256 | 64 | 64 | 0 |" in text
    assert "### Engines: tf32, forward, us a step" in text


def test_engines_are_compared_without_torch():
    bench = made_bench()._replace(rival=None)
    run = run_session(bench, parts=("engines",), quick=True)
    assert set(run["records"][0]["values"]) == {"persistent", "fused", "plain"}
    assert not wrong(run)


def test_a_bar_is_shown_at_a_terminal(monkeypatch):
    written = []

    class Bar:
        def __new__(cls, items, desc):
            written.append(f"bar {desc}")
            return items

        @staticmethod
        def write(line):
            written.append(line)

    monkeypatch.setattr(sessions, "terminal_bar", lambda waiting: Bar)
    run_session(parts=("streaming",), quick=True)
    assert written[0] == "bar streaming"
    assert len(written) == 5


# ---------------------------------------------------------------------- figures


def record_of(case, ours, theirs, *, memory=(100, 100), outcome="timed"):
    values = {"torch": theirs, "nplstm": ours}
    medians = {name: us * case.steps / 1e6 for name, us in values.items()}
    summary = {name: dict(median=m, q1=m, q3=1.02 * m, runs=5) for name, m in medians.items()}
    return dict(
        part=case.part,
        task=case.task,
        label=case.label,
        case=case.as_dict(),
        steps=case.steps,
        seconds=1.0,
        model_us=1.0,
        values=summary,
        engines={"nplstm": "fused"},
        chosen="fused",
        notes={},
        differences={},
        memory=dict(zip(("nplstm", "torch"), memory, strict=True)),
        refused={},
        outcome=outcome,
    )


def full(ratio_of, precisions=ALL, **said):
    return [record_of(case, 1.0, ratio_of(case), **said) for case in cases_of("table", precisions)]


def test_means_are_geometric_and_by_kind():
    records = full(lambda case: 4.0 if case.B == 1 else 1.0 if case.B == 16 else 0.5, ["tf32"])
    found = {(s.task, s.kind): s for s in figures.summaries(records)}
    assert len(found) == 2 * 4
    whole = found["forward", "all"]
    assert whole.mean == pytest.approx(1.0)
    assert (len(whole.ratios), whole.below(1), whole.below(0.5)) == (72, 36, 0)
    assert len(found["training", "4-layer"].ratios) == 24


def test_targets_that_are_met():
    found = figures.targets(full(lambda case: 0.8 if case.cudnn_persists else 1.0))
    assert all(target.met for target in found)
    assert all(target.rows == target.of for target in found)
    assert sum(target.of for target in found[:-2]) == 432
    assert found[2].of == 8  # where cuDNN persists: B 16 and 64, four sizes
    assert found[-1].value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("slow", "missed"),
    [
        (lambda case: case.precision == "tf32" and case.task == "training", "tf32, forward + backward"),
        (lambda case: case.precision == "float32" and case.task == "forward", "float32, forward"),
        (lambda case: case.precision == "float16" and not case.cudnn_persists, "float16 elsewhere, forward"),
        (lambda case: case.cudnn_persists, "float16 where cuDNN persists, forward"),
    ],
)
def test_a_target_that_is_missed(slow, missed):
    found = {t.words: t for t in figures.targets(full(lambda case: 0.79 if slow(case) else 1.5))}
    assert found[missed].met is False
    assert found["the worst row"].met
    other = "tf32, forward" if "tf32" not in missed else "float32, forward"
    assert found[other].met


def test_the_worst_row_and_the_most_memory():
    records = full(lambda case: 0.49 if (case.B, case.H, case.kind) == (64, 64, "4-layer") else 2.0, ["tf32"])
    records[3]["memory"] = dict(nplstm=130, torch=100)
    found = {target.words: target for target in figures.targets(records)}
    assert (found["the worst row"].value, found["the worst row"].met) == (pytest.approx(0.49), False)
    assert (found["peak memory"].value, found["peak memory"].met) == (pytest.approx(1.3), False)
    assert found["float32, forward"].met is None  # not measured
    text = write_summary(dict(new_run(PLACE), records=records))
    assert "- peak memory: <= torch's: **not met** (1.30, by 144 of 432 rows)" in text
    assert "- float32, forward: geometric mean >= 1.0: **not measured**" in text
    assert "- tf32, forward: geometric mean >= 1.0: met (1.96, by 72 of 72 rows)" not in text
    assert "- tf32, forward: geometric mean >= 1.0: met (1.96)" in text
    assert "More memory than torch in 1 rows, at most 1.30 times: tf32, training, " not in text
    assert "More memory than torch in 1 rows, at most 1.30 times: tf32, forward + backward, " in text


def test_bfloat16_counts_for_no_target():
    records = full(lambda case: 0.1 if case.precision == "bfloat16" else 1.0, list(PRECISIONS))
    assert all(target.met for target in figures.targets(records))
    assert figures.losses(records)[0]["case"]["precision"] == "bfloat16"


# ---------------------------------------------------------------------- report


def test_the_report():
    records = full(lambda case: 0.4 if case.B == 256 and case.H == 2048 else 3.0)
    run = dict(new_run(dict(PLACE, **{"SM clock, MHz": "1980"})), records=records)
    text = write_report(run)
    assert "- Made Up 100, 132 multiprocessors, 80 GiB; driver 600.1, SM clock, MHz 1980" in text
    assert "- nplstm 0.1; torch 2.0, cuDNN 9.1.0, CuPy 14.0" in text
    assert "- tf32: float32, TF32 on on both sides" in text
    assert "**Where we lose**: 18 of 432 rows, the worst first:" in text
    assert "| tf32 | forward | 1-layer B=256 H=2048 | 1 | 0.4 | 0.40 ▼ | 2 % | 1.00 | 1.00 | fused |" in text
    assert "| 1-layer B=1 H=64 | 1 | 3 | 3.00 | 2 % | 1.00 | 1.00 | fused |" in text
    assert "### float16, forward + backward" in text
    assert text.startswith(write_summary(run).rstrip("\n"))
    assert "| --- | --- | --- | ---: |" in text


def test_every_row_of_a_table_has_as_many_cells():
    bench = made_bench(MadeUp("torch", 40.0, ways=("", ", graph")))
    run = run_session(bench, parts=("table", "streaming", "engines"), quick=True)
    cells = 0
    for line in write_report(run).splitlines():
        if not line.startswith("|"):
            cells = 0
        assert not cells or line.count("|") == cells, line
        cells = line.count("|") if line.startswith("|") else 0


def test_many_losses_are_cut_short():
    text = write_summary(dict(new_run(PLACE), records=full(lambda case: 0.9)))
    assert "**Where we lose**: 432 of 432 rows" in text
    assert "and 392 more, which are among all rows." in text


def test_loose_tolerances_are_told():
    assert "**tolerances were multiplied by 3**" in write_summary(run_session(parts=("streaming",), slack=3.0))


def test_what_was_checked_is_told():
    run = new_run(PLACE)
    bad = dict(shape="T=1 B=1 I=1 H=1", precision="tf32", engine="fused", outcome="WRONG", reason="h_n differs")
    run["verify"] = [bad, dict(bad, outcome="right"), dict(bad, outcome="refused")]
    run["soak"] = dict(rounds=7, runs=14, outcome="right")
    run["sanitize"] = [dict(tool="memcheck", outcome="WRONG", reason="line 1\nline 2")]
    text = write_summary(run)
    assert "- beside a float64 loop: 1 right, 1 refused, 1 WRONG" in text
    assert "  - **WRONG**: fused tf32 T=1 B=1 I=1 H=1: h_n differs" in text
    assert "- soak: 7 rounds without a hang or another bit" in text
    assert "- compute-sanitizer, memcheck: WRONG: line 1 / line 2" in text
    assert wrong(run)
    run["verify"], run["sanitize"] = [], []
    assert not wrong(run)
    run["soak"] = dict(rounds=7, outcome="WRONG", reason="other bits")
    assert wrong(run)
    assert "- soak: **WRONG**: other bits" in write_summary(run)


# ---------------------------------------------------------------------- the command


@pytest.fixture
def bench(monkeypatch):
    """Have the command find a made-up workbench; what it was asked for is in the list."""
    asked = []
    made = made_bench()

    def find(*, rival):
        asked.append(rival)
        return made

    monkeypatch.setattr(command, "find_workbench", find)
    return asked


def test_the_command_writes_json_and_markdown(bench, tmp_path, capsys):
    files = "--json", str(tmp_path / "new" / "gpu.json"), "--markdown", str(tmp_path / "gpu.md")
    assert command.main(["--quick", "--precisions", "tf32", *files]) == 0
    run = json.loads((tmp_path / "new" / "gpu.json").read_text(encoding="utf-8"))
    assert len(run["records"]) == 16
    assert run["places"][0]["gpu"] == "Made Up 100"
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8") == write_report(run)
    assert "**Targets**" in capsys.readouterr().out
    assert bench == [True]


def test_an_earlier_run_is_reported_again(bench, tmp_path, capsys):
    saved = tmp_path / "gpu.json"
    command.main(["--quick", "--json", str(saved)])
    capsys.readouterr()
    assert command.main(["--report-only", str(saved), "--markdown", str(tmp_path / "gpu.md")]) == 0
    run = json.loads(saved.read_text(encoding="utf-8"))
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8") == write_report(run)
    assert bench == [True]


def test_the_command_goes_on_with_a_run(bench, tmp_path):
    saved = str(tmp_path / "gpu.json")
    common = "--quick", "--precisions", "tf32", "--json", saved, "--resume", saved
    assert command.main([*common, "--budget", "0"]) == 0
    assert len(json.loads(Path(saved).read_text(encoding="utf-8"))["left_out"]) == 16
    assert command.main([*common]) == 0
    run = json.loads(Path(saved).read_text(encoding="utf-8"))
    assert len(run["records"]) == 16
    assert run["left_out"] == []
    assert len(run["places"]) == 2


def test_a_run_of_another_machine_is_not_gone_on_with(bench, tmp_path, capsys):
    saved = tmp_path / "gpu.json"
    saved.write_text(json.dumps(new_run(dict(PLACE, gpu="Other 7"))), encoding="utf-8")
    assert command.main(["--resume", str(saved)]) == 2
    assert "gpu: Other 7 and Made Up 100" in capsys.readouterr().err


def test_a_run_that_is_interrupted_is_written(bench, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    saved = tmp_path / "gpu.json"
    monkeypatch.setattr(sessions, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.main(["--quick", "--json", str(saved)])
    assert json.loads(saved.read_text(encoding="utf-8"))["records"] == []


def test_the_parts_that_are_asked_for():
    def parts(*given):
        return list(command._options(command._parser().parse_args(given)).parts)

    assert parts() == ["table", "streaming"]
    assert parts("--verify", "--engines") == ["verify", "soak", "sanitize", "table", "streaming", "engines"]
    assert parts("--only", "soak", "verify") == ["verify", "soak"]
    quick = command._options(command._parser().parse_args(["--quick"]))
    assert quick.seconds < 0.25
    assert quick.soak == 5.0
    assert list(quick.precisions) == ["float32", "tf32", "float16"]


def test_torch_is_not_needed_for_what_has_no_rival(bench, monkeypatch):
    monkeypatch.setattr(sessions, "sanitize", lambda seconds: [])
    assert command.main(["--only", "sanitize"]) == 0
    assert bench == [False]


@pytest.mark.parametrize("given", [("--cases", "B=17"), ("--precisions", "int8"), ("--only", "nothing")])
def test_arguments_that_mean_nothing(given, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([*given])
    assert ended.value.code == 2
    assert given[1] in capsys.readouterr().err


def test_what_is_missing_is_one_line(monkeypatch, capsys):
    def missing(*, rival):
        raise MissingError("there is no GPU")

    monkeypatch.setattr(command, "find_workbench", missing)
    assert command.main([]) == 2
    assert capsys.readouterr().err == "benchmarks.gpu: there is no GPU\n"


# ---------------------------------------------------------------------- the workbench


def test_without_cupy(monkeypatch):
    def unavailable(name):
        raise BackendUnavailableError("backend 'cupy': CuPy is not installed")

    monkeypatch.setattr(workbench, "get_backend", unavailable)
    monkeypatch.setenv("CUPY_TF32", "1")
    with pytest.raises(MissingError, match="CuPy is not installed"):
        workbench.find_workbench(rival=True)
    assert "CUPY_TF32" not in workbench.os.environ  # or float32 would be rounded


@pytest.mark.parametrize(
    ("torch", "match"),
    [
        (None, "torch is not installed"),
        (dict(gpu=False, cudnn=True), "torch 2.0 is installed but finds no GPU"),
        (dict(gpu=True, cudnn=False), "without cuDNN"),
    ],
)
def test_without_a_torch_that_can(monkeypatch, torch, match):
    def import_module(name):
        if torch is None:
            raise ImportError("No module named 'torch'")
        return SimpleNamespace(
            __version__="2.0",
            cuda=SimpleNamespace(is_available=lambda: torch["gpu"]),
            backends=SimpleNamespace(cudnn=SimpleNamespace(is_available=lambda: torch["cudnn"])),
        )

    monkeypatch.setattr(workbench, "import_module", import_module)
    with pytest.raises(MissingError, match=match) as caught:
        workbench._find_torch(needed=True)
    assert "\n" not in str(caught.value)
    assert workbench._find_torch(needed=False) is None


def test_the_workbench_of_a_machine(monkeypatch, tmp_path):
    import strict_backend

    import nplstm.backends

    cuda = SimpleNamespace(
        MemoryHook=object,
        Device=lambda: SimpleNamespace(id=0, compute_capability="90", pci_bus_id="0000:00:04.0"),
        Stream=SimpleNamespace(null="first"),
        runtime=SimpleNamespace(
            getDeviceProperties=lambda number: dict(
                name=b"Made Up 100", multiProcessorCount=132, totalGlobalMem=2**30
            ),
            driverGetVersion=lambda: 13020,
            runtimeGetVersion=lambda: 12090,
        ),
    )

    class Namespace(strict_backend.StrictNamespace):
        __version__ = "14.0"

    class Fake(strict_backend.StrictBackend):
        name, xp = "cupy", Namespace()

    Fake.xp.cuda = cuda
    program = script(tmp_path / "nvidia-smi", 'echo "580.1, 1980, 1980, 3201, 200.5, 700.0, 45"')
    monkeypatch.setitem(sys.modules, "cupy", Fake.xp)
    monkeypatch.setitem(nplstm.backends._LOADED, "cupy", Fake())
    monkeypatch.setattr(workbench.shutil, "which", lambda name: program)
    monkeypatch.setattr(workbench, "_find_torch", lambda *, needed: None)
    found = workbench.find_workbench(rival=False)
    place = found.describe() | found.clocks()
    assert (place["gpu"], place["driver"], place["CuPy"]) == ("Made Up 100", "580.1", "14.0")
    assert (place["CUDA of the driver"], place["CUDA of CuPy"]) == ("13.2", "12.9")
    assert found.rival is None
    assert found.device == Fake().cuda.device()
    assert found.ours(["fused"], "one").name == "one"
    text = write_summary(new_run(place))
    assert "Made Up 100, 132 multiprocessors, 1 GiB; driver 580.1, SM clock, MHz 1980" in text


def test_places_that_differ():
    assert workbench.same_place(PLACE, dict(PLACE, date="later")) == []
    assert workbench.same_place(PLACE, dict(PLACE, torch="2.1", driver="1")) == [
        "driver: 600.1 and 1",
        "torch: 2.0 and 2.1",
    ]


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_clocks_are_asked_of_nvidia_smi(tmp_path):
    good = script(tmp_path / "good", 'echo "580.1, 1980, 1980, 3201, 200.5, 700.0, 45"')
    found = workbench.read_clocks(good, "0000:00:04.0")
    assert (found["driver"], found["SM clock, MHz"], found["temperature"]) == ("580.1", "1980", "45")
    assert workbench.read_clocks(script(tmp_path / "odd", "echo no devices"), "x") == {}
    assert workbench.read_clocks(script(tmp_path / "bad", "exit 9"), "x") == {}
    assert workbench.read_clocks(str(tmp_path / "none"), "x") == {}


def test_the_driver_is_read_where_there_is_no_nvidia_smi(tmp_path):
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
    (tmp_path / "version").write_text(text, encoding="utf-8")
    assert workbench.read_driver(tmp_path / "version") == "580.95.05"
    assert workbench.read_driver(tmp_path / "none") == "unknown"


def test_nothing_is_imported_that_may_not_be_there():
    modules = "__main__ sanitize small verify workbench report session with_nplstm".split()
    code = "; ".join(f"import benchmarks.gpu.{name}" for name in modules)
    code += "; import sys; print([name for name in ('cupy', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_memory_of_cupy_is_followed_by_a_hook(monkeypatch):
    held = []

    class Hook:
        def __enter__(self):
            held.append(self)
            return self

        def __exit__(self, *_):
            held.remove(self)

    def call():
        (hook,) = held
        for event, size in (("malloc", 512), ("malloc", 1024), ("free", 512), ("malloc", 256), ("free", 2048)):
            said = dict(device_id=0, mem_size=size, mem_ptr=1, pmem_id=2) | (
                {"size": size} if event == "malloc" else {}
            )
            getattr(hook, f"{event}_postprocess")(**said)

    class Event:
        def record(self):
            times.append(len(times))

        def synchronize(self):
            pass

    times, device = [], SimpleNamespace(synchronize=lambda: None)
    pool = SimpleNamespace(used_bytes=lambda: 4096, free_all_blocks=lambda: None)
    cuda = SimpleNamespace(
        MemoryHook=Hook, Device=lambda: device, Event=Event, get_elapsed_time=lambda start, end: 5.0
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool))
    meter = with_nplstm.CupyMeter()
    assert meter.peak_bytes(call) == 4096 + 1536
    calls = []
    assert meter.seconds(lambda: calls.append(len(times)), 3) == pytest.approx(5e-3)
    assert calls == [1, 1, 1]  # between the two events
    meter.release()


# ---------------------------------------------------------------------- the libraries


class WallMeter(Meter):
    """By the clock, for what runs on the CPU."""

    def seconds(self, call, calls):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start

    def peak_bytes(self, call):
        call()
        return 1

    def wait(self):
        pass

    def release(self):
        pass


TINY = [
    Case("table", "forward", "float32", 3, 5, T=7),
    Case("table", "training", "float32", 3, 5, T=7, layers=2, bidirectional=True),
    Case("table", "training", "tf32", 2, 5, T=3, layers=4),
    Case("table", "training", "float16", 2, 5, T=3),
    Case("table", "forward", "bfloat16", 2, 5, T=3),
    Case("streaming", "step", "float32", 1, 5, T=5),
    Case("streaming", "latency", "float32", 1, 5, T=5),
]


def ours_on(backend, *engines):
    return with_nplstm.Nplstm(WallMeter(), engines, backend=backend)


def hosted(library, results):
    return {name: library._backend.to_numpy(array) for name, array in results.items()}


@pytest.mark.parametrize("case", TINY, ids=str)
def test_nplstm_runs_a_case(case, emulator):
    ours, plain = ours_on("strict", "persistent", "fused", "plain"), ours_on("numpy", "plain")
    exact = replace(case, precision="float32")
    found, expected = [], []
    for library, wanted, into in ((ours, case, found), (plain, exact, expected)):
        with library.settings(wanted):
            (way,) = library.prepare(wanted).values()
            way.call()
            into.append(hosted(library, way.results()))
            assert way.engine in (("plain",) if library is plain else ("persistent", "fused"))
    differences(found[0], expected[0], TOLERANCES[case.precision])


def test_nplstm_computes_in_the_precision_of_the_case(emulator):
    library = ours_on("strict", "persistent")
    for precision in PRECISIONS:
        case = Case("table", "forward", precision, 1, 5, T=3)
        with library.settings(case):
            (way,) = library.prepare(case).values()
        assert f", products in {precision}, " in way.notes[0]


def test_nplstm_keeps_a_layer_for_the_next_case(emulator):
    library = ours_on("strict", "fused")
    case = Case("table", "forward", "tf32", 2, 5, T=3)
    kept = library._layer(case)
    assert library._layer(replace(case, B=7, task="training")) is kept
    assert library._layer(replace(case, precision="float16")) is not kept
    library.forget()
    assert library._kept is None
    assert library.choice(case) == "fused"
    assert set(library.facts()) == {"nplstm", "NumPy"}


def test_an_engine_that_refuses_a_case_is_told(emulator, monkeypatch):
    monkeypatch.setattr("benchmarks.rivals.measure._SPAN", 1e-4)
    case = Case("engines", "forward", "float32", 3, 512, T=3)
    libraries = [
        with_nplstm.Nplstm(WallMeter(), [name], name, "strict") for name in ("plain", "persistent", "fused")
    ]
    record = measure(case, libraries, seconds=0.0, slack=1.0, device=None)
    assert record["outcome"] == "timed"
    assert set(record["values"]) == {"plain", "fused"}
    assert "do not fit" in record["refused"]["persistent"]


@pytest.mark.parametrize("case", TINY, ids=str)
def test_torch_runs_a_case(case, torch_reference, emulator):
    from benchmarks.gpu.with_torch import Torch

    theirs = Torch(WallMeter(), np.from_dlpack, device="cpu")
    plain = ours_on("numpy", "plain")
    exact = replace(case, precision="float32") if case.dtype == "float16" else case
    with theirs.settings(case):
        (way,) = theirs.prepare(case).values()
        way.call()
        found = way.results()
    with plain.settings(exact):
        (ours,) = plain.prepare(exact).values()
        differences(found, ours.results(), TOLERANCES[case.precision])


def test_torch_runs_a_step_from_a_graph(torch_reference, monkeypatch, emulator):
    from benchmarks.gpu import with_torch

    def captured(step):
        output = step().clone()
        return lambda: output.copy_(step()), output

    monkeypatch.setattr(with_torch, "_captured", captured)
    theirs, case = with_torch.Torch(WallMeter(), np.from_dlpack, device="cpu"), TINY[-2]
    with theirs.settings(case):
        graph = theirs._graph(theirs._layer(case), case)
        (step,) = theirs.prepare(case).values()
        for _ in range(2):  # the state of one call is not that of the next
            graph.call()
            differences(graph.results(), step.results(), 1e-6)


def test_a_step_that_cannot_be_captured_is_told_of_alone(torch_reference, monkeypatch):
    from benchmarks.gpu import with_torch

    theirs = with_torch.Torch(WallMeter(), np.from_dlpack, device="cpu")
    layer = theirs._layer(TINY[-1])
    monkeypatch.setattr(theirs, "_device", "cuda")
    monkeypatch.setattr(theirs, "_layer", lambda case: layer)
    monkeypatch.setattr(theirs, "_tensor", lambda values, case: with_torch.torch.from_numpy(values))
    monkeypatch.setattr(with_torch, "_captured", lambda step: raising(RuntimeError("no capture"))(None, None))
    record = run_case(MadeUp("nplstm", 1.0), theirs, TINY[-1], slack=1e9)
    assert record["refused"]["torch, graph"] == "RuntimeError: no capture"
    assert "torch" not in record["refused"]


def test_memory_and_time_are_asked_of_torch(torch_reference, monkeypatch):
    from benchmarks.gpu import with_torch

    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            done.append("record")

        def synchronize(self):
            done.append("end")

        def elapsed_time(self, end):
            return 7.0

    said = dict(Event=Event, synchronize=lambda: None, empty_cache=lambda: done.append("emptied"))
    said |= dict(reset_peak_memory_stats=lambda: done.append("reset"), max_memory_allocated=lambda: 123)
    monkeypatch.setattr(with_torch.torch, "cuda", SimpleNamespace(**said))
    meter = with_torch.TorchMeter()
    assert meter.seconds(lambda: done.append("call"), 2) == pytest.approx(7e-3)
    assert done == ["record", "call", "call", "record", "end"]
    done.clear()
    assert meter.peak_bytes(lambda: done.append("call")) == 123
    meter.release()
    assert done == ["reset", "call", "emptied"]


def test_torch_is_told_whether_it_may_round(torch_reference):
    import torch

    from benchmarks.gpu.with_torch import Torch

    theirs = Torch(WallMeter(), np.from_dlpack, device="cpu")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for precision in PRECISIONS:
        with theirs.settings(Case("table", "forward", precision, 1, 2)):
            allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
            assert allowed == (precision == "tf32",) * 2
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    assert set(theirs.facts()) == {"torch", "cuDNN", "CUDA of torch"}


def test_both_libraries_in_one_run(torch_reference, emulator, monkeypatch):
    from benchmarks.gpu.with_torch import Torch

    def share(tensor):
        return get_strict().asarray(np.from_dlpack(tensor))

    def get_strict():
        return ours_on("strict", "plain")._backend

    monkeypatch.setattr("benchmarks.rivals.measure._SPAN", 1e-4)
    theirs = Torch(WallMeter(), share, device="cpu")
    record = measure(TINY[1], [theirs, ours_on("strict", "persistent")], seconds=0.0, slack=1.0, device=H100)
    assert record["outcome"] == "timed", record["refused"]
    assert set(record["values"]) == {"torch", "nplstm"}


# ---------------------------------------------------------------------- the engines


def test_shapes_are_primes_and_limits():
    sizes = {size for shape in verify.SHAPES for size in (shape.B, shape.I, shape.H)}
    assert all(size == 1 or all(size % n for n in range(2, size)) for size in sizes)
    assert {1} < {shape.T for shape in verify.SHAPES}
    assert any(shape.B == 1 for shape in verify.SHAPES)
    assert any(shape.H == 1 for shape in verify.SHAPES)
    assert any(shape.ragged for shape in verify.SHAPES)
    assert {shape.layers for shape in verify.SHAPES} >= {1, 2, 3, 4}


def test_limits_are_those_of_the_plan():
    found = verify.at_limits(H100)
    wide = {shape.H for shape in found}
    for precision in PRECISIONS:
        fits = [H for H in wide if find_plan(Problem("forward", precision, 3, H, 1, False), H100)]
        assert max(fits) + 1 in wide
    assert max(wide) > 1024


def test_the_engines_are_right(emulator):
    for found in verify.compare(verify.SMALL[:2], "strict", runs=2):
        assert found["outcome"] == "right", found
        assert found["error"] <= TOLERANCES[found["precision"]]


def test_what_does_not_fit_is_refused_and_the_next_engine_is_right(emulator):
    found = list(verify.compare([Shape(1, 1, 2, 257)], "strict", precisions=("tf32",), runs=1))
    assert [one["outcome"] for one in found] == ["refused", "right"]
    assert "do not fit" in found[0]["reason"]


@pytest.mark.parametrize(("factor", "outcome"), [(1 + 1e-6, "right"), (1 + 1e-3, "WRONG"), (np.nan, "WRONG")])
def test_a_wrong_engine_is_seen(monkeypatch, emulator, factor, outcome):
    reference = verify._reference

    def changed(shape, stored):
        return {n: a * (factor if n == "grad_h_0" else 1.0) for n, a in reference(shape, stored).items()}

    monkeypatch.setattr(verify, "_reference", changed)
    (found,) = verify.compare([Shape(2, 1, 1, 3)], "strict", engines=["fused"], precisions=["float32"], runs=1)
    assert found["outcome"] == outcome
    assert outcome == "right" or found["reason"].startswith("grad_h_0 differs by")


def test_an_error_of_an_engine_is_wrong(monkeypatch, emulator):
    monkeypatch.setattr(verify._Run, "training", lambda self: raising(ValueError("gave up waiting"))(self, None))
    (found,) = verify.compare([Shape(2, 1, 1, 3)], "strict", engines=["fused"], precisions=["tf32"])
    assert (found["outcome"], found["reason"]) == ("WRONG", "ValueError: gave up waiting")


def test_other_bits_are_seen():
    class Changing:
        runs = 0

        def hosted(self):
            self.runs += 1
            return {"output": np.array([1.0, -0.0 if self.runs == 3 else 0.0])}

    run = Changing()
    first = run.hosted()
    assert verify.repeat(run, first, 1) == ""
    assert verify.repeat(run, first, 2) == "output has other bits in run 2"
    assert run.runs == 3


SOAKED = ((Shape(3, 2, 3, 5), "tf32"), (Shape(2, 3, 2, 3, layers=2), "float16"))


def ticking(step=1.0):
    now = iter(range(10**6))
    return lambda: next(now) * step


def test_launches_without_end(emulator):
    said = []
    found = verify.soak(40, "strict", soaked=SOAKED, show=said.append, clock=ticking(5.0))
    assert found["outcome"] == "right"
    assert found["rounds"] > 1
    assert found["runs"] == 2 * found["rounds"]
    assert said
    assert said[0].startswith("soak: ")


def test_launches_on_two_streams(emulator):
    found = verify.soak(0, "strict", soaked=SOAKED, streams=[nullcontext(), nullcontext()])
    assert (found["rounds"], found["runs"], found["outcome"]) == (1, 4, "right")


def test_other_bits_in_a_soak_are_seen(monkeypatch, emulator):
    results, runs = verify._Run.results, []

    def changed(self):
        runs.append(1)
        found = results(self)
        if len(runs) == 4:
            found["c_n"] = found["c_n"] + 1.0
        return found

    monkeypatch.setattr(verify._Run, "results", changed)
    found = verify.soak(1000, "strict", soaked=SOAKED[:1])
    assert found["outcome"] == "WRONG"
    assert found["reason"] == "T=3 B=2 I=3 H=5 in tf32: c_n differs from that of the first round, on stream 0"


def test_a_launch_that_gave_up_is_seen(monkeypatch, emulator):
    monkeypatch.setattr(verify._Run, "results", lambda self: raising(RuntimeError("gave up"))(self, None))
    found = verify.soak(1000, "strict", soaked=SOAKED)
    assert (found["outcome"], found["reason"]) == ("WRONG", "RuntimeError: gave up")


def test_nothing_that_fits_is_no_soak(emulator):
    found = verify.soak(1, "strict", soaked=[(Shape(1, 1, 1, 509), "tf32")])
    assert found["outcome"] == "not run"


def test_checks_in_a_whole_run(monkeypatch, emulator):
    monkeypatch.setattr(sessions, "SMALL", verify.SMALL[1:2])
    monkeypatch.setattr(verify, "SOAKED", SOAKED)
    monkeypatch.setattr(sessions, "soak", lambda *given, **said: verify.soak(*given, **said, soaked=SOAKED))
    monkeypatch.setattr(sessions, "sanitize", lambda seconds: [dict(tool="memcheck", outcome="right")])
    run = run_session(parts=("verify", "soak", "sanitize"), soak=0.0, quick=True)
    assert [found["outcome"] for found in run["verify"]] == ["right"] * 8
    assert run["soak"]["outcome"] == "right"
    assert not wrong(run)


def test_small_launches_are_a_program(emulator, capsys, monkeypatch):
    assert small.main("strict") == 0
    monkeypatch.setattr(small, "compare", lambda shapes, backend, runs: [dict(outcome="WRONG")])
    assert small.main("strict") == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_hang_ends_the_process():
    code = "import time; from benchmarks.gpu.verify import watched\nwith watched(0.2): time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "line 2" in done.stderr


def test_what_ends_in_time_goes_on():
    code = "import time; from benchmarks.gpu.verify import watched\nwith watched(0.2): pass\ntime.sleep(0.5)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("text", "outcome", "reason"),
    [
        ("exit 0", "right", None),
        ("echo an invalid write; exit 86", "WRONG", "it found errors\nan invalid write"),
        ("echo Traceback; exit 1", "WRONG", "the program ended with status 1\nTraceback"),
        ("echo 'Device not supported'; exit 1", "not run", "Device not supported"),
        ("exec sleep 30", "not run", "it took more than 0 s"),
    ],
)
def test_what_a_sanitizer_finds(tmp_path, text, outcome, reason):
    program = script(tmp_path / "tool", text)
    found = sanitize.sanitize(5.0 if "sleep" not in text else 0.2, program)
    assert [one["tool"] for one in found] == ["memcheck", "racecheck"]
    for one in found:
        assert (one["outcome"], one.get("reason")) == (outcome, reason)


def test_what_a_sanitizer_is_asked(tmp_path):
    (found, _) = sanitize.sanitize(5.0, script(tmp_path / "tool", 'echo "$@"; exit 86'))
    assert "--tool memcheck --error-exitcode 86" in found["reason"]
    assert found["reason"].endswith("-m benchmarks.gpu.small")


def test_without_a_sanitizer():
    found = sanitize.sanitize(program="no-such-sanitizer")
    assert {one["outcome"] for one in found} == {"not run"}
    assert "not on the PATH" in found[0]["reason"]
