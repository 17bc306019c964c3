"""The compiled engine in processes: cold starts, signals, forks, threads, the end of the interpreter."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from instruction_sets import AVAILABLE

ROOT = Path(__file__).parents[1]
SECONDS = 60  # of a process that takes one or two: it hangs
RIGHT = """
import os, sys, threading
import numpy as np, nplstm

def expected(lstm, x):
    with nplstm.use_engines("plain"):
        tape = lstm.record(x)
        return tape.output, tape.backward(tape.output).input

engine = "compiled"

def call(lstm, x):
    with nplstm.use_engines(engine):
        tape = lstm.record(x)
        return tape.output, tape.backward(tape.output).input

def check(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()

# worth sharing by cells, and by sequences
def problems():
    for B, T, H in ((1, 30, 200), (16, 12, 96)):
        yield nplstm.LSTM(8, H, rng=0), np.random.default_rng(0).standard_normal((T, B, 8)).astype("float32")

nplstm.set_num_threads(3)
"""

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="there are no compiled kernels here"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    """Run Python with the package of this folder, whatever is installed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", RIGHT + code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], seconds: float = SECONDS) -> str:
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"hangs: {process.communicate()}")
    assert process.returncode == 0, errors
    return output


def test_many_cold_processes_at_once():
    """Each loads the library for the first time, and checks gradients against finite differences."""
    code = """
for H in (4, 5, 8, 20, 33):
    rng = np.random.default_rng(H)
    lstm = nplstm.LSTM(3, H, dtype="float64", rng=rng)
    x, weight, way = (rng.standard_normal(shape) for shape in ((7, 2, 3), (7, 2, H), (7, 2, 3)))
    with nplstm.use_engines("compiled"):
        for _ in range(3):
            grads = lstm.record(x).backward(weight)
            for name, value in lstm.parameters.items():
                step = rng.standard_normal(value.shape)
                losses = []
                for sign in (1, -1):
                    lstm.parameters[name] = value + sign * 1e-6 * step
                    losses.append((lstm(x)[0] * weight).sum())
                slope = (losses[0] - losses[1]) / 2e-6
                assert abs(slope - (grads.parameters[name] * step).sum()) < 1e-6 * (1 + abs(slope)), (H, name)
                lstm.parameters[name] = value - 0.1 * grads.parameters[name]
                grads = lstm.record(x).backward(weight)
"""
    for process in [start(code) for _ in range(8)]:
        end(process)


def test_ctrl_c_at_any_moment_of_the_first_call():
    """In one child after the other, which then goes on and is right."""
    code = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
work = [(lstm, x, expected(lstm, x)) for lstm, x in problems()]

def interrupted(after):
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        call(*work[0][:2])
        for _ in range(10_000):  # the signal comes here, if it did not before; it ends no sleep of this thread
            time.sleep(0.001)
    except KeyboardInterrupt:
        return
    raise AssertionError("no signal came")

