"""The benchmark on a GPU, without one: made-up libraries, the stand-in for CuPy, and torch on the CPU.

The kernels of the stand-in run on the emulator of a device.
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

from benchmarks.common.cases import Case, Prepared, rounded
from benchmarks.common.checks import differences, relative_norm
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import device, run_nplstm, sanitize, verify
from benchmarks.gpu import session as sessions
from benchmarks.gpu.cases import GROUPS, PRECISIONS, TOLERANCES, cases_of, cudnn_persists
from benchmarks.gpu.device import MissingError
from benchmarks.gpu.measure import DeviceLostError, Library, measure
from benchmarks.gpu.report import write_report, wrong
from benchmarks.gpu.session import Session, new_run
from benchmarks.gpu.verify import Shape
from nplstm.backends._cuda import Device
from nplstm.engines.cuda.plan import Problem, find_plan
from nplstm.errors import BackendUnavailableError

ROOT = Path(__file__).parent.parent

H100 = Device("H100", (9, 0), multiprocessors=132, block_memory=232448)

ALL = [name for name in PRECISIONS if name != "bfloat16"]


@pytest.fixture
def emulator():
    if reason := compiler():
        require("g++", reason)


# ---------------------------------------------------------------------- cases and checks


def test_the_table_is_what_was_asked_for():
    table = cases_of("table", ALL)
    assert len(set(table)) == len(table) == 3 * 4 * 6 * 2 * 3
    assert {(case.layers, case.bidirectional) for case in table} == {(1, False), (4, False), (2, True)}
    assert [case.layers for case in table] == sorted((c.layers for c in table), key=[1, 2, 4].index)
    assert {(c.B, c.H) for c in table if cudnn_persists(c)} == {
        (B, H) for B in (16, 64) for H in (128, 256, 512, 1024)
    }
    for group in GROUPS:
        assert set() < set(cases_of(group, ALL, quick=True)) < set(cases_of(group, ALL))


def test_weights_and_inputs_are_numbers_that_the_precision_has():
    case = Case("table", "training", 3, 5, 7, layers=2, bidirectional=True, precision="float16")
    weights = case.weights()
    assert weights["weight_ih_l1_reverse"].shape == (20, 10)
    assert {array.dtype for array in (*weights.values(), case.input())} == {np.dtype("float16")}
    assert (case.input().shape, case.cotangent().shape) == ((7, 3, 5), (7, 3, 10))
    assert not np.array_equal(case.input(), case.cotangent()[..., :5])
    x = Case("table", "inference", 64, 512, 512).input()  # longer than the numbers that are drawn
    assert len(np.unique(x[:, :, 0])) > 0.99 * 512 * 64
    values = np.array([1.0, 1 + 2.0**-9, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 3.14159274, 0.0], np.float32)
    expected = np.array([1.0, 1.0, 1 + 4 * 2.0**-8, -1.0, 3.140625, 0.0], np.float32)
    np.testing.assert_array_equal(rounded(values, "bfloat16"), expected)


def test_a_difference_is_relative_to_the_norm(monkeypatch):
    expected = np.array([3.0, 4.0])
    assert relative_norm(np.array([3.0, 4.05]), expected) == pytest.approx(0.01)
    assert relative_norm(expected, expected) == 0.0
    assert relative_norm(np.ones(2), np.zeros(2)) == math.inf
    assert relative_norm(np.full(4, 0.01), np.zeros(4), least=0.1) == pytest.approx(0.1)
    assert math.isnan(relative_norm(np.array([np.nan]), np.ones(1)))
    a, b = np.random.default_rng(0).standard_normal((2, 7, 11))
    monkeypatch.setattr("benchmarks.common.checks._AT_ONCE", 10)
    assert relative_norm(a, b) == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b))


# ---------------------------------------------------------------------- made-up libraries


class MadeUpMeter:
    """Tells what a made-up call says that it takes."""

    lost = False

    def seconds(self, call, calls):
        return sum(call() for _ in range(calls))

    def peak_bytes(self, call):
        return 100

    def wait(self):
        if self.lost:
            raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    def release(self):
        self.wait()


class MadeUp(Library):
    """A library whose steps take so many microseconds, by case; ``fails`` raises, or changes results, by case."""

    def __init__(self, name, us, *, meter=None, fails=None):
        super().__init__(name, meter or MadeUpMeter())
        self._us, self._fails = us, fails
        self.inside, self.prepared = [], []

    @contextmanager
    def settings(self, case):
        self.inside.append(case.precision)
        yield

    def prepare(self, case):
        self.prepared.append(case)
        changed = self._fails(self, case) if self._fails else 0.0
        us = self._us(case) if callable(self._us) else self._us
        return {self.name: Prepared(lambda: us * case.steps / 1e6, lambda: {"output": np.ones(5) + changed})}

    def choice(self, case):
        return "persistent" if case.B < 64 else "fused"


def raising(error):
    def fail(library, case):
        raise error

    return fail


def run_case(ours, theirs=None, case=None, seconds=0.05):
    case = case or Case("table", "inference", 16, 256, 512, precision="tf32")
    return measure(case, [theirs or MadeUp("torch", 6.0), ours], seconds=seconds)


def test_a_case_is_timed_in_turns():
    order = []

    class Watched(MadeUpMeter):
        def __init__(self, name):
            self.name = name

        def seconds(self, call, calls):
            order.append((self.name, calls * call()))
            return super().seconds(call, calls)

    ours = MadeUp("nplstm", 2.0, meter=Watched("nplstm"))
    record = run_case(ours, MadeUp("torch", 3.0, meter=Watched("torch")))
    assert record["outcome"] == "timed"
    assert record["values"]["nplstm"]["median"] == pytest.approx(2e-6 * 512)
    assert (record["differences"], record["memory"]) == ({"nplstm": {"output": 0.0}}, dict(torch=100, nplstm=100))
    assert [name for name, _ in order[-10:]] == ["torch", "nplstm"] * 5
    assert all(spent >= 0.01 for _, spent in order[-10:])
    assert set(ours.inside) == {"tf32"}
    assert len(ours.inside) >= 2 + 5 + 1  # to prepare, for the results, for turns, for the memory


def test_what_disagrees_is_not_timed():
    for precision, tolerance in TOLERANCES.items():
        case = Case("table", "inference", 1, 64, 512, precision=precision)
        for share, outcome in ((0.5, "timed"), (2.0, "wrong"), (math.nan, "wrong")):
            ours = MadeUp("nplstm", 1.0, fails=lambda library, case, by=share * tolerance: by)
            record = run_case(ours, case=case)
            assert record["outcome"] == outcome
            if outcome == "wrong":
                assert record["values"] == record["memory"] == {}
                assert record["refused"]["nplstm"].startswith("WRONG: output: differs by")


def test_a_library_that_fails_is_told():
    record = run_case(MadeUp("nplstm", 1.0, fails=raising(ValueError("it broke\nin many lines"))))
    assert (record["outcome"], record["refused"]) == ("failed", {"nplstm": "ValueError: it broke"})
    for error in (MemoryError("CUDA"), RuntimeError("CUDA: out of memory"), RuntimeError("CUDNN_ALLOC_FAILED")):
        record = run_case(MadeUp("nplstm", 1.0), MadeUp("torch", 1.0, fails=raising(error)))
        assert (record["outcome"], record["refused"]) == ("out of memory", {"torch": f"out of memory: {error}"})
        assert record["values"] == {}

    class Flaky(MadeUpMeter):
        def seconds(self, call, calls):
            raise ValueError("gave up waiting")

        def peak_bytes(self, call):
            raise MemoryError("just so")

    record = run_case(MadeUp("nplstm", 1.0, meter=Flaky()))
    assert record["outcome"] == "failed"
    assert "gave up waiting" in record["refused"]["torch and nplstm"]
    Flaky.seconds = MadeUpMeter.seconds
    record = run_case(MadeUp("nplstm", 1.0, meter=Flaky()))
    assert (record["outcome"], record["memory"]) == ("timed", {"torch": 100})
    assert "just so" in record["refused"]["nplstm"]


def lose(library, case):
    library.meter.lost = True
    raise RuntimeError("launch failed")


def test_a_device_that_is_lost_ends_it():
    ours = MadeUp("nplstm", 1.0, fails=lose)
    with pytest.raises(DeviceLostError, match="launch failed; then cudaErrorIllegalAddress"):
        run_case(ours)
    with pytest.raises(DeviceLostError, match="IllegalAddress"):
        run_case(ours)


def test_latency_is_taken_by_the_clock_of_the_host():
    class Slow(MadeUpMeter):
        def wait(self):
            time.sleep(1e-4)

    case = Case("streaming", "latency", 1, 64, 5)
    record = run_case(MadeUp("nplstm", 1.0, meter=Slow()), case=case, seconds=0.001)
    assert record["values"]["nplstm"]["median"] >= 1e-4


# ---------------------------------------------------------------------- whole runs

PLACE = {
    "date": "2026-01-02",
    "commit": "abc1234",
    "gpu": "Made Up 100",
    "torch": "2.0",
    "CUDA of the driver": 13020,
}


def made_gpu(rival=None, ours=None):
    def engine(engines, name):
        us = {"persistent": 2.0, "fused": 3.0, "plain": 50.0}
        if name in us:
            return MadeUp(name, lambda case: us[name] * (case.B if name == "persistent" else 1))
        return ours or MadeUp(name, 2.0)

    return device.Gpu(rival or MadeUp("torch", 8.0), engine, H100, lambda: dict(PLACE), "strict")


def run_session(gpu=None, *, parts=("table", "streaming"), run=None, clock=time.monotonic, **options):
    run, saved = run or new_run(dict(PLACE)), []
    usual = dict(precisions=["tf32"], seconds=0.001, quick=True, budget=math.inf, only=parts)
    Session(
        gpu or made_gpu(),
        SimpleNamespace(**usual | options),
        run,
        lambda run: saved.append(json.dumps(run)),
        clock,
    ).go()
    assert json.loads(saved[-1]) == run
    return run


def test_a_whole_run(capsys):
    engines = run_session(made_gpu()._replace(rival=None), parts=("engines",))["records"]
    assert set(engines[0]["values"]) == {"persistent", "fused", "plain"}  # torch is not needed for it
    capsys.readouterr()
    run = run_session(parts=GROUPS, precisions=ALL)
    assert [r["group"] for r in run["records"]].count("table") == 36
    assert {record["outcome"] for record in run["records"]} == {"timed"}
    assert (run["left_out"], wrong(run)) == ([], False)
    assert len(capsys.readouterr().out.splitlines()) == len(run["records"])  # it is seen how far it is
    engines = [r for r in run["records"] if r["group"] == "engines"]
    assert set(engines[0]["values"]) == {"torch", "persistent", "fused", "plain"}
    # made up: "persistent" takes 2 us for each sequence, "fused" 3 us; the choice changes at B = 64
    assert {(r["case"]["B"], r["fastest"], r["chosen"]) for r in engines} == {
        (1, "persistent", "persistent"),
        (64, "fused", "fused"),
        (256, "fused", "fused"),
    }
    report = write_report(run)
    assert "| tf32 | inference | all | nplstm | torch | 6 | 4.00 | 4.00 | 0 | 0 |" in report
    assert "| float16 | training | all, cuDNN persists | nplstm | torch | 2 | 4.00 | 4.00 | 0 | 0 |" in report
    assert "| tf32 | inference | 4 layers | 4 layers, B=16 H=256 T=512 | 8 | 2 | 4.00 | 1.00 |" in report


def test_a_wrong_result_in_a_whole_run():
    ours = MadeUp("nplstm", 2.0, fails=lambda library, case: 0.5 * (case.H == 512))
    run = run_session(made_gpu(ours=ours), parts=("table",))
    assert [r["label"] for r in run["records"] if r["outcome"] == "wrong"] == ["B=64 H=512 T=512"] * 2
    assert wrong(run)
    assert "WRONG: output: differs by 5.0e-01" in write_report(run)


def test_a_run_is_gone_on_with():
    now = iter(range(1000))
    run = run_session(parts=("table", "streaming"), budget=10, clock=lambda: next(now))
    first = [r["case"] for r in run["records"]]
    assert (len(first), len(run["left_out"]), wrong(run)) == (9, 12 - 9 + 4, False)
    assert run["left_out"][0] == "table tf32 training 2 layers, bidirectional, B=16 H=256 T=512"
    ours = MadeUp("nplstm", 2.0)
    run = run_session(made_gpu(ours=ours), parts=("table",), run=run)
    assert (len(run["records"]), run["left_out"]) == (12, [])
    assert not [case for case in ours.prepared if case in [Case(**one) for one in first]]
    run["records"][0]["outcome"] = "failed"
    assert not wrong(run_session(parts=("table",), run=run))  # it is tried again
    run = run_session(parts=sessions.CHECKS, budget=0)
    assert run["left_out"][-3:] == [f"verify {verify.SMALL[-1]}", "soak", "sanitize"]


def test_a_lost_device_ends_the_run():
    ours = MadeUp("nplstm", 2.0, fails=lambda library, case: lose(library, case) if case.H == 512 else 0.0)
    run = run_session(made_gpu(ours=ours))
    assert "launch failed" in run["stopped"]
    assert wrong(run)
    assert len(run["records"]) + len(run["left_out"]) + 1 == 12 + 4


def test_what_was_checked_is_told():
    run, bad = new_run(PLACE), dict(shape="T=1", precision="tf32", engine="fused", outcome="WRONG", reason="h_n")
    right = dict(bad, outcome="right", rounds=7)
    for part, found in (("verify", [bad, right]), ("sanitize", [dict(bad, tool="racecheck")]), ("soak", right)):
        run[part] = found
        assert "WRONG" in write_report(run)
        assert wrong(run)
    run["verify"] = run["sanitize"] = []
    assert not wrong(run)


@pytest.fixture
def found(monkeypatch):
    """Have the command find a made-up GPU; whether it was asked for torch is in the list."""
    asked = []
    monkeypatch.setattr(command, "find_gpu", lambda *, rival: asked.append(rival) or made_gpu())
    return asked


def test_the_command_writes_json_and_markdown_and_goes_on(found, tmp_path, capsys, monkeypatch):
    saved, table = tmp_path / "new" / "gpu.json", tmp_path / "gpu.md"
    given = "--quick", "--precisions", "tf32", "--engines", "--markdown", str(table), "--json", str(saved)
    assert command.main([*given, "--budget", "0"]) == 0
    assert command.main([*given, "--resume", str(saved)]) == 0
    run = json.loads(saved.read_text(encoding="utf-8"))
    assert (len(run["records"]), len(run["places"]), run["left_out"]) == (12 + 4 + 6, 2, [])
    assert table.read_text(encoding="utf-8") == write_report(run)
    assert found == [True, True]  # torch is needed
    monkeypatch.setattr(sessions, "measure", lambda *_, **__: raising(KeyboardInterrupt())(None, None))
    with pytest.raises(KeyboardInterrupt):
        command.main(["--quick", "--json", str(saved)])
    assert json.loads(saved.read_text(encoding="utf-8"))["records"] == []  # it is written all the same
    saved.write_text(json.dumps(new_run(dict(PLACE, gpu="Other 7"))), encoding="utf-8")
    assert command.main(["--resume", str(saved)]) == 2
    assert "gpu: Other 7 and Made Up 100" in capsys.readouterr().err


def test_torch_is_not_needed_for_the_checks(found, monkeypatch):
    done = []
    for part in sessions.CHECKS:
        monkeypatch.setattr(Session, f"_{part}", lambda self, part=part: done.append(part))
    assert command.main("--only verify soak sanitize".split()) == 0
    assert (found, done) == ([False], ["verify", "soak", "sanitize"])


# ---------------------------------------------------------------------- the device


def test_without_cupy(monkeypatch, capsys):
    def unavailable(name):
        raise BackendUnavailableError("backend 'cupy': CuPy is not installed")

    monkeypatch.setattr(device, "get_backend", unavailable)
    monkeypatch.setenv("CUPY_TF32", "1")
    assert command.main([]) == 2
    assert capsys.readouterr().err == "benchmarks.gpu: backend 'cupy': CuPy is not installed\n"
    assert "CUPY_TF32" not in device.os.environ  # or float32 would be rounded


def test_without_a_torch_that_can(monkeypatch):
    there = SimpleNamespace(__version__="2.0", cuda=SimpleNamespace(), backends=SimpleNamespace())
    there.backends.cudnn = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setattr(device, "import_module", lambda name: there)
    for gpu, match in ((False, "torch 2.0 is installed but finds no GPU"), (True, "without cuDNN")):
        there.cuda.is_available = lambda gpu=gpu: gpu
        with pytest.raises(MissingError, match=match):
            device.check_torch()
    monkeypatch.setattr(device, "import_module", lambda name: raising(ImportError("no torch"))(None, None))
    with pytest.raises(MissingError, match="torch is not installed"):
        device.check_torch()


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_the_gpu_of_a_machine(monkeypatch, tmp_path):
    import strict_backend

    import nplstm.backends

    properties = dict(name=b"Made Up 100", multiProcessorCount=132, totalGlobalMem=2**30)
    cuda = SimpleNamespace(
        MemoryHook=object,
        Device=lambda: SimpleNamespace(id=0, compute_capability="90", pci_bus_id="0000:00:04.0"),
        runtime=SimpleNamespace(
            getDeviceProperties=lambda number: properties,
            driverGetVersion=lambda: 13020,
            runtimeGetVersion=lambda: 12090,
        ),
    )

    class Namespace(strict_backend.StrictNamespace):
        __version__ = "14.0"

    class Fake(strict_backend.StrictBackend):
        name, xp = "cupy", Namespace()

    Fake.xp.cuda = cuda
    monkeypatch.setitem(sys.modules, "cupy", Fake.xp)
    monkeypatch.setitem(nplstm.backends._LOADED, "cupy", Fake())
    monkeypatch.setattr(device, "check_torch", lambda: raising(MissingError("no torch"))(None, None))
    found = device.find_gpu(rival=False)
    place = found.describe()
    assert (place["gpu"], place["CUDA of CuPy"], place["CuPy"]) == ("Made Up 100", 12090, "14.0")
    assert (found.rival, found.device) == (None, Fake().cuda.device())
    assert found.ours(["fused"], "one").name == "one"
    with pytest.raises(MissingError, match="no torch"):
        device.find_gpu(rival=True)
    assert list(device.read_clocks("x", script(tmp_path / "good", "echo 580.1, 1980")).values()) == ["580.1, 1980"]
    assert device.read_clocks("x", script(tmp_path / "bad", "exit 9")) == {}


def test_nothing_is_imported_that_may_not_be_there():
    code = (
        "import benchmarks.gpu.__main__, sys; print([name for name in ('cupy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_time_and_memory_are_asked_of_cupy(monkeypatch):
    held, calls, times = [], [], []

    class Hook:
        def __enter__(self):
            held.append(self)
            return self

        def __exit__(self, *_):
            held.remove(self)

    def call():
        (hook,) = held
        for event, size in (("malloc", 512), ("malloc", 1024), ("free", 512), ("malloc", 256), ("free", 2048)):
            said = dict(device_id=0, mem_size=size, mem_ptr=1, pmem_id=2)
            getattr(hook, f"{event}_postprocess")(**said | ({"size": size} if event == "malloc" else {}))

    event = SimpleNamespace(record=lambda: times.append(len(times)), synchronize=lambda: None)
    pool = SimpleNamespace(used_bytes=lambda: 4096, free_all_blocks=lambda: None)
    cuda = SimpleNamespace(MemoryHook=Hook, Device=lambda: event, Event=lambda: event)
    cuda.get_elapsed_time = lambda start, end: 5.0
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool))
    meter = run_nplstm.CupyMeter()
    assert meter.peak_bytes(call) == 4096 + 1536
    assert meter.seconds(lambda: calls.append(len(times)), 3) == pytest.approx(5e-3)
    assert calls == [1, 1, 1]  # between the two events
    meter.release()


# ---------------------------------------------------------------------- the libraries


class WallMeter(MadeUpMeter):
    """By the clock, for what runs on the CPU."""

    def seconds(self, call, calls):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start


TINY = [
    Case("table", "inference", 3, 5, 7),
    Case("table", "training", 3, 5, 7, layers=2, bidirectional=True),
    Case("table", "training", 2, 5, 3, layers=4, precision="tf32"),
    Case("table", "training", 2, 5, 3, precision="float16"),
    Case("table", "inference", 2, 5, 3, precision="bfloat16"),
    Case("streaming", "step", 1, 5, 5),
    Case("streaming", "latency", 1, 5, 5),
]


def ours_on(backend, *engines):
    return run_nplstm.Nplstm(WallMeter(), engines, backend=backend)


def results_of(library, case):
    """Return the results of a library's first way to run a case, and how it runs."""
    with library.settings(case):
        way = library.prepare(case)[library.name]
        way.call()
        return way.results(), way


