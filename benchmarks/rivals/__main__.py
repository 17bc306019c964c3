"""The command ``python -m benchmarks.rivals``, in the repository's root; ``make bench-rivals`` runs it.

Exit status: 0 done; 1 a library's result was wrong, and so it was not timed.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.tables import write
from .cases import GROUPS
from .instruction_sets import find_sets
from .passes import measure_all
from .report import write_report
from .worker import LIBRARIES, OURS


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or read what was measured; write JSON, table and pictures."""
    arguments = _parser().parse_args(argv)
    out: Path = arguments.out
    if arguments.report_only:
        run = json.loads(arguments.report_only.read_text(encoding="utf-8"))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that workers are ended
        arguments.seconds = arguments.seconds or (0.05 if arguments.quick else 1.0)
        run = measure_all(arguments, lambda run: write(out / "rivals.json", json.dumps(run, indent=1)))
    report = write_report(run)
    write(out / "rivals.md", report)
    print(report)
    _draw(run, out)
    return int(any(_wrong(record) for one in run["passes"] for record in one["records"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rivals", description="nplstm beside torch and onnxruntime, on a CPU.")

    def choice(name: str, of: Sequence[str], default: Sequence[str], metavar: str) -> None:
        text = f"of {', '.join(of)} (default: {' '.join(default)})"
        parser.add_argument(name, help=text, default=default, nargs="+", choices=of, metavar=metavar)

    sets = [one.name for one in find_sets()]
    choice("--only", GROUPS, GROUPS, "GROUP")
    choice("--libraries", LIBRARIES, [name for name in LIBRARIES if name != "plain"], "NAME")
    choice("--instructions", sets, sets, "SET")  # each is measured in a pass of its own
    parser.add_argument("--seconds", help="for each case and library (default: 1)", type=float)
    parser.add_argument("--threads", help="of each library (default: 2)", default=2, type=int)
    parser.add_argument("--out", help="folder of all results", default=Path("runs/rivals"), type=Path)
    parser.add_argument("--report-only", help="table and pictures of an earlier run", type=Path, metavar="JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes, short turns: to see that all works")
    return parser


def _draw(run: dict[str, Any], out: Path) -> None:
    """Draw a picture for each pass and engine."""
    from .picture import draw_ratios

    for one in run["passes"]:
        for own in OURS:
            title = f'nplstm\'s engine "{own}" beside its rivals, {run["threads"]} threads, {one["name"]}'
            draw_ratios(out / f"rivals-{own}-{one['name']}.png", one["records"], own, title)


def _wrong(record: dict[str, Any]) -> bool:
    return any(not reason.startswith("Unavailable") for reason in record.get("refused", {}).values())


if __name__ == "__main__":
    sys.exit(main())
