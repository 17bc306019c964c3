"""Measures matrix products, with other kernels of OpenBLAS too, and tanh: most of an LSTM's time goes into these.

OpenBLAS chooses kernels by a list of the processors that it knows. On a newer one with AVX-512 it may run the AVX2
kernels, at up to half the speed. OPENBLAS_CORETYPE overrides its choice, if it is set when the library is loaded:
so ``try_kernels`` starts interpreters that run this module, with the variable and without in turns.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from nplstm.commands.doctor.machine import OPENBLAS, Blas, Processor, find_blas
from nplstm.engines.blas import BlasLimit, find_blas_threads

Shape: TypeAlias = tuple[int, int, int]
"""M, K, N of a product (M, K) @ (K, N)."""

SQUARE, LARGE_STEP, SMALL_STEP = (1024, 1024, 1024), (2048, 512, 32), (512, 128, 32)
"""An LSTM's step is the product of its weights (4H, H) and the state of a batch (H, B)."""
_NAMES = {
    SQUARE: "square",
    LARGE_STEP: "LSTM step, H = 512, B = 32",
    SMALL_STEP: "LSTM step, H = 128, B = 32",
}
TANH_SIZE = 4 * 128 * 32  # the gates of the smaller step

ROUNDS, SECONDS = 4, 0.1
"""Each thing is measured in turns, this long in each round. The first round warms up and does not count."""

VARIABLE, KERNELS = "OPENBLAS_CORETYPE", "SkylakeX"
PAYS = 1.1
"""What a setting has to gain to be worth a variable in the environment."""
_WITH_AVX512 = {"SkylakeX", "Cooperlake", "SapphireRapids"}
# other programs make threads wait for each other, and then all kernels are equally slow
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class ProductRate:
    """The speed of one product, float32; the median over rounds."""

    name: str
    shape: Shape
    threads: int | None
    """How many BLAS may use; None where that is unknown."""
    gflops: float


@dataclass(frozen=True)
class Rates:
    """What was measured."""

    products: list[ProductRate]
    tanh_ns: float
    """Nanoseconds an element, float32; the median over rounds."""


@dataclass(frozen=True)
class KernelTrial:
    """The larger step's product on one thread, with the kernels that OpenBLAS runs and with others; medians."""

    kernels: str
    gflops: float
    tried: str
    tried_gflops: float
    speedup: float
    """Median over pairs of runs, one after the other."""

    @property
    def pays(self) -> bool:
        """Whether the variable acts, and gains enough."""
        return self.tried != self.kernels and self.speedup > PAYS


def measure_rates(threads: int | None) -> Rates:
    """Measure products and tanh, the steps on one thread too where BLAS has more; takes some two seconds."""
    limits = [threads, 1] if threads is not None and threads > 1 else [threads]
    cases = [(SQUARE, threads), *((shape, limit) for shape in (LARGE_STEP, SMALL_STEP) for limit in limits)]
    x = np.random.default_rng(0).standard_normal(TANH_SIZE, dtype=np.float32)
    calls = [
        *((product_call(shape), limit) for shape, limit in cases),
        (partial(np.tanh, x, np.empty_like(x)), None),
    ]
    blas = find_blas_threads()
    limited = BlasLimit(blas).contexts if blas else None
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for (call, limit), seconds in zip(calls, samples, strict=True):
            with limited(limit) if limited and limit else nullcontext():
                seconds.append(seconds_per_call(call, SECONDS))
    *of_products, of_tanh = (statistics.median(seconds[1:]) for seconds in samples)
    timed = zip(cases, of_products, strict=True)
    products = [
        ProductRate(_NAMES[shape], shape, limit, gflops(shape, seconds)) for (shape, limit), seconds in timed
    ]
    return Rates(products, of_tanh / TANH_SIZE * 1e9)


def gflops(shape: Shape, seconds: float) -> float:
    """Return the rate of a product that took ``seconds``: a multiplication and an addition for each of M·K·N.

    >>> gflops((1000, 1000, 1000), seconds=2.0)
    1.0
    """
    m, k, n = shape
    return 2 * m * k * n / seconds / 1e9


def product_call(shape: Shape) -> Callable[[], object]:
    """Return a function that computes one product in float32."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.random((m, k), dtype=np.float32), rng.random((k, n), dtype=np.float32)
    return partial(np.dot, a, b, np.empty((m, n), np.float32))


def seconds_per_call(call: Callable[[], object], seconds: float) -> float:
    """Call for so many seconds, at least once, after one call to warm up; return the mean time of a call.

    The mean, since threads that wait for each other make a few calls very slow, and a user waits for those too.
    """
    call()
    count, start = 0, time.perf_counter()
    end = start
    while count == 0 or end - start < seconds:
        call()
        count, end = count + 1, time.perf_counter()
    return (end - start) / count


def worth_trying(processor: Processor, blas: Blas) -> bool:
    """Tell whether OpenBLAS runs kernels without AVX-512 on a processor that has it."""
    no_avx512 = blas.kernels is not None and blas.kernels not in _WITH_AVX512
    return blas.name == OPENBLAS and no_avx512 and "avx512f" in processor.instructions


def try_kernels() -> KernelTrial | None:
    """Compare the environment as it is with the variable set, in some three seconds; None if a run fails."""
    try:
        pairs = [(_run({}), _run({VARIABLE: KERNELS})) for _ in range(3)]
    except (OSError, subprocess.SubprocessError, ValueError):  # an emulated AVX-512 may kill the process
        return None
    now, tried = zip(*pairs, strict=True)
    rates = (statistics.median(run["gflops"] for run in runs) for runs in (now, tried))
    speedup = statistics.median(b["gflops"] / a["gflops"] for a, b in pairs)
    return KernelTrial(now[0]["kernels"], next(rates), tried[0]["kernels"], next(rates), speedup)


def _run(variables: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__]
    environment = os.environ | _ONE_THREAD | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def _main() -> None:
    call = product_call(LARGE_STEP)
    seconds_per_call(call, 0.05)  # warms up
    rate = gflops(LARGE_STEP, seconds_per_call(call, 0.15))
    sys.stdout.write(json.dumps({"kernels": find_blas().kernels, "gflops": rate}))


if __name__ == "__main__":
    _main()
