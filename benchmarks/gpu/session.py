"""A whole run: engines looked at, then libraries timed, until all is done or the time is out."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from nplstm._progress import terminal_bar

from .cases import Case, cases_of, select
from .figures import OURS, RIVAL, fastest, microseconds, ratio
from .library import Library
from .measure import DeviceLostError, measure
from .sanitize import sanitize
from .verify import SHAPES, SMALL, at_limits, compare, soak, watched
from .workbench import Workbench

__all__ = ["CHECKS", "DEFAULT_ENGINES", "Deadline", "Options", "Session", "new_run"]

CHECKS = ("verify", "soak", "sanitize")
"""Parts that time nothing."""

DEFAULT_ENGINES = ("persistent", "fused", "plain")

_LONGEST = 240.0
"""Seconds that no case takes."""


class Options(NamedTuple):
    """What is done, and how long."""

    parts: Sequence[str]
    precisions: Sequence[str]
    terms: Sequence[str] = ()
    seconds: float = 0.25
    soak: float = 30.0
    slack: float = 1.0
    quick: bool = False


class Deadline:
    """A time after which nothing new is started."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._end = clock, None if seconds is None else clock() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return float("inf") if self._end is None else max(0.0, self._end - self._clock())

    @property
    def over(self) -> bool:
        """Tell whether the time is out."""
        return self.left == 0.0


def new_run(place: dict[str, Any]) -> dict[str, Any]:
    """Return what a run begins as: all that is known of it, for JSON."""
    return {
        "places": [place],
        "slack": 1.0,
        "records": [],
        "verify": [],
        "soak": {},
        "sanitize": [],
        "left_out": [],
        "stopped": "",
    }


class Session:
    """Fills in a run; ``save`` gets it after each record, so that an interrupted one is not lost."""

    def __init__(
        self,
        bench: Workbench,
        options: Options,
        deadline: Deadline,
        run: dict[str, Any],
        save: Callable[[dict[str, Any]], None],
    ) -> None:
        self._bench, self._options, self._deadline = bench, options, deadline
        self._run, self._save = run, save
        self._bar = terminal_bar("gpu: install tqdm to see how far it is")

    def go(self) -> None:
        """Do all parts."""
        self._run["left_out"], self._run["stopped"] = [], ""
        self._run["slack"] = max(self._run["slack"], self._options.slack)
        checks = {"verify": self._verify, "soak": self._soak, "sanitize": self._sanitize}
        for part in self._options.parts:
            checks[part]() if part in CHECKS else self._time(part)
        self._run["clocks_after"] = {} if self._run["stopped"] else self._bench.clocks()
        self._save(self._run)

    # ------------------------------------------------------------------------------------------------ checks

    def _verify(self) -> None:
        """Compare the engines with the plain loop in float64."""
        self._run["verify"] = []
        device = self._bench.device
        limits = at_limits(device) if device and not self._options.quick else []
        for shape in self._each([*(SMALL if self._options.quick else SHAPES), *limits], "verify"):
            for found in compare([shape], self._bench.backend, slack=self._options.slack):
                self._run["verify"].append(found)
                self._show(_verified(found))
            self._save(self._run)

    def _soak(self) -> None:
        if self._over:
            self._run["left_out"].append("soak")
            return
        seconds = min(self._options.soak, self._deadline.left)
        streams = self._bench.streams()
        self._run["soak"] = soak(seconds, self._bench.backend, streams=streams, show=self._show)
        self._show(f"soak: {self._run['soak']}")
        self._save(self._run)

    def _sanitize(self) -> None:
        if self._over:
            self._run["left_out"].append("sanitize")
            return
        self._run["sanitize"] = sanitize(min(240.0, self._deadline.left))
        for found in self._run["sanitize"]:
            self._show(
                f"compute-sanitizer, {found['tool']}: {found['outcome']} {found.get('reason', '')}".rstrip()
            )
        self._save(self._run)

    # ------------------------------------------------------------------------------------------------ timing

    def _time(self, part: str) -> None:
        """Measure the cases of a part that are not in the run yet."""
        options, run = self._options, self._run
        cases = select(cases_of(part, options.precisions, quick=options.quick), options.terms)
        long_enough = (r for r in run["records"] if r["seconds"] >= options.seconds)
        there = [r["case"] for r in long_enough if r["outcome"] == "timed"]
        libraries = self._libraries(part)
        ours = self._bench.ours(DEFAULT_ENGINES, OURS) if part == "engines" else None
        for case in self._each([case for case in cases if case.as_dict() not in there], part):
            try:
                with watched(_LONGEST):
                    how = dict(seconds=options.seconds, slack=options.slack, device=self._bench.device)
                    record = measure(case, libraries, **how)
                    record["chosen"] = ours.choice(case) if ours else record["engines"].get(OURS, "")
            except DeviceLostError as error:
                run["stopped"] = f"the device does not answer any more: {error}"
                self._show(run["stopped"])
                continue
            run["records"] = [r for r in run["records"] if r["case"] != record["case"]] + [record]
            self._show(_row(record))
            self._save(run)
        for library in [*libraries, *([ours] if ours else [])]:
            library.forget()

    def _libraries(self, part: str) -> list[Library]:
        rival = [self._bench.rival] if self._bench.rival else []
        if part == "engines":
            return [*rival, *(self._bench.ours([name], name) for name in DEFAULT_ENGINES)]
        return [*rival, self._bench.ours(DEFAULT_ENGINES, OURS)]

    # ------------------------------------------------------------------------------------------------ progress

    def _each(self, items: Sequence[Any], part: str) -> Iterator[Any]:
        """Yield those that there is time for, and say which there was none for."""
        shown = self._bar(items, desc=part) if self._bar else items
        for item in shown:
            if self._over:
                self._run["left_out"].append(_named(item, part))
            else:
                yield item

    @property
    def _over(self) -> bool:
        """Tell whether nothing new is to be started."""
        return self._deadline.over or bool(self._run["stopped"])

    def _show(self, line: str) -> None:
        if self._bar:
            self._bar.write(line)
        else:
            print(line, flush=True)


def _named(item: Any, part: str) -> str:
    if isinstance(item, Case):
        return f"{part}: {item.precision} {item.task} {item.label}"
    return f"{part}: {item}"


def _verified(found: dict[str, Any]) -> str:
    what = f"{found['engine']} {found['precision']} {found['shape']}: {found['outcome']}"
    error = f" ({found['worst']} within {found['error']:.1e})" if found["outcome"] == "right" else ""
    return f"{what}{error}" + (f": {found['reason']}" if "reason" in found else "")


def _row(record: dict[str, Any]) -> str:
    """Return a line on a record: figures, or why there are none."""
    case = record["case"]
    words = [f"{case['precision']:8} {record['task']:8} {record['label']:36}"]
    words += [f"{name} {microseconds(record, name):.2f} us" for name in record["values"]]
    if (found := ratio(record)) is not None:
        words.append(f"{RIVAL}/{OURS} {found:.2f} ({record['chosen']})")
    elif record["part"] == "engines" and record["values"]:
        words.append(f"fastest: {fastest(record)}, chosen: {record['chosen']}")
    words += [f"{name}: {reason}" for name, reason in record["refused"].items()]
    return "  ".join(words)