@pytest.mark.parametrize("case", TINY, ids=str)
def test_nplstm_runs_a_case(case, emulator):
    ours = ours_on("strict", "persistent", "fused", "plain")
    found, way = results_of(ours, case)
    expected, _ = results_of(ours_on("numpy", "plain"), replace(case, precision="float32"))
    assert way.engine in ("persistent", "fused")
    hosted = {name: ours._backend.to_numpy(array) for name, array in found.items()}
    differences(hosted, expected, lambda _: TOLERANCES[case.precision], relative_norm)


def test_nplstm_computes_in_the_precision_of_the_case(emulator):
    library, case = ours_on("strict", "persistent"), Case("table", "inference", 1, 5, 3)
    for precision in PRECISIONS:
        _, way = results_of(library, replace(case, precision=precision))
        assert f", products in {precision}, " in way.notes[0]
    kept = library.layer(case)
    assert library.layer(replace(case, B=7, task="training")) is kept
    assert library.layer(replace(case, precision="float16")) is not kept
    assert library.choice(case) == "persistent"


def test_an_engine_that_refuses_a_case_is_told(emulator, monkeypatch):
    monkeypatch.setattr("benchmarks.common.timing._SPAN", 1e-4)
    names = ("plain", "persistent", "fused")
    libraries = [run_nplstm.Nplstm(WallMeter(), [name], name, "strict") for name in names]
    record = measure(Case("engines", "inference", 3, 512, 3), libraries, seconds=0.0)
    assert (record["outcome"], set(record["values"])) == ("timed", {"plain", "fused"})
    assert "do not fit" in record["refused"]["persistent"]


