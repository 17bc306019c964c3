"""Tables in Markdown: ratios of two libraries' medians, their means, and a row for each case."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nplstm.io import atomic_write


def ratio(record: dict[str, Any], rival: str, own: str) -> float | None:
    """Return the rival's median over ours, above 1 where we need less; None where one of them is missing."""
    values = record["values"]
    return values[rival]["median"] / values[own]["median"] if rival in values and own in values else None


def head(words: int, *titles: str) -> tuple[str, str]:
    """Return the head of a table; its first columns have words, the others figures."""
    return row(*titles), row(*["---"] * words, *["---:"] * (len(titles) - words))


def row(*cells: object) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


class Tables(NamedTuple):
    """What tables of records have in their columns."""

    titles: Sequence[str]
    """Of the first columns, which have words."""
    pairs: Sequence[tuple[str, str]]
    """Of a rival and a library of ours, in ratios."""
    far: float
    """Ratios below this are far below 1."""

    def means(
        self, records: Sequence[dict[str, Any]], keys: Callable[[dict[str, Any]], Sequence[Sequence[str]]]
    ) -> Iterator[str]:
        """Summarise the ratios of those records that have a key in common."""
        groups: dict[Any, list[dict[str, Any]]] = {}
        for record in records:
            for key in keys(record):
                groups.setdefault(key, []).append(record)
        figures = ("cases", "geometric mean", "least", "below 1", f"below {self.far}")
        yield from head(len(self.titles) + 2, *self.titles, "engine", "rival", *figures)
        for key, found in groups.items():
            for rival, own in self.pairs:
                ratios = [value for r in found if (value := ratio(r, rival, own)) is not None]
                if ratios:  # the geometric mean does not depend on which of the two is divided by the other
                    mean = math.exp(statistics.fmean(map(math.log, ratios)))
                    below = [sum(r < bound for r in ratios) for bound in (1, self.far)]
                    yield row(*key, own, rival, len(ratios), self.marked(mean), self.marked(min(ratios)), *below)

    def rows(
        self,
        records: Sequence[dict[str, Any]],
        key: Callable[[dict[str, Any]], Sequence[str]],
        shown: Callable[[dict[str, Any], str], str],
        more: Sequence[str] = (),
    ) -> Iterator[str]:
        """Show each record: each library's figure, the ratios, and ``more`` of what it has."""
        names = list(dict.fromkeys(name for r in records for name in r["values"]))
        pairs = [(rival, own) for rival, own in self.pairs if {rival, own} <= set(names)]
        ratios = (f"{rival} / {own}" for rival, own in pairs)
        yield from head(len(self.titles) + 1, *self.titles, "case", *names, *ratios, *more)
        for r in records:
            figures = [shown(r, name) if name in r["values"] else "" for name in names]
            figures += [self.marked(ratio(r, *pair)) for pair in pairs]
            yield row(*key(r), r["label"], *figures, *(r[name] for name in more))

    def marked(self, value: float | None) -> str:
        """Return a ratio with a mark where it is below 1 or far below it; nothing where there is none."""
        far = value is not None and value < self.far
        return "" if value is None else f"{value:.2f}" + (" ▼" if far else " ▽" if value < 1 else "")


def write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; make its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode())
