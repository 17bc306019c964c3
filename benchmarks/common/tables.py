"""Tables in Markdown, ratios of two libraries' medians, and files written in one go."""

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nplstm.io import atomic_write

__all__ = ["geometric_mean", "head", "marked", "ratio", "row", "write"]


def ratio(record: dict[str, Any], rival: str, own: str) -> float | None:
    """Return the rival's median over ours, above 1 where we need less; None where one of them is missing."""
    values = record["values"]
    return values[rival]["median"] / values[own]["median"] if rival in values and own in values else None


def geometric_mean(ratios: Iterable[float]) -> float:
    """Return the mean that does not depend on which of the two is divided by the other."""
    return math.exp(statistics.fmean(math.log(r) for r in ratios))


def head(words: int, *titles: str) -> tuple[str, str]:
    """Return the head of a table; its first columns have words, the others figures."""
    return row(*titles), row(*["---"] * words, *["---:"] * (len(titles) - words))


def row(*cells: object) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def marked(value: float | None, far: float) -> str:
    """Return a ratio with a mark where it is below 1 or far below it; nothing where there is none."""
    return "" if value is None else f"{value:.2f}" + " ▼" * (value < far) + " ▽" * (far <= value < 1)


def write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; make its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode())