for k in range(25):
    child = os.fork()
    if child == 0:
        try:
            interrupted(0.0005 * 1.2**k)  # up to 40 ms
            for lstm, x, wanted in work:
                check(call(lstm, x), wanted)
        except BaseException as error:
            print(k, repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    end(start(code))


FORKS = {
    "during the first call of another thread": """
lstm, x = next(problems())
wanted = expected(lstm, x)
for pause in np.linspace(0, 0.004, 12):
    thread = threading.Thread(target=call, args=(lstm, x))
    thread.start()
    time.sleep(pause)
    fork_and_check()
    thread.join()
""",
    "after threads were used": """
for lstm, x in problems():
    call(lstm, x)
for _ in range(5):
    fork_and_check()
""",
    "of a fork": """
for lstm, x in problems():
    call(lstm, x)
child = os.fork()
if child == 0:
    fork_and_check()
    os._exit(0)
wait_for(child)
""",
}


@pytest.mark.parametrize("engine", ["compiled", "numpy"])
@pytest.mark.parametrize("moment", FORKS)
def test_forks(moment, engine):
    """The child is right, and so is the parent at the same time."""
    code = f"engine = {engine!r}"
    code += """
import time
work = [(lstm, x, expected(lstm, x)) for lstm, x in problems()]

def check_all():
    for _ in range(3):
        for lstm, x, wanted in work:
            check(call(lstm, x), wanted)

def wait_for(child):
    assert os.waitpid(child, 0)[1] == 0

def fork_and_check():
    child = os.fork()
    if child == 0:
        try:
            check_all()
        except BaseException:
            os._exit(1)
        os._exit(0)
    check_all()
    wait_for(child)
"""
    end(start(code + FORKS[moment]))


def test_spawn(tmp_path):
    script = tmp_path / "spawned.py"
    script.write_text(
        RIGHT
        + """
import multiprocessing

def work(_):
    for lstm, x in problems():
        check(call(lstm, x), expected(lstm, x))
    return True

if __name__ == "__main__":
    assert work(0)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(work, range(4)) == [True] * 4
""",
        encoding="utf-8",
    )
    end(start(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"))


def test_daemon_threads_at_the_end_of_the_interpreter():
    code = """
def for_ever(lstm, x):
    while True:
        call(lstm, x)

for lstm, x in problems():
    for _ in range(2):
        threading.Thread(target=for_ever, args=(lstm, x), daemon=True).start()
import time
time.sleep(float(os.environ["AFTER"]))
"""
    for process in [start(code, AFTER=str(0.02 * k)) for k in range(6)]:
        end(process)


def test_several_threads_at_once():
    code = """
work = [(lstm, x, expected(lstm, x)) for lstm, x in problems()]
failures = []

def several(lstm, x, wanted):
    try:
        first = call(lstm, x)
        check(first, wanted)
        for _ in range(20):
            assert all(np.array_equal(a, b) for a, b in zip(call(lstm, x), first))
    except BaseException as error:
        failures.append(error)

threads = [threading.Thread(target=several, args=work[k % 2]) for k in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
"""
    end(start(code))


def test_a_system_that_starts_no_thread(tmp_path):
    """The calling thread does all by itself."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler, which makes pthread_create fail")
    source, library = tmp_path / "none.c", tmp_path / "none.so"
    source.write_text(
        """
#include <errno.h>
int pthread_create(void *thread, const void *attributes, void *(*run)(void *), void *given) {
    (void)thread, (void)attributes, (void)run, (void)given;
    return EAGAIN;
}
""",
        encoding="utf-8",
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    code = """
for lstm, x in problems():
    check(call(lstm, x), expected(lstm, x))
from nplstm.engines.compiled.library import library
print(library().module.pool_size())
"""
    environment = dict(LD_PRELOAD=str(library), OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    assert end(start(code, **environment)).strip() == "0"
    assert int(end(start(code)).strip()) > 0


def test_a_caller_that_never_gives_its_cpu_away():
    """SCHED_FIFO on one CPU: what it waits for has to get that CPU from it."""
    code = """
cpu = min(os.sched_getaffinity(0))
work = [(lstm, x, expected(lstm, x)) for lstm, x in problems()]
os.sched_setaffinity(0, {cpu})
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
except OSError as error:
    print(f"SCHED_FIFO is not allowed here: {error}")
    raise SystemExit
nplstm.set_num_threads(2)
import time
begun = time.perf_counter()
for _ in range(20):
    for lstm, x, wanted in work:
        check(call(lstm, x), wanted)
assert time.perf_counter() - begun < 20
"""
    if reason := end(start(code)).strip():
        pytest.skip(reason)


def test_a_process_that_does_nothing_uses_no_cpu():
    code = """
import resource, time
for _ in range(5):
    for lstm, x in problems():
        call(lstm, x)

def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

time.sleep(0.1)
before = used()
time.sleep(2)
print(used() - before)
"""
    assert float(end(start(code)).strip()) < 0.02
