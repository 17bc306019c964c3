"""The command ``python -m benchmarks.gpu``, in the repository's root; ``make gpu`` runs it.

    python -m benchmarks.gpu --quick                  # some rows, in about two minutes
    python -m benchmarks.gpu --engines --budget 540 --json gpu.json --markdown gpu.md
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

from ..common.tables import write
from .cases import GROUPS, PRECISIONS
from .device import Gpu, MissingError, find_gpu, same_place
from .report import write_report, wrong
from .session import CHECKS, Session, new_run


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; write JSON and Markdown."""
    arguments = _parser().parse_args(argv)
    arguments.only = [*arguments.only, *(["engines"] if arguments.engines else [])]
    arguments.seconds = arguments.seconds or (0.05 if arguments.quick else 0.25)
    try:
        gpu = find_gpu(rival=bool({"table", "streaming"} & set(arguments.only)))
        run = _start(gpu, arguments.resume)
    except MissingError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what is there is written

    def save(run: dict[str, Any]) -> None:
        if arguments.json:
            write(arguments.json, json.dumps(run, indent=1))

    try:
        Session(gpu, arguments, run, save).go()
    finally:
        save(run)
        if arguments.markdown:
            write(arguments.markdown, write_report(run))
        print(write_report(run, rows=False))
    return int(wrong(run))


def _start(gpu: Gpu, earlier: Path | None) -> dict[str, Any]:
    """Begin a run, or go on with an earlier one that was measured in the same place."""
    place = gpu.describe()
    if earlier is None or not earlier.exists():
        return new_run(place)
    run = json.loads(earlier.read_text(encoding="utf-8"))
    if other := same_place(run["places"][-1], place):
        raise MissingError(
            f"{earlier}: was measured elsewhere, and cannot be gone on with here: {'; '.join(other)}"
        )
    run["places"].append(place)
    return run


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__, formatter_class=form)

    def add(name: str, text: str, default: Any = None, **options: Any) -> None:
        parser.add_argument(name, help=text, default=default, **options)

    parts, some = (*CHECKS, *GROUPS), [name for name in PRECISIONS if name != "bfloat16"]
    many = dict(nargs="+", metavar="NAME")
    add("--only", f"of {', '.join(parts)}", ["table", "streaming"], choices=parts, **many)
    add("--engines", "and each engine alone: where one overtakes another", default=False, action="store_true")
    add("--precisions", f"of {', '.join(PRECISIONS)}; all but bfloat16", some, choices=tuple(PRECISIONS), **many)
    add("--quick", "some rows, short turns: to see that all works", default=False, action="store_true")
    add("--budget", "seconds after which no case is started", float("inf"), type=float, metavar="SECONDS")
    add("--seconds", "for each row and library (default: 0.25)", type=float)
    add("--soak", "seconds of launches without end (default: 30)", 30.0, type=float, metavar="SECONDS")
    add("--json", "write all that is known of the run", type=Path, metavar="FILE")
    add("--markdown", "write the tables", type=Path, metavar="FILE")
    add("--resume", "go on with a run that was written by --json, if it is there", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
