"""A case: checked, then timed in turns, then its memory."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from nplstm.backends._cuda import Device

from ..rivals.measure import interleave, summary
from .cases import Case
from .check import TOLERANCES, WrongResultError, differences
from .library import Library, Prepared, is_out_of_memory, seconds_waited
from .model import modelled

__all__ = ["DeviceLostError", "measure"]


class DeviceLostError(Exception):
    """After an error the device does not answer any more: nothing that follows would mean anything."""


class _Way(NamedTuple):
    library: Library
    prepared: Prepared


def measure(
    case: Case, libraries: Sequence[Library], *, seconds: float, slack: float, device: Device | None
) -> dict[str, Any]:
    """Check and time a case; return its record.

    Parameters
    ----------
    libraries : sequence of Library
        The first one's results are what the others' are compared with.
    seconds : float
        For each way to run it, at least.
    slack : float
        What tolerances are multiplied by.
    device : Device, optional
        Of which a model says what the case should take.

    Raises
    ------
    DeviceLostError
        If a library's error has left the device unusable.
    """
    record: dict[str, Any] = {
        "part": case.part,
        "task": case.task,
        "label": case.label,
        "case": case.as_dict(),
        "steps": case.steps,
        "seconds": seconds,
        "cudnn_persists": case.cudnn_persists,
        "model_us": modelled(case, device) if device and case.steps > 1 else None,
    } | {what: {} for what in ("values", "engines", "notes", "differences", "memory", "refused")}
    _make_room(libraries)
    ways = _agreeing(_prepare(case, libraries, record), case, slack, record)
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


def _prepare(case: Case, libraries: Sequence[Library], record: dict[str, Any]) -> dict[str, _Way]:
    """Return the ways to run the case, by name."""
    ways: dict[str, _Way] = {}
    for library in libraries:
        found = _tried(library, case, library.name, record, lambda library=library: library.prepare(case))
        for name, prepared in (found or {}).items():
            ways[name] = _Way(library, prepared)
            record["engines"][name], record["notes"][name] = prepared.engine, list(prepared.notes)
    return ways


def _agreeing(ways: dict[str, _Way], case: Case, slack: float, record: dict[str, Any]) -> dict[str, _Way]:
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
            record["differences"][name] = differences(results, expected, slack * TOLERANCES[case.precision])
            good[name] = way
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
    for name, way in ways.items() if case.part == "table" else ():
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
    memory = is_out_of_memory(error)
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    record["refused"][name] = f"out of memory: {first}" if memory else f"{type(error).__name__}: {first}"
    try:
        library.meter.wait()
    except Exception as lost:  # noqa: BLE001
        raise DeviceLostError(f"{record['label']}, {name}: {record['refused'][name]}; then {lost}") from error


def _outcome(record: dict[str, Any]) -> str:
    """Say in a word how it went, by the worst that happened."""
    reasons = list(record["refused"].values())
    if any(reason.startswith("WRONG") for reason in reasons):
        return "wrong"
    if record["values"] and not any(map(_failure, reasons)):
        return "timed"
    return "out of memory" if any(reason.startswith("out of memory") for reason in reasons) else "failed"


def _failure(reason: str) -> bool:
    """Tell whether it is more than an engine's refusal: where engines are compared, not each runs each case."""
    return not reason.startswith(("ArgumentError", "out of memory"))