def torch_on_cpu(share=np.from_dlpack):
    from benchmarks.gpu.run_torch import Torch

    return Torch(WallMeter(), share, device="cpu")


@pytest.mark.usefixtures("torch_reference")
def test_torch_runs_a_case():
    for case in TINY:
        exact = replace(case, precision="float32") if case.dtype == "float16" else case
        found, expected = results_of(torch_on_cpu(), case)[0], results_of(ours_on("numpy", "plain"), exact)[0]
        differences(found, expected, lambda _, case=case: TOLERANCES[case.precision], relative_norm)


@pytest.mark.usefixtures("torch_reference")
def test_torch_runs_a_step_from_a_graph(monkeypatch):
    from benchmarks.common import with_torch

    def captured(step):
        output = step().clone()
        return lambda: output.copy_(step()), output

    monkeypatch.setattr(with_torch, "_captured", captured)
    theirs, case = torch_on_cpu(), TINY[-2]
    expected, layer = results_of(theirs, case)[0], theirs.layer(case)
    graph = with_torch.prepare_graph(case, layer, np.from_dlpack)
    for _ in range(2):  # the state of one call is not that of the next
        graph.call()
        differences(graph.results(), expected, lambda _: 1e-6, relative_norm)
    monkeypatch.setattr(theirs, "_device", "cuda")
    monkeypatch.setattr(with_torch, "_captured", lambda step: raising(RuntimeError("no capture"))(None, None))
    record = run_case(MadeUp("nplstm", 1.0), theirs, case)
    assert record["refused"]["torch, graph"] == "RuntimeError: no capture"
    assert "torch" not in record["refused"]


