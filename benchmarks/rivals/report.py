"""The Markdown of a run, made of its JSON alone."""

from collections.abc import Iterator
from typing import Any

from .figures import FAR, compare, geometric_mean, ratio, share, slopes
from .others import QUIET
from .worker import LIBRARIES, OURS, RIVALS

__all__ = ["head", "row", "write_report"]

_TITLES = {
    "streaming": "Streaming: one step, the state fed back",
    "small": "Small layers",
    "grid": "One layer",
    "stacks": "Stacks of layers",
    "lengths": "Lengths: half of the batch is padding",
    "peak": "One thread",
    "memory": "Memory: what a run adds at its peak",
    "import": "Import",
    "first": "The first call in a process",
    "size": "Size",
}

_EXPLANATION = f"""\
Each library runs in a process of its own, in float32, on input as wide as the hidden state. It is checked beside
a float64 run, then timed in turns with the others; figures are medians. A ratio is the rival's figure over ours:
above 1 we need less. ▽ marks a ratio below 1, ▼ one below {FAR}; † a case during which other programs kept more
than {QUIET} cores busy, at three tries."""

_UNITS = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")), "B": ((1024**3, "GiB"), (1024**2, "MiB"))}


def write_report(run: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = ["# nplstm beside torch and onnxruntime", "", *_place(run), "", _EXPLANATION]
    for one in run["passes"]:
        lines += ["", f"## Instruction set {one['name']}", "", *_pass(one)]
    return "\n".join([*lines, ""])


def _place(run: dict[str, Any]) -> Iterator[str]:
    """Tell when and where it was."""
    machine = run["machine"]
    yield f"- {machine['date']}, commit {machine['commit'] or 'unknown'}"
    yield f"- {machine['processor']}, {machine['cpus']} CPUs, {machine['memory_bytes'] / 2**30:.0f} GiB"
    yield f"- instruction sets: {', '.join(machine['instructions'])}"
    yield f"- {machine['platform']}, Python {machine['python']}"
    yield f"- {run['threads']} threads; load at the start: {machine['load']}"


def _pass(one: dict[str, Any]) -> Iterator[str]:
    yield from (f"- {line}" for line in _facts(one))
    records = one["records"]
    if records:
        yield from ("", "### Summary", "", *_summary(records))
    for group, title in _TITLES.items():
        for task in dict.fromkeys(r["task"] for r in records if r["group"] == group):
            chosen = [r for r in records if (r["group"], r["task"]) == (group, task)]
            heading = title if task == "step" else f"{title}: {task}"
            yield from ("", f"### {heading}", "", *_details(chosen))
    peaks = [r for r in records if r["group"] == "peak"]
    if peaks:
        yield from ("", "### One thread: share of the core's peak", "", *_shares(peaks))
    if any(r["group"] == "growth" for r in records):
        yield from ("", "### Growth: slopes of log time over log size", "", *_slopes(records))
    yield from _refused(records)


def _facts(one: dict[str, Any]) -> Iterator[str]:
    """Tell what ran."""
    if one["settings"]:
        yield "environment: " + ", ".join(f"`{n}={v}`" for n, v in one["settings"].items())
    for name, library in one["libraries"].items():
        versions = ", ".join(f"{package} {version}" for package, version in library["versions"].items())
        said = ", ".join(f"{part} {found}" for part, found in library["instructions"].items())
        yield f"{name}: {versions}{f'; it reports {said}' if said else ''}"
    yield from (f"{name}: not measured ({reason})" for name, reason in one["unavailable"].items())
    yield from one["remarks"]


def _summary(records: list[dict[str, Any]]) -> Iterator[str]:
    yield from head(
        4, "group", "task", "engine", "rival", "cases", "geometric mean", "least", "below 1", f"below {FAR}"
    )
    for c in compare(records):
        figures = [len(c.ratios), *map(_marked, (geometric_mean(c.ratios), min(c.ratios))), c.lost, c.far_behind]
        yield row(c.group, c.task, c.own, c.rival, *figures)


def _details(records: list[dict[str, Any]]) -> Iterator[str]:
    names = [name for name in LIBRARIES if any(name in r["values"] for r in records)]
    pairs = [(rival, own) for own in OURS if own in names for rival in RIVALS if rival in names]
    yield from head(1, "case", *names, *(f"{rival} / {own}" for rival, own in pairs))
    for record in records:
        figures = [_shown(record, name) for name in names]
        label = _label(record)
        yield row(label, *figures, *(_marked(ratio(record, *pair)) for pair in pairs))
    for name in names:
        ways = dict.fromkeys(r["notes"][name] for r in records if name in r.get("notes", {}))
        if ways:
            yield from ("", f"{name} is called by {' or '.join(ways)}, whichever is faster in a case.")


def _shares(records: list[dict[str, Any]]) -> Iterator[str]:
    """Tell which part of the multiply-adds that a core can do a library's two products are."""
    names = [name for name in LIBRARIES if any(name in r["values"] for r in records)]
    yield from head(1, "case", "peak, GFLOP/s", *names)
    for record in records:
        label = _label(record)
        shares = [f"{found:.0%}" if (found := share(record, name)) is not None else "" for name in names]
        yield row(label, f"{record['peak'] / 1e9:.0f}", *shares)


def _slopes(records: list[dict[str, Any]]) -> Iterator[str]:
    rows = list(slopes(records))
    names = [name for name in LIBRARIES if any(name in found for *_, found in rows)]
    yield from head(2, "over", "task", *names)
    for axis, task, sizes, found in rows:
        figures = [f"{found[name]:.2f}" if name in found else "" for name in names]
        yield row(f"{axis} = {sizes[0]} to {sizes[-1]}", task, *figures)


def _refused(records: list[dict[str, Any]]) -> Iterator[str]:
    """Tell what was not timed, apart from what a library does not have."""
    for record in records:
        for name, reason in record.get("refused", {}).items():
            if not reason.startswith("Unavailable"):
                yield from ("", f"**Not timed:** {name}, {record['task']}, {record['label']}: {reason}")


def head(words: int, *titles: str) -> tuple[str, str]:
    """Return the head of a table; its first columns have words, the others figures."""
    return row(*titles), row(*["---"] * words, *["---:"] * (len(titles) - words))


def row(*cells: object) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def _label(record: dict[str, Any]) -> str:
    return record["label"] + " †" * (record.get("others", 0) > QUIET)


def _marked(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" + " ▼" * (value < FAR) + " ▽" * (FAR <= value < 1)


def _shown(record: dict[str, Any], name: str) -> str:
    """Return a library's median in a unit in which it reads well."""
    if name not in record["values"]:
        return ""
    median, units = record["values"][name]["median"], _UNITS[record["unit"]]
    size, unit = next((found for found in units if median >= found[0]), units[-1])
    value = median / size
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
