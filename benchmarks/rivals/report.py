"""The Markdown of a run on a CPU, made of its JSON alone."""

from collections.abc import Iterator
from typing import Any

from ..common.tables import Tables
from .system import QUIET
from .worker import OURS, RIVALS

_TABLES = Tables(("group", "task"), [(rival, own) for own in OURS for rival in RIVALS], 0.6)

_EXPLANATION = f"""\
Each library runs in a process of its own, in float32, on input as wide as the hidden state. It is checked beside
a float64 run, then timed in turns with the others; figures are medians. A ratio is the rival's figure over ours:
above 1 we need less. ▽ marks a ratio below 1, ▼ one below {_TABLES.far}; † a case during which other programs
kept more than {QUIET} cores busy, at three tries. "peak" runs on one thread; in brackets is the share that the two
products are of what a core can do. "memory" is what a run adds at its peak. onnxruntime is called by a dict of
arrays or by bound buffers, whichever is faster in a case, and step by step by bound buffers."""

_UNITS = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")), "B": ((1024**3, "GiB"), (1024**2, "MiB"))}


def write_report(run: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    machine = run["machine"]
    lines = [
        "# nplstm beside torch and onnxruntime",
        "",
        f"- {machine['date']}, commit {machine['commit'] or 'unknown'}",
        f"- {machine['processor']}, {machine['cpus']} CPUs, {machine['memory_bytes'] / 2**30:.0f} GiB",
        f"- instruction sets: {', '.join(machine['instructions'])}",
        f"- {machine['platform']}, Python {machine['python']}",
        f"- {run['threads']} threads; load at the start: {machine['load']}",
        "",
        _EXPLANATION,
    ]
    for one in run["passes"]:
        records = [r | {"label": r["label"] + " †" * (r.get("others", 0) > QUIET)} for r in one["records"]]
        lines += ["", f"## Instruction set {one['name']}", "", *(f"- {line}" for line in _facts(one)), ""]
        lines += [*_TABLES.means(records, lambda r: [_key(r)]), "", *_TABLES.rows(records, _key, _shown)]
    return "\n".join([*lines, ""])


def _key(record: dict[str, Any]) -> tuple[str, str]:
    return record["group"], record["task"]


def _facts(one: dict[str, Any]) -> Iterator[str]:
    """Tell what ran, and what was not timed, apart from what a library does not have."""
    if one["settings"]:
        yield "environment: " + ", ".join(f"`{n}={v}`" for n, v in one["settings"].items())
    for name, library in one["libraries"].items():
        versions = ", ".join(f"{package} {version}" for package, version in library["versions"].items())
        said = ", ".join(f"{part} {found}" for part, found in library["instructions"].items())
        yield f"{name}: {versions}{f'; it reports {said}' if said else ''}"
    yield from (f"{name}: not measured ({reason})" for name, reason in one["unavailable"].items())
    yield from one["remarks"]
    for record in one["records"]:
        for name, reason in record.get("refused", {}).items():
            if not reason.startswith("Unavailable"):
                yield f"**not timed:** {name}, {record['task']}, {record['label']}: {reason}"


def _shown(record: dict[str, Any], name: str) -> str:
    """Return a library's median in a fitting unit, and its share of the peak where that is known."""
    median, units = record["values"][name]["median"], _UNITS[record["unit"]]
    size, unit = next((found for found in units if median >= found[0]), units[-1])
    value = median / size
    share = f" ({record['operations'] / median / record['peak']:.0%})" if "peak" in record else ""
    return f"{f'{value:.0f}' if value >= 100 else f'{value:.3g}'} {unit}{share}"
