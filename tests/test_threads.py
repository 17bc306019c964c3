"""The number of threads: where its default comes from, and how NumPy's BLAS keeps to it."""

import ctypes
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import require

import nplstm
from nplstm.engines import blas, cpus
from nplstm.engines import threads as threads_module
from nplstm.engines._numpy.cell import Cell
from nplstm.engines.blas import WORTH_THREADS, BlasLimit, BlasThreads, find_blas_threads, limited_blas
from nplstm.engines.threads import default_num_threads

VARIABLES = "OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS BLIS_NUM_THREADS VECLIB_MAXIMUM_THREADS".split()
SHOW = "import nplstm; print(nplstm.get_num_threads())"


def python(code, **variables):
    """Run code in a process without any of the variables but these."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture
def number():
    """Set the number of threads, and set it back after the test."""
    before = nplstm.get_num_threads()
    yield nplstm.set_num_threads
    nplstm.set_num_threads(before)


# The default


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 8),
        *(({name: "3"}, 3) for name in VARIABLES),
        ({"OMP_NUM_THREADS": "16"}, 8),
        ({"OMP_NUM_THREADS": "4,2"}, 4),  # a number for each level of nesting
        ({"OMP_NUM_THREADS": " 4 , 2"}, 4),
        ({"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "6"}, 2),
        *(({"OMP_NUM_THREADS": bad}, 8) for bad in ("", "0", "-1", "many", "2.5", ",2", "²", "1_0", "9" * 5000)),
        ({"NUMEXPR_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}, 8),
        ({"NPLSTM_NUM_THREADS": "7", "OMP_NUM_THREADS": "1"}, 7),
        ({"NPLSTM_NUM_THREADS": " 100 "}, 100),
        ({"NPLSTM_NUM_THREADS": "", "OMP_NUM_THREADS": "2"}, 2),
    ],
)
def test_the_default_is_the_least_of_the_limits(environment, expected):
    assert default_num_threads(environment, 8) == expected


@pytest.mark.parametrize("bad", ["0", "-1", "many", "2.5", "4,2", "²", "1_0", "9" * 5000])
def test_a_bad_number_of_our_own_is_an_error(bad):
    with pytest.raises(nplstm.ArgumentError, match="NPLSTM_NUM_THREADS: expected an integer >= 1, got '"):
        default_num_threads({"NPLSTM_NUM_THREADS": bad}, 8)


def test_the_error_comes_with_the_first_use():
    code = """
import numpy as np, nplstm
lstm, x = nplstm.LSTM(2, 3, rng=0), np.zeros((4, 1, 2), np.float32)
for use in (nplstm.get_num_threads, lambda: lstm(x)):
    try:
        with nplstm.use_engines("numpy"):
            use()
    except nplstm.ArgumentError as error:
        print(error)
