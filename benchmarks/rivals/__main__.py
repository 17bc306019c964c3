"""The command: ``python -m benchmarks.rivals`` in the repository's root, which ``make bench-rivals`` runs.

Exit status: 0 done; 1 a library's result was wrong, and so it was not timed.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nplstm.io import atomic_write

from .cases import GROUPS
from .machine import find_sets
from .report import write_report
from .session import Options, measure_all
from .worker import LIBRARIES, OURS

_QUICK_SECONDS, _SECONDS = 0.05, 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or read what was measured; write JSON, table and pictures."""
    arguments = _parser().parse_args(argv)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.report_only:
        run = json.loads(arguments.report_only.read_text(encoding="utf-8"))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that workers are ended
        seconds = arguments.seconds or (_QUICK_SECONDS if arguments.quick else _SECONDS)
        options = Options(
            groups=arguments.only,
            libraries=arguments.libraries,
            instructions=arguments.instructions,
            seconds=seconds,
            threads=arguments.threads,
            limit=arguments.limit,
            quick=arguments.quick,
        )
        run = measure_all(options, lambda run: _write(out / "rivals.json", json.dumps(run, indent=1)))
    report = write_report(run)
    _write(out / "rivals.md", report)
    print(report)
    for name in _draw(run, out):
        print(f"{name} is drawn")
    return int(any(_wrong(record) for one in run["passes"] for record in one["records"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rivals", description="nplstm beside torch and onnxruntime, on a CPU.")

    def add(name: str, text: str, default: Any = None, **options: Any) -> None:
        parser.add_argument(name, help=text, default=default, **options)

    some = [name for name in LIBRARIES if name != "plain"]
    add(
        "--only",
        f"groups of cases, of {', '.join(GROUPS)}; all",
        GROUPS,
        nargs="+",
        choices=GROUPS,
        metavar="GROUP",
    )
    add(
        "--libraries",
        f"of {', '.join(LIBRARIES)}; all but plain",
        some,
        nargs="+",
        choices=LIBRARIES,
        metavar="NAME",
    )
    sets = [one.name for one in find_sets()]
    add(
        "--instructions",
        f"instruction sets, each measured in a pass of its own, of {', '.join(sets)}; all that are measured here",
        sets,
        nargs="+",
        choices=sets,
        metavar="SET",
    )
    add("--seconds", "for each case and library (default: 1)", type=float)
    add("--threads", "of each library (default: 2)", 2, type=int)
    add("--limit", "leave out cases in which T * B * H * H is greater (default: 3.4e9)", 3.4e9, type=float)
    add("--out", "folder for JSON, table and pictures (default: runs/rivals)", Path("runs/rivals"), type=Path)
    add("--report-only", "make table and pictures of an earlier run", type=Path, metavar="JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes, short turns: to see that all works")
    return parser


def _draw(run: dict[str, Any], out: Path) -> list[Path]:
    """Draw a picture for each pass and engine."""
    from .picture import draw_ratios

    drawn = []
    for one in run["passes"]:
        for own in OURS:
            if any(own in record["values"] for record in one["records"]):
                drawn.append(out / f"rivals-{own}-{one['name']}.png")
                title = f'nplstm\'s engine "{own}" beside its rivals, {run["threads"]} threads, {one["name"]}'
                draw_ratios(drawn[-1], one, own, title)
    return drawn


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def _wrong(record: dict[str, Any]) -> bool:
    return any(not reason.startswith("Unavailable") for reason in record.get("refused", {}).values())


if __name__ == "__main__":
    sys.exit(main())
