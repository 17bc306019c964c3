"""The Markdown of a run, made of its JSON alone: what docs/performance.md has, then every row."""

from collections.abc import Iterator, Sequence
from typing import Any

from .cases import PRECISIONS, TASKS
from .figures import (
    FLOOR,
    OURS,
    RIVAL,
    Target,
    by_engine,
    fastest,
    losses,
    memory_ratio,
    microseconds,
    overtaken,
    ratio,
    share,
    spread,
    summaries,
    targets,
)

__all__ = ["write_report", "write_summary", "wrong"]

_EXPLANATION = f"""\
Both libraries run in one process on one device, with the same weights and inputs; results and gradients are
compared before anything is timed. Libraries take turns of 20 ms and more, timed by CUDA events on the stream that
each of them uses; figures are medians, after turns that do not count. T = 512, I = H. A ratio is torch's time over
ours: above 1 we are faster; spread is the range between the quartiles in per cent of the median, of the library in
which it is greater. "Of the model" is the modelled time over ours. Memory is the peak of what each library's own
allocator gave out during a call, ours over torch's. ▽ marks a ratio below 1, ▼ one below {FLOOR}."""

_SHOWN = 40
"""Lines of lists that may be long; the JSON has all."""


def write_summary(run: dict[str, Any]) -> str:
    """Return what one wants to know: means, targets, losses, and what went wrong."""
    records = run["records"]
    lines = [*_place(run), *_stopped(run), *_checks(run)]
    if any(r["part"] == "table" for r in records):
        lines += ["", _EXPLANATION, "", *_precisions(records), "", *_means(records), "", *_targets(records)]
        lines += [*_losses(records)]
    lines += [*_streaming(records), *_crossover(records), *_failures(records), *_left_out(run)]
    return "\n".join([*lines, ""])


def write_report(run: dict[str, Any]) -> str:
    """Return the summary, and every row."""
    return "\n".join([write_summary(run).rstrip("\n"), *_rows(run["records"]), *_engines(run["records"]), ""])


def wrong(run: dict[str, Any]) -> bool:
    """Tell whether something was not as it must be: a wrong result, an error, a device that was lost."""
    checks = [*run["verify"], *run["sanitize"], *([run["soak"]] if run["soak"] else [])]
    failed = any(record["outcome"] in ("wrong", "failed") for record in run["records"])
    return failed or bool(run["stopped"]) or any(found["outcome"] == "WRONG" for found in checks)


def _place(run: dict[str, Any]) -> Iterator[str]:
    """Tell when and where it was."""
    for place in run["places"]:
        memory = place.get("gpu_memory_bytes", 0) / 2**30
        yield f"- {place['date']}, commit {place.get('commit') or 'unknown'}"
        size = f"{place.get('multiprocessors', '?')} multiprocessors, {memory:.0f} GiB"
        clocks = _told(place, "driver", "SM clock, MHz", "most of it", "power, W", "limit")
        yield f"- {place.get('gpu', 'no GPU')}, {size}; {clocks}"
        names = (
            "torch",
            "cuDNN",
            "CUDA of torch",
            "CuPy",
            "CUDA of CuPy",
            "CUDA of the driver",
            "NumPy",
            "python",
        )
        yield f"- nplstm {place.get('nplstm', '')}; {_told(place, *names)}"
    if run.get("clocks_after"):
        yield f"- at the end: {_told(run['clocks_after'], 'SM clock, MHz', 'power, W', 'temperature')}"
    if run["slack"] != 1.0:
        yield f"- **tolerances were multiplied by {run['slack']:g}**"