nplstm.set_num_threads(1)
lstm(x)
"""
    lines = python(code, NPLSTM_NUM_THREADS="some").splitlines()
    assert lines == ["NPLSTM_NUM_THREADS: expected an integer >= 1, got 'some'"] * 2


def test_the_default_is_found_once_and_at_the_first_use(monkeypatch):
    monkeypatch.setattr(threads_module, "_threads", None)
    for name in (*VARIABLES, "NPLSTM_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    found = cpus.Cpus(affinity=64, quota=2.5, usable=3)
    monkeypatch.setattr(cpus, "find_cpus", lambda: found)
    assert nplstm.get_num_threads() == 3
    monkeypatch.setattr(cpus, "find_cpus", lambda: 1 / 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert nplstm.get_num_threads() == 3


def test_an_import_does_not_look():
    code = "import sys, nplstm; print('nplstm.engines.cpus' in sys.modules, 'nplstm.engines.blas' in sys.modules)"
    assert python(code) == "False False"


def test_a_number_that_is_set_needs_no_default(monkeypatch, number):
    monkeypatch.setattr(threads_module, "_threads", None)
    number(5)
    monkeypatch.setattr(cpus, "find_cpus", lambda: 1 / 0)
    assert nplstm.get_num_threads() == 5
    monkeypatch.undo()


@pytest.mark.parametrize("name", VARIABLES)
def test_a_process_reads_its_variables(name):
    assert python(SHOW, **{name: "1"}) == "1"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_keeps_to_its_cpus():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + SHOW
    assert python(code) == "1"
    assert python(code, NPLSTM_NUM_THREADS="2") == "2"


@pytest.mark.parametrize(
    ("files", "memberships", "affinity", "expected"),
    [
        ({"cpu.max": "250000 100000"}, "0::/\n", 64, 3),
        ({"cpu.max": "10000 100000"}, "0::/\n", 64, 1),
        ({"cpu.max": "0 100000"}, "0::/\n", 64, 1),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, "0::/a/b\n", 64, 2),
        ({"cpu/x/cpu.cfs_quota_us": "150000", "cpu/x/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/x\n", 64, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n", 64, 64),
        ({"cpu.max": "800000 100000"}, "0::/\n", 4, 4),
        *(({"cpu.max": bad}, "0::/\n", 4, 4) for bad in ("", "1 0", "one two", "100000", "1 2 3")),
        ({"cpu.max": "100000 100000"}, "no line of this file\n\n", 4, 4),
    ],
)
def test_quotas_are_rounded_up(files, memberships, affinity, expected, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "memberships").write_text(memberships)
    monkeypatch.setattr(cpus, "MEMBERSHIPS", tmp_path / "memberships")
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path)
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert cpus.find_cpus().usable == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_keeps_the_number():
    code = """
