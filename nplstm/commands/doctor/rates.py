"""How fast NumPy computes here: products of matrices and tanh, the two things that an LSTM's time goes into.

No table of processors says what would be possible. The best rate that was measured is what the other rates are a
share of: a product of small matrices has a lower one, and how much lower is what the share tells.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from nplstm.commands.doctor.blas import thread_limit

Progress: TypeAlias = Callable[[Sequence[Any], str], Iterable[Any]]
"""Passes on the items of a sequence, and shows under a title how far it is."""

Shape: TypeAlias = tuple[int, int, int]
"""M, K, N of a product (M, K) @ (K, N)."""

SQUARES: dict[str, Shape] = {"square": (1024, 1024, 1024), "small square": (512, 512, 512)}

STEPS: dict[str, Shape] = {
    "LSTM step, H = 512, B = 32": (2048, 512, 32),
    "LSTM step, H = 128, B = 32": (512, 128, 32),
}
"""An LSTM's step is the product of its weights (4H, H) and the state of a batch (H, B)."""

TANH_SIZE = 4 * 128 * 32  # the gates of the smaller step

ROUNDS = 4
SECONDS = 0.1
"""Each thing is measured in turns, this long in each round. The first round warms up and does not count."""


@dataclass(frozen=True)
class Product:
    """The speed of one product, float32."""

    name: str
    shape: Shape
    threads: int | None
    """How many BLAS may use; None where that is unknown."""
    gflops: float
    share: float
    """Of the best rate measured."""


@dataclass(frozen=True)
class Rates:
    """Medians over rounds."""

    products: list[Product]
    best_gflops: float
    tanh_ns: float
    """Nanoseconds an element, float32."""


class _Case(NamedTuple):
    name: str
    shape: Shape
    threads: int | None


def measure_rates(progress: Progress, threads: int | None) -> Rates:
    """Measure products and tanh, the steps on one thread too where BLAS has more; takes some three seconds."""
    cases = [_Case(*item, threads) for item in (SQUARES | STEPS).items()]
    if threads is not None and threads > 1:
        cases += [_Case(*item, 1) for item in STEPS.items()]
    calls = {case: product_call(case.shape) for case in cases} | {None: _tanh_call()}
    samples: dict[_Case | None, list[float]] = {case: [] for case in calls}
    for count, case in progress([(count, case) for count in range(ROUNDS) for case in calls], "measuring"):
        with thread_limit(case.threads if case else None):
            seconds = seconds_per_call(calls[case], SECONDS)
        samples[case] += [seconds] if count else []
    rates = {case: gflops(case.shape, statistics.median(samples[case])) for case in cases}
    best = max(rates.values())
    products = [Product(*case, rate, rate / best) for case, rate in rates.items()]
    return Rates(products, best, statistics.median(samples[None]) / TANH_SIZE * 1e9)


def gflops(shape: Shape, seconds: float) -> float:
    """Return the rate of a product that took so long: a multiplication and an addition for each of M·K·N."""
    m, k, n = shape
    return 2 * m * k * n / seconds / 1e9


def product_call(shape: Shape) -> Callable[[], object]:
    """Return a function that computes one product in float32."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.random((m, k), dtype=np.float32), rng.random((k, n), dtype=np.float32)
    out = np.empty((m, n), np.float32)
    return lambda: np.dot(a, b, out)


def _tanh_call() -> Callable[[], object]:
    x = np.random.default_rng(0).standard_normal(TANH_SIZE, dtype=np.float32)
    out = np.empty_like(x)
    return lambda: np.tanh(x, out)


def seconds_per_call(call: Callable[[], object], seconds: float) -> float:
    """Return what one of the calls takes that fill so many seconds; there is one at least, after one to warm up.

    The mean, since threads that wait for each other make a few calls very slow, and a user waits for those too.
    """
    call()
    count, start = 0, time.perf_counter()
    end = start
    while count == 0 or end - start < seconds:
        call()
        count, end = count + 1, time.perf_counter()
    return (end - start) / count
