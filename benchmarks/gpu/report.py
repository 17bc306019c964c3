"""The Markdown of a run on a GPU, made of its JSON alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..common.cases import Case
from ..common.tables import geometric_mean, head, marked, ratio, row
from .cases import GROUPS, PRECISIONS, cudnn_persists
from .run_nplstm import ENGINES

__all__ = ["fastest", "line", "write_report", "wrong"]

_FLOOR = 0.5
"""No ratio is to be below this."""

_EXPLANATION = f"""\
Both libraries run in one process on one device, with the same weights and inputs; results and gradients are
compared before anything is timed. Libraries take turns of 20 ms and more, timed by CUDA events on the stream that
each of them uses; figures are medians in microseconds a step, after turns that do not count. I = H. A ratio is
torch's time over ours: above 1 we are faster; spread is the range between the quartiles in per cent of the median,
where it is greatest. Memory is the peak of what each library's own allocator gave out during a call, ours over
torch's, and is to be 1 at most. ▽ marks a ratio below 1, ▼ one below {_FLOOR}, which no row is to be."""


def write_report(run: dict[str, Any], *, rows: bool = True) -> str:
    """Return place, checks, means, failures, and every row if asked for."""
    records = run["records"]
    lines = [f"- {', '.join(f'{name} {value}' for name, value in place.items())}" for place in run["places"]]
    lines += [f"- **stopped**: {run['stopped']}"] if run["stopped"] else []
    lines += [*_checks(run)]
    if any(r["values"] for r in records):
        lines += ["", _EXPLANATION, "", *(f"- {name}: {said}" for name, said in PRECISIONS.items()), ""]
        lines += _means(records)
        lines += _crossover([r for r in records if r["group"] == "engines" and r["values"]])
    for r in records:
        if r["outcome"] != "timed":
            reasons = "; ".join(f"{name}: {reason}" for name, reason in r["refused"].items())
            lines.append(f"- **{r['outcome']}**: {r['case']['precision']}, {r['task']}, {r['label']}: {reasons}")
    lines += [f"- left out, since the time was out or the device was lost: {name}" for name in run["left_out"]]
    for group in GROUPS if rows else ():
        lines += _rows([r for r in records if r["group"] == group and r["values"]])
    return "\n".join([*lines, ""])


def wrong(run: dict[str, Any]) -> bool:
    """Tell whether something was not as it must be: a wrong result, an error, a device that was lost."""
    checks = [*run["verify"], *run["sanitize"], *([run["soak"]] if run["soak"] else [])]
    failed = any(record["outcome"] in ("wrong", "failed") for record in run["records"])
    return failed or bool(run["stopped"]) or any(found["outcome"] == "WRONG" for found in checks)


def _checks(run: dict[str, Any]) -> Iterator[str]:
    """Tell what was found of the engines themselves."""
    if found := run["verify"]:
        counts = {word: sum(f["outcome"] == word for f in found) for word in ("right", "refused", "WRONG")}
        yield f"- beside a float64 loop: {', '.join(f'{n} {word}' for word, n in counts.items())}"
        yield from (
            f"  - **WRONG**: {f['engine']} {f['precision']} {f['shape']}: {f['reason']}"
            for f in found
            if f["outcome"] == "WRONG"
        )
    if soaked := run["soak"]:
        yield f"- soak: {soaked['outcome']}, {soaked['rounds']} rounds {soaked.get('reason', '')}".rstrip()
    for tool in run["sanitize"]:
        reason = tool.get("reason", "").replace("\n", " / ")
        yield f"- compute-sanitizer, {tool['tool']}: {tool['outcome']} {reason}".rstrip()


def _means(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Summarise the table by precision, task and stack, with what the mean is to be at least."""
    timed = [(Case(**r["case"]), r) for r in records if r["group"] == "table" and r["values"]]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for case, r in timed:
        persists = ", cuDNN persists" * cudnn_persists(case)
        for stack in ("all" + persists, case.stack + persists):
            groups.setdefault((case.precision, case.task, stack), []).append(r)
    titles = ("rows", "to be", "geometric mean", "least", "below 1", "most memory")
    yield from head(3, "precision", "task", "layers", *titles) if groups else ()
    for (precision, task, stack), found in groups.items():
        ratios, target = [ratio(r, "torch", "nplstm") for r in found], 0.8 if "persists" in stack else 1.0
        target = "" if precision == "bfloat16" else target
        means = [marked(value, _FLOOR) for value in (geometric_mean(ratios), min(ratios))]
        memory = max((value for r in found if (value := _memory(r))), default=0.0)
        yield row(precision, task, stack, len(found), target, *means, sum(r < 1 for r in ratios), f"{memory:.2f}")


def _crossover(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Tell for which sizes another engine was chosen than the fastest one."""
    bad = [r for r in records if r["chosen"] != r["fastest"]]
    if records:
        yield f"- another engine than the fastest was chosen in {len(bad)} of {len(records)} rows"
    yield from (f"  - {line(r)}" for r in bad)


def _rows(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for r in records for name in r["values"]))
    if names:
        yield from ("", f"### {records[0]['group']}", "")
        yield from head(3, "precision", "task", "case", *names, "ratio", "spread", "memory", "fastest", "chosen")
    for r in records:
        figures = [f"{_us(r, name):.3g}" if name in r["values"] else "" for name in names]
        spread = max((v["q3"] - v["q1"]) / v["median"] for v in r["values"].values())
        memory = f"{found:.2f}" if (found := _memory(r)) else ""
        figures += [marked(ratio(r, "torch", "nplstm"), _FLOOR), f"{spread:.0%}", memory]
        yield row(r["case"]["precision"], r["task"], r["label"], *figures, r["fastest"], r["chosen"])


def line(record: dict[str, Any]) -> str:
    """Return a record in a line: figures, and why there are none."""
    words = [f"{record['case']['precision']:8} {record['task']:9} {record['label']:36}"]
    words += [f"{name} {_us(record, name):.2f} us" for name in record["values"]]
    if (found := ratio(record, "torch", "nplstm")) is not None:
        words.append(f"torch/nplstm {found:.2f}")
    words += [f"chosen: {record['chosen']}", *(f"{name}: {why}" for name, why in record["refused"].items())]
    return "  ".join(words)


def fastest(record: dict[str, Any]) -> str:
    """Return the name of the fastest of our engines; empty where they were not compared."""
    medians = {name: found["median"] for name, found in record["values"].items() if name in ENGINES}
    return min(medians, key=medians.__getitem__, default="")


def _us(record: dict[str, Any], name: str) -> float:
    return record["values"][name]["median"] / record["steps"] * 1e6


def _memory(record: dict[str, Any]) -> float | None:
    """Return our peak over torch's."""
    memory = record["memory"]
    return memory["nplstm"] / memory["torch"] if memory.get("nplstm") and memory.get("torch") else None
