"""The ratios of a run as a picture, made of its JSON alone: a map of the grid, and a row for every other case."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from nplstm.io import atomic_write

from .figures import ratio

__all__ = ["draw_ratios"]

_RANGE = 8.0
"""Ratios from 1/8 to 8 have colours of their own."""

_MAPS = (("inference", "torch"), ("inference", "onnxruntime"), ("training", "torch"))

_MARKS = {"torch": ("o", "#b3541e"), "onnxruntime": ("s", "#1f4e79")}


def draw_ratios(path: Path, one: dict[str, Any], own: str, title: str) -> None:
    """Draw an engine beside its rivals in one pass, to a PNG file 1200 pixels wide."""
    records = [r for r in one["records"] if own in r["values"] and len(r["values"]) > 1]
    grid = [r for r in records if r["group"] == "grid"]
    rest = [r for r in records if r["group"] not in ("grid", "growth", "size")]
    maps = [m for m in _MAPS if any(r["task"] == m[0] and m[1] in r["values"] for r in grid)]
    heights = [2.4 * len(maps), 0.9 + 0.24 * len(rest)]
    figure = Figure(figsize=(10, sum(heights) + 0.7), layout="constrained")
    figure.suptitle(title)
    upper, lower = figure.subfigures(2, 1, height_ratios=[max(h, 0.01) for h in heights])
    if maps:
        _draw_maps(upper, grid, maps, own)
    if rest:
        _draw_rest(lower.add_subplot(), rest, own)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _draw_maps(figure: Any, grid: list[dict[str, Any]], maps: list[tuple[str, str]], own: str) -> None:
    """Draw one map of B and H for each T and each task and rival."""
    T, B, H = (sorted({r["case"][axis] for r in grid}) for axis in "TBH")
    panels = figure.subplots(len(maps), len(T), squeeze=False, sharex=True, sharey=True)
    for row, (task, rival) in zip(panels, maps, strict=True):
        for axes, steps in zip(row, T, strict=True):
            values = np.full((len(B), len(H)), np.nan)
            for r in grid:
                if r["task"] == task and r["case"]["T"] == steps:
                    values[B.index(r["case"]["B"]), H.index(r["case"]["H"])] = ratio(r, rival, own) or np.nan
            image = _draw_map(axes, values)
            axes.set_xticks(range(len(H)), H)
            axes.set_yticks(range(len(B)), B)
        row[0].set_ylabel(f"{task}, {rival}\nB")
    for axes, steps in zip(panels[0], T, strict=True):
        axes.set_title(f"T = {steps}", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("H")
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    bar = figure.colorbar(image, ax=panels, ticks=ticks, extend="both", shrink=0.8)
    bar.ax.set_yticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    bar.ax.minorticks_off()
    bar.set_label(f"rival's time / {own}'s (green: {own} is faster)")


def _draw_map(axes: Any, values: np.ndarray) -> Any:
    image = axes.imshow(values, norm=LogNorm(1 / _RANGE, _RANGE), cmap="PiYG", origin="lower", aspect="auto")
    for (b, h), value in np.ndenumerate(values):
        if not np.isnan(value):
            dark = abs(np.log(value)) > 0.75 * np.log(_RANGE)
            axes.text(h, b, f"{value:.2f}" if value < 10 else f"{value:.0f}", ha="center", va="center", fontsize=9,
                      color="white" if dark else "black")  # fmt: skip
    return image


def _label(record: dict[str, Any]) -> str:
    if record["group"] in ("import", "first"):
        return record["task"]
    group = (
        "one thread" if record["group"] == "peak" else record["group"]
    )  # the title has the threads of the others
    return f"{group}, {record['task']}: {record['label']}"


def _draw_rest(axes: Any, records: list[dict[str, Any]], own: str) -> None:
    """Draw a row for each case, with a mark for each rival, on a logarithmic axis."""
    labels = [_label(r) for r in records]
    for rival, (mark, colour) in _MARKS.items():
        points = [(found, row) for row, r in enumerate(records) if (found := ratio(r, rival, own)) is not None]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=mark, color=colour, s=28, label=rival, zorder=3)
    axes.axvline(1, color="black", lw=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(f"rival's figure / {own}'s (right of 1: {own} needs less)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