@pytest.mark.usefixtures("torch_reference")
def test_memory_and_time_are_asked_of_torch(monkeypatch):
    from benchmarks.gpu import run_torch

    done = []
    event = SimpleNamespace(
        record=lambda: done.append("record"), synchronize=lambda: done.append("end"), elapsed_time=lambda end: 7.0
    )
    cuda = SimpleNamespace(Event=lambda enable_timing: event, synchronize=lambda: None)
    cuda.empty_cache, cuda.reset_peak_memory_stats = lambda: done.append("emptied"), lambda: done.append("reset")
    cuda.max_memory_allocated = lambda: 123
    monkeypatch.setattr(run_torch.torch, "cuda", cuda)
    meter = run_torch.TorchMeter()
    assert meter.seconds(lambda: done.append("call"), 2) == pytest.approx(7e-3)
    assert meter.peak_bytes(lambda: done.append("call")) == 123
    meter.release()
    assert done == ["record", "call", "call", "record", "end", "reset", "call", "emptied"]


@pytest.mark.usefixtures("torch_reference")
def test_torch_is_told_whether_it_may_round():
    import torch

    def allowed():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    theirs, before = torch_on_cpu(), allowed()
    for precision in PRECISIONS:
        with theirs.settings(Case("table", "inference", 1, 2, 3, precision=precision)):
            assert allowed() == (precision == "tf32",) * 2
    assert allowed() == before
    assert set(theirs.facts()) == {"torch", "cuDNN", "CUDA of torch"}


