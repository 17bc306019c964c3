"""One case on a GPU: results of all libraries compared, then calls timed in turns, then their memory."""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from ..common.cases import Case, Prepared
from ..common.checks import WrongResultError, differences, relative_norm
from ..common.timing import interleave, summary
from .cases import TOLERANCES


class DeviceLostError(Exception):
    """After an error the device does not answer any more: nothing that follows would mean anything."""


class Library:
    """A library on the GPU.

    Each has ``settings(case)``, a context in which it computes in the case's precision; ``prepare(case)``, which
    returns the ways to run a case, by name; ``make_layer(case)``, on the device; ``facts()``, its versions. Its
    ``meter`` measures on the current stream: ``seconds(call, calls)`` between two events, ``peak_bytes(call)`` of
    the allocator; it can ``wait()`` for the device, which raises if that has failed, and ``release()`` memory that
    is not in use.
    """

    settings: Any
    prepare: Any
    make_layer: Any
    facts: Any

    def __init__(self, name: str, meter: Any) -> None:
        self.name, self.meter = name, meter
        self._kept: tuple[Any, Any] | None = None

    def layer(self, case: Case) -> Any:
        """Return the case's layer, which the case before it may have had too."""
        key = case.layers, case.bidirectional, case.H, case.precision
        if self._kept is None or self._kept[0] != key:
            self.forget()
            self._kept = key, self.make_layer(case)
        return self._kept[1]

    def forget(self) -> None:
        """Release the layer."""
        self._kept = None


class _Way(NamedTuple):
    library: Library
    prepared: Prepared


def measure(case: Case, libraries: Sequence[Library], *, seconds: float) -> dict[str, Any]:
    """Check and time a case, each way to run it for so many seconds at least; return its record.

    The first library's results are what the others' are compared with. Raises DeviceLostError if a library's error
    has left the device unusable.
    """
    record: dict[str, Any] = case.described() | {"steps": case.steps, "seconds": seconds}
    record |= {what: {} for what in ("values", "engines", "notes", "differences", "memory", "refused")}
    _make_room(libraries)
    ways: dict[str, _Way] = {}
    for library in libraries:
        with _guarded(library, library.settings(case), library.name, record):
            for name, prepared in library.prepare(case).items():
                ways[name] = _Way(library, prepared)
                record["engines"][name], record["notes"][name] = prepared.engine, list(prepared.notes)
    good: dict[str, _Way] = {}
    expected: dict[str, Any] | None = None
    for name, way in ways.items():
        with _guarded(way.library, way.library.settings(case), name, record):
            results = way.prepared.results()
            way.library.meter.wait()
            if expected is None:
                expected = results
            else:
                limit = TOLERANCES[case.precision]
                found = differences(results, expected, lambda _, limit=limit: limit, relative_norm)
                record["differences"][name] = found
            good[name] = way
    if len(good) > 1:  # a figure that stands alone would not be of this comparison
        _time(good, case, seconds, record)
    record["outcome"] = _outcome(record)
    return record


def _make_room(libraries: Iterable[Library]) -> None:
    """Release the cached memory of each library: the other one may need it now."""
    try:
        for library in libraries:
            library.meter.release()
    except Exception as error:
        raise DeviceLostError(f"{type(error).__name__}: {error}") from error


def _time(ways: dict[str, _Way], case: Case, seconds: float, record: dict[str, Any]) -> None:
    """Time the ways in turns, then look at each one's memory."""
    with _guarded(next(iter(ways.values())).library, nullcontext(), " and ".join(ways), record):
        samples = interleave({name: _turn(way, case) for name, way in ways.items()}, seconds)
        record["values"] = {name: summary(column) for name, column in samples.items()}
    for name, way in ways.items() if case.group == "table" and record["values"] else ():
        _make_room(each.library for each in ways.values())
        with _guarded(way.library, way.library.settings(case), name, record):
            record["memory"][name] = way.library.meter.peak_bytes(way.prepared.call)


def _turn(way: _Way, case: Case) -> Callable[[int, int], float]:
    """Return what makes some calls that do not count, and tells how long those after them take.

    In the task "latency" each call is waited for, and the clock is the host's.
    """
    meter, call = way.library.meter, way.prepared.call

    def turn(calls: int, warm: int) -> float:
        with way.library.settings(case):
            for _ in range(warm):
                call()
            meter.wait()
            if case.task != "latency":
                return meter.seconds(call, calls)
            start = time.perf_counter()
            for _ in range(calls):
                call()
                meter.wait()
            return time.perf_counter() - start

    return turn


@contextmanager
def _guarded(library: Library, settings: Any, name: str, record: dict[str, Any]) -> Generator[None]:
    """Put an error of what is inside into the record, and raise if the device is lost with it."""
    try:
        with settings:
            yield
    except Exception as error:  # noqa: BLE001  of any library: the next case may be well
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        record["refused"][name] = f"{_kind(error)}: {first}"
        try:
            library.meter.wait()
        except Exception as lost:  # noqa: BLE001
            told = f"{record['label']}, {name}: {record['refused'][name]}; then {lost}"
            raise DeviceLostError(told) from error


def _kind(error: Exception) -> str:
    if isinstance(error, WrongResultError):
        return "WRONG"
    kind, words = type(error).__name__, str(error).lower()  # each library has its own error for a lack of memory
    full = kind in ("OutOfMemoryError", "MemoryError") or "out of memory" in words or "alloc_failed" in words
    return "out of memory" if full else kind


def _outcome(record: dict[str, Any]) -> str:
    """Say in a word how it went, by the worst that happened."""
    reasons = list(record["refused"].values())
    if any(reason.startswith("WRONG") for reason in reasons):
        return "wrong"
    # where engines are compared, not each runs each case: a refusal is no failure
    if record["values"] and all(reason.startswith(("ArgumentError", "out of memory")) for reason in reasons):
        return "timed"
    return "out of memory" if any(reason.startswith("out of memory") for reason in reasons) else "failed"