import os, nplstm
os.environ["OMP_NUM_THREADS"] = "3"
nplstm.set_num_threads(5)
child = os.fork()
if child == 0:
    os._exit(nplstm.get_num_threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(code) == "5"


def test_the_processes_of_joblib_keep_to_their_share():
    try:
        import joblib  # noqa: F401
    except ImportError:
        require("joblib", "joblib is not installed")
    code = """
import joblib

def numbers():
    import numpy as np, nplstm
    from nplstm.engines.blas import find_blas_threads
    with nplstm.use_engines("numpy"):
        nplstm.LSTM(2, 3, rng=0)(np.zeros((4, 1, 2), np.float32))
    return nplstm.get_num_threads()

with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
    print(joblib.Parallel(n_jobs=2)(joblib.delayed(numbers)() for _ in range(2)))
"""
    assert python(code) == "[1, 1]"


# NumPy's BLAS


class Library:
    """A BLAS of eight threads, or what is said."""

    def __init__(self, count=8, *, per_thread=False):
        self.count, self.told = count, []
        self.blas = BlasThreads(lambda: self.count, self.set, per_thread)

    def set(self, count):
        self.told.append(count)
        self.count = count


@pytest.fixture
def library(monkeypatch):
    """Another BLAS in the place of NumPy's."""
    found = Library(8)
    limit = BlasLimit(found.blas)
    monkeypatch.setattr(blas, "_limit", lambda: limit)
    return found


LARGE, SMALL, TINY = (1000, 100, WORTH_THREADS), (1000, 1, WORTH_THREADS - 1), (28, 1, 9215)


def test_blas_is_limited_while_a_call_runs(library, number):
    number(3)
    with limited_blas(*LARGE):
        assert library.count == 3
    assert library.told == [3, 8]
    with pytest.raises(ZeroDivisionError), limited_blas(*LARGE):
        raise ZeroDivisionError
    assert library.told == [3, 8, 3, 8]


@pytest.mark.parametrize("count", [8, 9])
def test_blas_is_left_alone_where_it_has_no_more(count, library, number):
    number(count)
    with limited_blas(*LARGE):
        assert library.count == 8
    assert library.told == []


def test_small_products_have_one_thread(library, number):
    number(8)
    with limited_blas(*SMALL):
        assert library.count == 1
    assert library.told == [1, 8]


def test_a_product_without_threads_costs_nothing(library, number, monkeypatch):
    number(1)
    monkeypatch.setattr(BlasLimit, "enter", lambda *_: 1 / 0)
    with limited_blas(*TINY):
        assert library.count == 8


def test_a_blas_that_cannot_be_asked_is_left_alone(number, monkeypatch):
    monkeypatch.setattr(blas, "_limit", lambda: None)
    number(1)
    with limited_blas(*LARGE):
        pass


def test_the_last_call_to_end_sets_it_back(library, number):
    """Calls that overlap without being nested, as those of two threads do."""
    number(2)
    first, second, third = (limited_blas(*LARGE) for _ in range(3))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert library.count == 2
    third.__enter__()
    second.__exit__(None, None, None)
    third.__exit__(None, None, None)
    assert library.told == [2, 8]


def test_a_large_call_keeps_its_threads_beside_small_ones(library, number):
    number(4)
    with limited_blas(*SMALL):
        with limited_blas(*LARGE):
            with limited_blas(*SMALL):
                assert library.count == 4
            assert library.count == 4
        assert library.count == 1
    assert library.count == 8


def test_many_threads_leave_the_number_as_it_was(library, number):
    number(2)
    seen = []

    def work(size):
        for _ in range(300):
            with limited_blas(*size):
                seen.append(library.count)

    workers = [threading.Thread(target=work, args=(size,)) for size in (LARGE, SMALL) * 2]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    assert len(seen) == 1200
    assert set(seen) <= {1, 2}
    assert library.count == 8


def test_what_others_set_meanwhile_stays(library, number):
    number(2)
    with limited_blas(*LARGE):
        library.set(1)
    assert library.count == 1
    library.set(8)
    with limited_blas(*LARGE):
        library.set(6)
        with limited_blas(*LARGE):
            assert library.count == 2
    assert library.count == 6


def test_each_thread_has_its_number_with_openmp(number, monkeypatch):
    numbers, told = threading.local(), []

    def put(count):
        told.append((threading.current_thread().name, count))
        numbers.count = count

    limit = BlasLimit(BlasThreads(lambda: getattr(numbers, "count", 8), put, per_thread=True))
    monkeypatch.setattr(blas, "_limit", lambda: limit)
    number(2)

    def work():
        with limited_blas(*LARGE):
            pass

    with limited_blas(*LARGE):
        other = threading.Thread(target=work, name="other")
        other.start()
        other.join()
    this = threading.current_thread().name
    assert told == [(this, 2), ("other", 2), ("other", 8), (this, 8)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_during_a_call_is_not_limited_for_good():
    code = """
import os
from nplstm.engines.blas import BlasLimit, BlasThreads
count = 8
def put(number):
    global count
    count = number
limit = BlasLimit(BlasThreads(lambda: count, put))
limit.enter(2)
with limit._lock:  # as if another thread was in the midst of it
    child = os.fork()
    if child == 0:
        before = count
        limit.enter(3)
        within = count
        limit.leave(3)
        print("child:", before, within, count, flush=True)
        os._exit(0)
os.waitpid(child, 0)
limit.leave(2)
print("parent:", count)
"""
    assert python(code).splitlines() == ["child: 8 3 8", "parent: 8"]


class Symbols:
    """A library as ctypes shows it."""

    def __init__(self, **functions):
        self.__dict__.update({name: self.function(answer) for name, answer in functions.items()})

    @staticmethod
    def function(answer):
        def call(*arguments):
            return answer

        return call


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        (dict(openblas_get_num_threads=6, openblas_set_num_threads=0, openblas_get_parallel=1), (6, False)),
        (
            dict(
                scipy_openblas_get_num_threads64_=5,
                scipy_openblas_set_num_threads64_=0,
                scipy_openblas_get_parallel64_=1,
            ),
            (5, False),
        ),
        (
            dict(
                openblas_get_num_threads=6,
                openblas_set_num_threads=0,
                openblas_get_parallel=2,
                omp_get_max_threads=4,
                omp_set_num_threads=0,
            ),
            (4, True),
        ),
        (dict(MKL_Get_Max_Threads=3, MKL_Set_Num_Threads=0), (3, False)),
        (dict(bli_thread_get_num_threads=-1, bli_thread_set_num_threads=0), (-1, False)),
        (dict(flexiblas_get_num_threads=2, flexiblas_set_num_threads=0), (2, False)),
    ],
)
def test_libraries_are_known_by_their_functions(functions, expected, monkeypatch):
    monkeypatch.setattr(blas, "libraries", lambda: ["/no/such/library", "/blas"])

    def load(path):
        if path != "/blas":
            raise OSError(path)
        return Symbols(**functions)

    monkeypatch.setattr(blas, "ctypes", SimpleNamespace(PyDLL=load, c_int=ctypes.c_int))
    found = find_blas_threads.__wrapped__()
    assert (found.get(), found.per_thread) == expected