@pytest.mark.usefixtures("torch_reference", "emulator")
def test_both_libraries_in_one_run(monkeypatch):
    ours = ours_on("strict", "persistent")
    monkeypatch.setattr("benchmarks.common.timing._SPAN", 1e-4)
    theirs = torch_on_cpu(lambda tensor: ours._backend.asarray(np.from_dlpack(tensor)))
    record = measure(TINY[1], [theirs, ours], seconds=0.0)
    assert record["outcome"] == "timed", record["refused"]
    assert set(record["values"]) == {"torch", "nplstm"}


# ---------------------------------------------------------------------- the checks of the engines


def test_limits_are_those_of_the_plan():
    wide = {shape.H for shape in verify.at_limits(H100)}
    for precision in PRECISIONS:
        fits = [H for H in wide if find_plan(Problem("forward", precision, 3, H, 1, False), H100)]
        assert max(fits) + 1 in wide


def test_the_engines_are_right_or_refuse(emulator):
    for found in verify.compare(verify.SMALL[:2], "strict", runs=2):
        assert found["outcome"] == "right", found
        assert found["error"] <= TOLERANCES[found["precision"]]
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
    monkeypatch.setattr(verify._Run, "results", lambda self: raising(ValueError("gave up waiting"))(self, None))
    (found,) = verify.compare([Shape(2, 1, 1, 3)], "strict", engines=["fused"], precisions=["tf32"])
    assert (found["outcome"], found["reason"]) == ("WRONG", "ValueError: gave up waiting")
    found = verify.soak(1000, "strict", soaked=SOAKED)
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


