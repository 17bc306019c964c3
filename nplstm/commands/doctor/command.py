"""What ``nplstm doctor`` does, once its arguments are read."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from nplstm._progress import terminal_bar
from nplstm.commands.doctor.examination import examine
from nplstm.commands.doctor.report import write_report


def doctor(*, as_json: bool = False) -> int:
    """Examine this machine and print the report, or one JSON object with the fields of ``Examination``.

    Returns
    -------
    int
        0, whatever is found: the report is the result.
    """
    found = examine(_show_progress)
    text = json.dumps(asdict(found), indent=2) if as_json else write_report(found)
    sys.stdout.write(text + "\n")
    return 0


def _show_progress(items: Sequence[Any], title: str) -> Iterable[Any]:
    """Show a bar while a user waits at a terminal, where tqdm is installed: the doctor has to run without it."""
    bar = terminal_bar(f"{title} for a few seconds ...")
    if bar is None:
        return items
    return bar(items, desc=title, leave=False, dynamic_ncols=True, bar_format="{desc} {percentage:3.0f}% |{bar}|")
