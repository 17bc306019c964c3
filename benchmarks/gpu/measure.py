"""One case on a GPU: results of all libraries compared, then calls timed in turns, then their memory."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..common.cases import Case, Prepared
from ..common.checks import WrongResultError, differences, relative_norm
from ..common.timing import interleave, summary
from .cases import TOLERANCES
from .library import Library, is_out_of_memory, seconds_waited

__all__ = ["DeviceLostError", "measure"]


class DeviceLostError(Exception):
    """After an error the device does not answer any more: nothing that follows would mean anything."""


class _Way(NamedTuple):
    library: Library
    prepared: Prepared


def measure(case: Case, libraries: Sequence[Library], *, seconds: float) -> dict[str, Any]:
    """Check and time a case; return its record.

    Parameters
    ----------
    libraries : sequence of Library
        The first one's results are what the others' are compared with.
    seconds : float
        For each way to run it, at least.

    Raises
    ------
    DeviceLostError
        If a library's error has left the device unusable.
    """
    record: dict[str, Any] = case.described() | {"steps": case.steps, "seconds": seconds}
    record |= {what: {} for what in ("values", "engines", "notes", "differences", "memory", "refused")}
    _make_room(libraries)
    ways: dict[str, _Way] = {}
    for library in libraries:
        found = _tried(library, case, library.name, record, lambda library=library: library.prepare(case))
        for name, prepared in (found or {}).items():
            ways[name] = _Way(library, prepared)
            record["engines"][name], record["notes"][name] = prepared.engine, list(prepared.notes)
    ways = _agreeing(ways, case, record)
    if len(ways) > 1:  # a figure that stands alone would not be of this comparison
        _time(ways, case, seconds, record)
    record["outcome"] = _outcome(record)
    return record


def _make_room(libraries: Iterable[Library]) -> None:
    """Have each library give back what it keeps for later: the other one may need it now."""
    try:
        for library in libraries:
            library.meter.release()
    except Exception as error:
        raise DeviceLostError(f"{type(error).__name__}: {error}") from error


def _agreeing(ways: dict[str, _Way], case: Case, record: dict[str, Any]) -> dict[str, _Way]:
    """Return those whose results are those of the first."""
    good: dict[str, _Way] = {}
    expected: dict[str, Any] | None = None
    for name, way in ways.items():
        results = _tried(way.library, case, name, record, way.prepared.results)
        if results is None:
            continue
        if expected is None:
            good[name], expected = way, results
            continue
        try:
            way.library.meter.wait()
            found = differences(results, expected, lambda _: TOLERANCES[case.precision], relative_norm)
            record["differences"][name], good[name] = found, way
        except WrongResultError as error:
            record["refused"][name] = f"WRONG: {error}"
    return good


def _time(ways: dict[str, _Way], case: Case, seconds: float, record: dict[str, Any]) -> None:
    """Time the ways in turns, then look at each one's memory."""
    turns = {name: _turn(way, case) for name, way in ways.items()}
    try:
        samples = interleave(turns, seconds)
    except Exception as error:  # noqa: BLE001  of any library
        _refuse(next(iter(ways.values())).library, " and ".join(ways), error, record)
        return
    record["values"] = {name: summary(column) for name, column in samples.items()}
    for name, way in ways.items() if case.group == "table" else ():
        _make_room(each.library for each in ways.values())
        peak = _tried(
            way.library, case, name, record, lambda way=way: way.library.meter.peak_bytes(way.prepared.call)
        )
        if peak is not None:
            record["memory"][name] = peak


def _turn(way: _Way, case: Case) -> Callable[[int, int], float]:
    """Return what makes some calls that do not count, and tells how long those after them take."""
    meter, call = way.library.meter, way.prepared.call

    def turn(calls: int, warm: int) -> float:
        with way.library.settings(case):
            for _ in range(warm):
                call()
            meter.wait()
            return seconds_waited(meter, call, calls) if case.task == "latency" else meter.seconds(call, calls)

    return turn


def _tried(library: Library, case: Case, name: str, record: dict[str, Any], do: Callable[[], Any]) -> Any:
    """Return what it returns, in the library's settings; None where it raises, with the reason in the record."""
    try:
        with library.settings(case):
            return do()
    except Exception as error:  # noqa: BLE001  of any library: the next case may be well
        _refuse(library, name, error, record)
        return None


def _refuse(library: Library, name: str, error: Exception, record: dict[str, Any]) -> None:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
    record["refused"][name] = f"{kind}: {first}"
    try:
        library.meter.wait()
    except Exception as lost:  # noqa: BLE001
        raise DeviceLostError(f"{record['label']}, {name}: {record['refused'][name]}; then {lost}") from error


def _outcome(record: dict[str, Any]) -> str:
    """Say in a word how it went, by the worst that happened."""
    reasons = list(record["refused"].values())
    if any(reason.startswith("WRONG") for reason in reasons):
        return "wrong"
    # where engines are compared, not each runs each case: a refusal is no failure
    if record["values"] and all(reason.startswith(("ArgumentError", "out of memory")) for reason in reasons):
        return "timed"
    return "out of memory" if any(reason.startswith("out of memory") for reason in reasons) else "failed"