SOAKED = ((Shape(3, 2, 3, 5), "tf32"), (Shape(2, 3, 2, 3, layers=2), "float16"))


def test_launches_on_two_streams(emulator):
    found = verify.soak(0, "strict", soaked=SOAKED, streams=[nullcontext(), nullcontext()])
    assert (found["rounds"], found["runs"], found["outcome"]) == (1, 4, "right")
    assert verify.soak(1, "strict", soaked=[(Shape(1, 1, 1, 509), "tf32")])["outcome"] == "not run"  # none fits


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


def test_checks_in_a_whole_run(monkeypatch, emulator):
    monkeypatch.setattr(sessions, "SMALL", verify.SMALL[1:2])
    monkeypatch.setattr(sessions, "soak", lambda *given, **said: verify.soak(*given, **said, soaked=SOAKED))
    monkeypatch.setattr(sessions, "sanitize", lambda seconds: [dict(tool="memcheck", outcome="right")])
    run = run_session(parts=sessions.CHECKS, soak=0.0)
    assert [found["outcome"] for found in run["verify"]] == ["right"] * 8
    assert run["soak"]["outcome"] == "right"
    assert not wrong(run)


def test_a_hang_ends_the_process():
    code = "import time; from benchmarks.gpu.verify import watched\nwith watched(0.2): {}\ntime.sleep(0.5)"
    for inside, status in (("time.sleep(60)", 1), ("pass", 0)):
        command = [sys.executable, "-c", code.format(inside)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert (done.returncode, "Timeout" in done.stderr) == (status, bool(status))


def test_small_launches_are_a_program(emulator, capsys, monkeypatch):
    assert sanitize.main("strict") == 0
    monkeypatch.setattr(sanitize, "compare", lambda shapes, backend, runs: [dict(outcome="WRONG")])
    assert sanitize.main("strict") == 1
    assert "WRONG" in capsys.readouterr().out


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
    assert {(one["outcome"], one.get("reason")) for one in found} == {(outcome, reason)}


def test_what_a_sanitizer_is_asked(tmp_path):
    (found, _) = sanitize.sanitize(5.0, script(tmp_path / "tool", 'echo "$@"; exit 86'))
    assert "--tool memcheck --error-exitcode 86" in found["reason"]
    assert found["reason"].endswith("-m benchmarks.gpu.sanitize")
    assert "not on the PATH" in sanitize.sanitize(program="no-such-sanitizer")[0]["reason"]
