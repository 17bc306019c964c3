"""``nplstm bench``: times of an LSTM's step, inference and training on this machine, for each engine.

The comparison with other libraries is in ``benchmarks/``.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from nplstm import __version__
from nplstm._shapes import check_number
from nplstm.engines import unsupported_reasons, use_engines
from nplstm.engines.threads import get_num_threads
from nplstm.layers import LSTM

__all__ = ["Row", "bench", "bench_command", "show"]

_CASES = (
    *(("step", 1, H, 1) for H in (32, 128, 512)),
    *(
        (task, *sizes)
        for task in ("inference", "training")
        for sizes in ((1, 128, 100), (32, 128, 100), (8, 512, 100))
    ),
)
"""Task, B, H, T."""

_TURN = 0.01
"""Seconds of a sample, at least: a short call is repeated."""


@dataclass
class Row:
    """One task at one size; the input is as wide as the hidden state."""

    task: str
    B: int
    H: int
    T: int
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """By engine, the median time of a call: a step, a sequence, or a sequence forward and backward."""


def bench_command(*, as_json: bool = False, seconds: float = 0.3) -> int:
    """Measure, and print a table or one JSON object; return 0, the exit status.

    Raises
    ------
    ArgumentError
        If ``seconds`` is negative.
    """
    rows, missing = bench(check_number("--seconds", seconds, minimum=0.0))
    if as_json:
        where = {"nplstm": __version__, "numpy": np.__version__, "threads": get_num_threads()}
        text = json.dumps(where | {"rows": [asdict(row) for row in rows], "missing": missing}, indent=2)
    else:
        text = show(rows, missing)
    sys.stdout.write(text + "\n")
    return 0


def bench(seconds: float, cases: Sequence[tuple[str, int, int, int]] = _CASES) -> tuple[list[Row], dict[str, str]]:
    """Measure the cases (task, B, H, T) in float32, each for so many seconds on each engine.

    Returns
    -------
    rows : list of Row
    missing : dict
        By name of an engine that cannot run here, why.

    Examples
    --------
    >>> from nplstm.commands.bench import bench
    >>> rows, missing = bench(0.0, cases=[("training", 2, 4, 3)])
    >>> rows[0].seconds["plain"] > 0
    True
    """
    rows, missing = [Row(*case) for case in cases], dict[str, str]()
    # one engine after the other: BLAS threads wait busily for a while, and would take a core from the next engine
    for name, refusal in unsupported_reasons().items():
        if refusal:
            missing[name] = refusal
            continue
        with use_engines(name):
            for row in rows:
                row.seconds[name] = _median(_call(row), seconds)
    return rows, missing


def _median(call: Callable[[], object], seconds: float) -> float:
    """Return the median of samples, after one call to warm up."""
    call()
    end = time.perf_counter() + seconds
    turns = [_turn(call)]
    while time.perf_counter() < end:
        turns.append(_turn(call))
    return statistics.median(turns)


def _turn(call: Callable[[], object]) -> float:
    """Return the mean time of calls that take ``_TURN`` together: long enough for the clock's resolution."""
    count, start = 0, time.perf_counter()
    end = start
    while count == 0 or end - start < _TURN:
        call()
        count, end = count + 1, time.perf_counter()
    return (end - start) / count


def _call(row: Row) -> Callable[[], object]:
    """Return the call that is timed for a row."""
    lstm, rng = LSTM(row.H, row.H, rng=0), np.random.default_rng(0)
    x = rng.standard_normal((row.T, row.B, row.H), dtype=np.float32)
    if row.task == "step":
        stream, x_t = lstm.stream(row.B), x[0]
        return lambda: stream.step(x_t)
    if row.task == "training":
        return lambda: lstm.record(x).backward(x)
    return lambda: lstm(x)


def show(rows: Sequence[Row], missing: dict[str, str]) -> str:
    """Return the table as text, and the reason why an engine is missing.

    >>> from nplstm.commands.bench import Row, show
    >>> row = Row("step", B=1, H=32, T=1, seconds={"numpy": 11.5e-6})
    >>> print(show([row], {"compiled": "no library"}).replace("µ", "u"))
                 B    H    T        numpy
    step         1   32    1      11.5 us
    not compiled: no library
    """
    names = list(rows[0].seconds)
    lines = [f"{'':10}{'B':>4}{'H':>5}{'T':>5}" + "".join(f"{name:>13}" for name in names)]
    for row in rows:
        figures = "".join(f"{row.seconds[name] * 1e6:10,.1f} µs" for name in names)
        lines.append(f"{row.task:10}{row.B:4}{row.H:5}{row.T:5}{figures}")
    return "\n".join([*lines, *(f"not {name}: {reason}" for name, reason in missing.items())])
