"""The Markdown of a run on a GPU, made of its JSON alone."""

from collections.abc import Iterator
from typing import Any

from ..common.cases import Case
from ..common.tables import Tables, ratio
from .cases import PRECISIONS, cudnn_persists

_TABLES = Tables(("precision", "task", "layers"), [("torch", "nplstm"), ("torch, graph", "nplstm")], 0.5)

_EXPLANATION = f"""\
Both libraries run in one process on one device, with the same weights and inputs; results and gradients are
compared before anything is timed. Libraries take turns of 20 ms and more, timed by CUDA events on the stream that
each of them uses; figures are medians in microseconds a step, after turns that do not count. I = H. A ratio is
torch's time over ours: above 1 we are faster. Wanted are geometric means of 1 and more, 0.8 where cuDNN runs its
persistent kernel, and no ratio below {_TABLES.far}. Memory is the peak of what each library's own allocator gave
out during a call, ours over torch's, wanted is 1 at most. ▽ marks a ratio below 1, ▼ one below {_TABLES.far}."""


def write_report(run: dict[str, Any], *, rows: bool = True) -> str:
    """Return place, checks, means, failures, and every row if asked for."""
    lines = [f"- {', '.join(f'{name} {value}' for name, value in place.items())}" for place in run["places"]]
    lines += [f"- **stopped**: {run['stopped']}"] if run["stopped"] else []
    lines += [*_checks(run), *_failures(run["records"])]
    lines += [f"- left out, since the time was out or the device was lost: {name}" for name in run["left_out"]]
    timed = [r | {"memory": _memory(r)} for r in run["records"] if r["values"]]
    if timed:
        lines += ["", _EXPLANATION, "", *(f"- {name}: {said}" for name, said in PRECISIONS.items()), ""]
        lines += _TABLES.means([r for r in timed if r["group"] != "engines"], _keys)
        for group in dict.fromkeys(r["group"] for r in timed) if rows else ():
            lines += ["", f"### {group}", ""]
            chosen = [r for r in timed if r["group"] == group]
            lines += _TABLES.rows(chosen, lambda r: _keys(r)[1], _us, ("memory", "fastest", "chosen"))
    return "\n".join([*lines, ""])


def wrong(run: dict[str, Any]) -> bool:
    """Tell whether something was not as it must be: a wrong result, an error, a device that was lost."""
    checks = [*run["verify"], *run["sanitize"], *([run["soak"]] if run["soak"] else [])]
    failed = any(record["outcome"] in ("wrong", "failed") for record in run["records"])
    return failed or bool(run["stopped"]) or any(found["outcome"] == "WRONG" for found in checks)


def _keys(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return what a record belongs to in the table of means."""
    case = Case(**record["case"])
    persists = ", cuDNN persists" * cudnn_persists(case)
    return [(case.precision, case.task, stack + persists) for stack in ("all", case.stack)]


def _checks(run: dict[str, Any]) -> Iterator[str]:
    """Tell what was found of the engines themselves."""
    if found := run["verify"]:
        counts = {word: sum(f["outcome"] == word for f in found) for word in ("right", "refused", "WRONG")}
        yield f"- beside a float64 loop: {', '.join(f'{n} {word}' for word, n in counts.items())}"
    bad = (f for f in found if f["outcome"] == "WRONG")
    for one in (*bad, *run["sanitize"], *([{"check": "soak"} | run["soak"]] if run["soak"] else [])):
        yield "- " + ", ".join(f"{name} {value}" for name, value in one.items()).replace("\n", " / ")


def _failures(records: list[dict[str, Any]]) -> Iterator[str]:
    """Tell what was not timed and why, and where another engine was chosen than the fastest one."""
    for r in records:
        if r["outcome"] != "timed":
            yield f"- **{r['outcome']}**: {line(r)}"
        elif r["fastest"] and r["fastest"] != r["chosen"]:
            yield f"- faster is {r['fastest']}: {line(r)}"


def line(record: dict[str, Any]) -> str:
    """Return a record in a line: figures, and why there are none."""
    words = [record["case"]["precision"], record["task"], record["label"]]
    words += [f"{name} {_us(record, name)} us" for name in record["values"]]
    if (found := ratio(record, "torch", "nplstm")) is not None:
        words.append(f"torch/nplstm {found:.2f}")
    words += [f"chosen {record['chosen']}", *(f"{name}: {why}" for name, why in record["refused"].items())]
    return "  ".join(words)


def _us(record: dict[str, Any], name: str) -> str:
    return f"{record['values'][name]['median'] / record['steps'] * 1e6:.3g}"


def _memory(record: dict[str, Any]) -> str:
    """Return our peak over torch's."""
    memory = record["memory"]
    return f"{memory['nplstm'] / memory['torch']:.2f}" if {"nplstm", "torch"} <= set(memory) else ""