def test_a_library_without_such_functions_is_none(monkeypatch):
    monkeypatch.setattr(blas, "ctypes", SimpleNamespace(PyDLL=lambda path: Symbols(), c_int=ctypes.c_int))
    assert find_blas_threads.__wrapped__() is None


# The NumPy engine on the BLAS there is


@pytest.fixture
def real_blas():
    """NumPy's own, with two threads."""
    found = find_blas_threads()
    if found is None:
        pytest.skip("NumPy's BLAS has no functions that are known")
    before = found.get()
    found.set(2)
    if found.get() != 2:
        pytest.skip("NumPy's BLAS is built for one thread")
    yield found
    found.set(before)


def call(lstm, x):
    lstm(x)


def there_and_back(lstm, x):
    lstm.record(x).backward(np.zeros((len(x), x.shape[1], lstm.hidden_size), np.float32))


def stream(lstm, x):
    lstm.stream(x.shape[1]).step(x[0])


ROUTES = {  # what is called, T, layers, and how often BLAS is limited meanwhile
    "short": (call, 30, 1, 1),
    "long": (call, 1100, 1, 1),
    "diagonal": (call, 30, 3, 1),
    "back": (there_and_back, 30, 1, 2),
    "stream": (stream, 30, 2, 1),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_way_into_the_numpy_engine_is_limited(route, number, real_blas, monkeypatch):
    """BLAS has one thread whenever NumPy multiplies, and two before and after."""
    run, T, layers, times = ROUTES[route]
    lstm, x = nplstm.LSTM(64, 64, layers, rng=0), np.zeros((T, 1, 64), np.float32)
    seen, entered, step, enter = [], [], Cell.step, BlasLimit.enter

    def watched_step(cell, *arguments):
        seen.append(real_blas.get())
        return step(cell, *arguments)

    def watched_enter(limit, threads):
        entered.append(threads)
        enter(limit, threads)

    monkeypatch.setattr(Cell, "step", watched_step)
    monkeypatch.setattr(BlasLimit, "enter", watched_enter)
    with nplstm.use_engines("numpy"):
        for threads, worth, expected in ((1, 0, 1), (2, 10**9, 1), (2, 0, 2)):
            number(threads)
            monkeypatch.setattr(blas, "WORTH_THREADS", worth)
            seen.clear()
            entered.clear()
            run(lstm, x)
            assert set(seen) == {expected}
            assert entered == [expected] * times
            assert real_blas.get() == 2


def test_a_limited_call_in_two_threads_sets_blas_back(number, real_blas):
    lstm, x = nplstm.LSTM(64, 64, rng=0), np.zeros((50, 4, 64), np.float32)
    number(1)

    def work():
        with nplstm.use_engines("numpy"):
            for _ in range(50):
                lstm(x)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert real_blas.get() == 2
