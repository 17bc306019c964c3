"""A whole run on a GPU: engines checked, then libraries timed, until all is done or the time is out."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..common.cases import Case
from .cases import GROUPS, cases_of
from .device import Gpu
from .measure import DeviceLostError, Library, measure
from .report import line
from .run_nplstm import ENGINES
from .sanitize import sanitize
from .verify import SHAPES, SMALL, at_limits, compare, soak, watched

CHECKS = ("verify", "soak", "sanitize")
"""Parts that time nothing; the other parts are groups of cases."""

_LONGEST = 240.0
"""Seconds that no case takes."""


def new_run(place: dict[str, Any]) -> dict[str, Any]:
    """Return what a run begins as: all that is known of it, for JSON."""
    checks = {"verify": [], "soak": {}, "sanitize": []}
    return {"places": [place], "records": [], **checks, "left_out": [], "stopped": ""}


class Session:
    """Fills in a run, by the command's options; ``save`` gets it after each record: an interrupted one is kept."""

    def __init__(
        self,
        gpu: Gpu,
        options: Namespace,
        run: dict[str, Any],
        save: Callable[[dict[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gpu, self._options, self._run, self._save = gpu, options, run, save
        self._clock, self._end = clock, clock() + options.budget

    def go(self) -> None:
        """Do all parts."""
        self._run["left_out"], self._run["stopped"] = [], ""
        checks = {"verify": self._verify, "soak": self._soak, "sanitize": self._sanitize}
        for part in (*CHECKS, *GROUPS):
            if part in self._options.only:
                checks[part]() if part in CHECKS else self._time(part)
        self._run["at_end"] = {} if self._run["stopped"] else self._gpu.describe()
        self._save(self._run)

    # ------------------------------------------------------------------------------------------------ checks

    def _verify(self) -> None:
        """Compare the engines with the plain loop in float64."""
        self._run["verify"], quick = [], self._options.quick
        limits = at_limits(self._gpu.device) if self._gpu.device and not quick else []
        for shape in self._each([*(SMALL if quick else SHAPES), *limits], "verify"):
            for found in compare([shape], self._gpu.backend):
                self._run["verify"].append(found)
                print(*found.values(), flush=True)
            self._save(self._run)

    def _soak(self) -> None:
        for _ in self._each([""], "soak"):
            seconds = min(self._options.soak, self._end - self._clock())
            self._run["soak"] = soak(seconds, self._gpu.backend, streams=self._gpu.streams())
            print("soak:", self._run["soak"], flush=True)
            self._save(self._run)

    def _sanitize(self) -> None:
        for _ in self._each([""], "sanitize"):
            self._run["sanitize"] = sanitize(min(240.0, self._end - self._clock()))
            for found in self._run["sanitize"]:
                print("compute-sanitizer:", *found.values(), flush=True)
            self._save(self._run)

    # ------------------------------------------------------------------------------------------------ timing

    def _time(self, group: str) -> None:
        """Measure the cases of a group that are not in the run yet."""
        options, run = self._options, self._run
        long_enough = [r for r in run["records"] if r["seconds"] >= options.seconds and r["outcome"] == "timed"]
        there = [Case(**r["case"]) for r in long_enough]
        ours = self._gpu.ours(ENGINES, "nplstm")
        engines = [self._gpu.ours([name], name) for name in ENGINES] if group == "engines" else [ours]
        libraries: list[Library] = [*([self._gpu.rival] if self._gpu.rival else []), *engines]
        cases = cases_of(group, options.precisions, quick=options.quick)
        for case in self._each([case for case in cases if case not in there], group):
            try:
                with watched(_LONGEST):
                    record = measure(case, libraries, seconds=options.seconds)
                    chosen = ours.choice(case) if group == "engines" else record["engines"].get("nplstm", "")
            except DeviceLostError as error:
                run["stopped"] = f"the device does not answer any more: {error}"
                print(run["stopped"], flush=True)
                continue
            medians = {name: found["median"] for name, found in record["values"].items() if name in ENGINES}
            record |= {"chosen": chosen, "fastest": min(medians, key=medians.__getitem__, default="")}
            run["records"] = [r for r in run["records"] if r["case"] != record["case"]] + [record]
            print(line(record), flush=True)
            self._save(run)
        for library in [*libraries, ours]:
            library.forget()

    def _each(self, items: Sequence[Any], part: str) -> Iterator[Any]:
        """Yield those that there is time for, and say which there was none for."""
        for item in items:
            if self._clock() >= self._end or self._run["stopped"]:
                named = f"{item.precision} {item.task} {item.label}" if isinstance(item, Case) else item
                self._run["left_out"].append(f"{part} {named}".rstrip())
            else:
                yield item
