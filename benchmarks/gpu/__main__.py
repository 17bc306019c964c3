"""The command: ``python -m benchmarks.gpu`` in the repository's root, which ``make gpu`` runs.

    python -m benchmarks.gpu --quick                  # some rows, in about two minutes
    python -m benchmarks.gpu --verify --engines --budget 540 --json gpu.json --markdown gpu.md
    python -m benchmarks.gpu --resume gpu.json --json gpu.json --budget 540   # what was left out
    python -m benchmarks.gpu --only verify soak --soak 600

Exit status: 0 done, or the time was out and what was done was well; 1 something was wrong; 2 there is no GPU, no
CuPy or no torch.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nplstm.io import atomic_write

from .cases import PARTS, PRECISIONS, UnknownTermError, select
from .library import MissingError
from .report import write_report, write_summary, wrong
from .session import CHECKS, Deadline, Options, Session, new_run
from .workbench import Workbench, find_workbench, same_place

_QUICK_SECONDS, _SECONDS = 0.05, 0.25

_ALL = (*CHECKS, *PARTS)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or read what was measured; write JSON and Markdown."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        select([], arguments.cases)
    except UnknownTermError as error:
        parser.error(f"--cases: {error}")
    if arguments.report_only:
        return _finish(_read(arguments.report_only), arguments)
    deadline, options = Deadline(arguments.budget), _options(arguments)
    try:
        bench = find_workbench(rival=bool({"table", "streaming"} & set(options.parts)))
        run = _start(bench, arguments.resume)
    except MissingError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what is there is written
    session = Session(bench, options, deadline, run, lambda run: _write_json(run, arguments.json))
    try:
        session.go()
    finally:
        status = _finish(run, arguments)
    return status


def _options(arguments: argparse.Namespace) -> Options:
    asked = arguments.only or ["table", "streaming"]
    asked = [*asked, *(CHECKS if arguments.verify else ()), *(["engines"] if arguments.engines else [])]
    quick = arguments.quick
    return Options(
        [part for part in _ALL if part in asked],
        arguments.precisions,
        arguments.cases,
        arguments.seconds or (_QUICK_SECONDS if quick else _SECONDS),
        arguments.soak if arguments.soak is not None else 5.0 if quick else 30.0,
        arguments.slack,
        quick,
    )


def _start(bench: Workbench, earlier: Path | None) -> dict[str, Any]:
    """Begin a run, or go on with an earlier one that was measured in the same place."""
    place = bench.describe() | bench.clocks()
    if earlier is None or not earlier.exists():
        return new_run(place)
    run = _read(earlier)
    if other := same_place(run["places"][-1], place):
        raise MissingError(
            f"{earlier}: was measured elsewhere, and cannot be gone on with here: {'; '.join(other)}"
        )
    run["places"].append(place)
    return run


def _finish(run: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Write what there is, and say how it went."""
    _write_json(run, arguments.json)
    if arguments.markdown:
        _write(arguments.markdown, write_report(run))
    print(write_summary(run))
    return int(wrong(run))


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__, formatter_class=form)

    def add(name: str, text: str, default: Any = None, **options: Any) -> None:
        parser.add_argument(name, help=text, default=default, **options)

    some = [name for name in PRECISIONS if name != "bfloat16"]
    many = dict(nargs="+", metavar="NAME")
    add("--only", f"of {', '.join(_ALL)} (default: table streaming)", choices=_ALL, **many)
    parser.add_argument("--verify", action="store_true", help=f"and {', '.join(CHECKS)}, ahead of all else")
    parser.add_argument(
        "--engines", action="store_true", help="and each engine alone: where one overtakes another"
    )
    add("--precisions", f"of {', '.join(PRECISIONS)}; all but bfloat16", some, choices=tuple(PRECISIONS), **many)
    add("--cases", "those with these terms, such as forward B=16 H=256 4-layer; of one sort, any", (), **many)
    parser.add_argument("--quick", action="store_true", help="some rows, short turns: to see that all works")
    add("--budget", "seconds after which no case is started", type=float, metavar="SECONDS")
    add("--seconds", f"for each row and library (default: {_SECONDS})", type=float)
    add("--soak", "seconds of launches without end (default: 30)", type=float, metavar="SECONDS")
    add("--slack", "what tolerances are multiplied by (default: 1)", 1.0, type=float)
    add("--json", "write all that is known of the run", type=Path, metavar="FILE")
    add("--markdown", "write the tables", type=Path, metavar="FILE")
    add("--resume", "go on with a run that was written by --json, if it is there", type=Path, metavar="FILE")
    add("--report-only", "make the tables of an earlier run", type=Path, metavar="FILE")
    return parser


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(run: dict[str, Any], path: Path | None) -> None:
    if path:
        _write(path, json.dumps(run, indent=1))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    sys.exit(main())