def _told(place: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {place[name]}" for name in names if place.get(name))


def _precisions(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    for precision in dict.fromkeys(r["case"]["precision"] for r in records):
        yield f"- {precision}: {PRECISIONS[precision]}"


def _means(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from _head(
        3, "precision", "what", "layers", "rows", "geometric mean", "least", "below 1", f"below {FLOOR}"
    )
    for s in summaries(records):
        figures = [len(s.ratios), _marked(s.mean), _marked(min(s.ratios)), s.below(1), s.below(FLOOR)]
        yield _line(s.precision, TASKS[s.task], s.kind, *figures)


def _targets(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "**Targets**"
    yield ""
    for target in targets(records):
        yield f"- {_in_words(target)}"


def _in_words(target: Target) -> str:
    """Say whether it was met, and of how many rows that is said."""
    if target.met is None or target.value is None:
        return f"{target.words}: {target.wanted}: **not measured**"
    rows = "" if target.rows == target.of else f", by {target.rows} of {target.of} rows"
    word = "met" if target.met else "**not met**"
    return f"{target.words}: {target.wanted}: {word} ({target.value:.2f}{rows})"


def _losses(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    lost = losses(records)
    timed = sum(ratio(r) is not None for r in records if r["part"] == "table")
    yield ""
    yield f"**Where we lose**: {len(lost)} of {timed} rows" + (", the worst first:" if lost else ".")
    if lost:
        yield ""
        yield from _table_of(lost[:_SHOWN], ("precision", "what"))
    if len(lost) > _SHOWN:
        yield ""
        yield f"and {len(lost) - _SHOWN} more, which are among all rows."
    heavy = [r for r in records if r["part"] == "table" and (memory_ratio(r) or 0) > 1]
    if heavy:
        worst = max(heavy, key=lambda r: memory_ratio(r) or 0)
        label = f"{worst['case']['precision']}, {TASKS[worst['task']]}, {worst['label']}"
        yield ""
        yield f"More memory than torch in {len(heavy)} rows, at most {memory_ratio(worst):.2f} times: {label}."


def _table_of(records: Sequence[dict[str, Any]], more: Sequence[str] = ()) -> Iterator[str]:
    names = (f"{OURS}, us a step", f"{RIVAL}, us a step", "ratio", "spread", "of the model", "memory")
    yield from _head(len(more) + 1, *more, "row", *names, "engine")
    for record in records:
        first = (record["case"]["precision"], TASKS[record["task"]])[: len(more)]
        figures = [_us(record, OURS), _us(record, RIVAL), _marked(ratio(record)), _percent(spread(record))]
        figures += [_plain(share(record)), _plain(memory_ratio(record))]
        yield _line(*first, record["label"], *figures, record["chosen"])


def _rows(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every row of the table, by precision and task."""
    timed = [r for r in records if r["part"] == "table" and r["values"]]
    for precision, task in dict.fromkeys((r["case"]["precision"], r["task"]) for r in timed):
        here = [r for r in timed if (r["case"]["precision"], r["task"]) == (precision, task)]
        yield from ("", f"### {precision}, {TASKS[task]}", "", *_table_of(here))


def _streaming(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    found = [r for r in records if r["part"] == "streaming" and r["values"]]
    if not found:
        return
    names = list(dict.fromkeys(name for r in found for name in r["values"]))
    yield from ("", "**One step in real time**, B = 1, float32, in us; waited for: until its output is there.", "")
    rivals = [name for name in names if name != OURS]
    yield from _head(2, "H", "what", *names, *(f"{name} / {OURS}" for name in rivals))
    for record in found:
        ratios = [_marked(ratio(record, name)) for name in rivals]
        yield _line(record["case"]["H"], TASKS[record["task"]], *(_us(record, name) for name in names), *ratios)


def _crossover(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Where another engine overtakes "persistent": measured, and as the engines choose."""
    for precision, task, rows in by_engine(records):
        yield from ("", f"**Where step by step is faster**, {precision}, {TASKS[task]}", "")
        yield from _head(0, "H", "from B, measured", "from B, as chosen", "rows chosen wrongly")
        for H, measured, chosen in overtaken(rows):
            bad = sum(r["chosen"] != fastest(r) for r in rows if r["case"]["H"] == H)
            yield _line(H, measured or "none", chosen or "none", bad)


def _engines(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    for precision, task, rows in by_engine(records):
        names = list(dict.fromkeys(name for r in rows for name in r["values"]))
        yield from ("", f"### Engines: {precision}, {TASKS[task]}, us a step", "")
        yield from _head(1, "row", *names, "model", "fastest", "chosen")
        for record in rows:
            model = _plain(record["model_us"])
            figures = [_us(record, name) for name in names]
            yield _line(record["label"], *figures, model, fastest(record), record["chosen"])


def _checks(run: dict[str, Any]) -> Iterator[str]:
    """Tell what was found of the engines themselves."""
    found = run["verify"]
    if found:
        counts = {word: sum(f["outcome"] == word for f in found) for word in ("right", "refused", "WRONG")}
        yield f"- beside a float64 loop: {', '.join(f'{n} {word}' for word, n in counts.items())}"
        yield from _listed([f for f in found if f["outcome"] == "WRONG"], "{engine} {precision} {shape}")
    if soaked := run["soak"]:
        runs = f"{soaked['rounds']} rounds without a hang or another bit"
        yield f"- soak: {runs if soaked['outcome'] == 'right' else '**WRONG**: ' + soaked['reason']}"
    for tool in run["sanitize"]:
        reason = f": {tool['reason']}" if tool.get("reason") else ""
        yield f"- compute-sanitizer, {tool['tool']}: {tool['outcome']}{reason.replace(chr(10), ' / ')}"


def _listed(found: Sequence[dict[str, Any]], form: str) -> Iterator[str]:
    for one in found[:_SHOWN]:
        yield f"  - **WRONG**: {form.format(**one)}: {one['reason']}"
    if len(found) > _SHOWN:
        yield f"  - and {len(found) - _SHOWN} more"


def _failures(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Tell what was not timed, and why."""
    bad = [r for r in records if r["outcome"] != "timed"]
    if not bad:
        return
    yield from ("", f"**Not timed**: {len(bad)} rows", "")
    for record in bad[:_SHOWN]:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in record["refused"].items())
        yield f"- {record['case']['precision']}, {TASKS[record['task']]}, {record['label']}: {reasons}"
    if len(bad) > _SHOWN:
        yield f"- and {len(bad) - _SHOWN} more"


def _left_out(run: dict[str, Any]) -> Iterator[str]:
    left = run["left_out"]
    if left:
        yield from ("", f"**Left out**, since the time was out or the device was lost: {len(left)}", "")
        yield from (f"- {name}" for name in left[:_SHOWN])
        if len(left) > _SHOWN:
            yield f"- and {len(left) - _SHOWN} more"


def _stopped(run: dict[str, Any]) -> Iterator[str]:
    if run["stopped"]:
        yield f"- **stopped**: {run['stopped']}"


def _head(words: int, *titles: str) -> tuple[str, str]:
    """Return the head of a table; its first columns have words, the others figures."""
    return _line(*titles), _line(*["---"] * words, *["---:"] * (len(titles) - words))


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _us(record: dict[str, Any], name: str) -> str:
    value = microseconds(record, name)
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _marked(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" + " ▼" * (value < FLOOR) + " ▽" * (FLOOR <= value < 1)
