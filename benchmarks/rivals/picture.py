"""The ratios of the group "grid" as a picture: a map of B and H for each T, task and rival."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from nplstm.io import atomic_write

from ..common.tables import ratio

_RANGE = 8.0
"""Ratios from 1/8 to 8 have colours of their own."""


def draw_ratios(path: Path, records: list[dict[str, Any]], own: str, title: str) -> None:
    """Draw an engine beside its rivals, to a PNG file; draw nothing where the grid was not measured."""
    grid = [r for r in records if r["group"] == "grid" and own in r["values"]]
    maps = [("inference", "torch"), ("inference", "onnxruntime"), ("training", "torch")]
    maps = [m for m in maps if any(r["task"] == m[0] and m[1] in r["values"] for r in grid)]
    if not maps:
        return
    T, B, H = (sorted({r["case"][axis] for r in grid}) for axis in "TBH")
    figure = Figure(figsize=(10, 2.4 * len(maps) + 0.7), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(maps), len(T), squeeze=False, sharex=True, sharey=True)
    for (m, (task, rival)), (t, steps) in ((m, t) for m in enumerate(maps) for t in enumerate(T)):
        axes, values = panels[m, t], np.full((len(B), len(H)), np.nan)
        for r in grid:
            if r["task"] == task and r["case"]["T"] == steps:
                values[B.index(r["case"]["B"]), H.index(r["case"]["H"])] = ratio(r, rival, own) or np.nan
        image = axes.imshow(values, norm=LogNorm(1 / _RANGE, _RANGE), cmap="PiYG", origin="lower", aspect="auto")
        for (b, h), value in np.ndenumerate(values):
            if not np.isnan(value):
                colour = "white" if abs(np.log(value)) > 0.75 * np.log(_RANGE) else "black"
                text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
                axes.text(h, b, text, ha="center", va="center", fontsize=9, color=colour)
        axes.set_xticks(range(len(H)), H)
        axes.set_yticks(range(len(B)), B)
        axes.set(title=f"T = {steps}" * (m == 0), xlabel="H" * (m == len(maps) - 1))
        axes.set_ylabel(f"{task}, {rival}\nB" * (t == 0))
    bar = figure.colorbar(image, ax=panels, extend="both", shrink=0.8)
    bar.set_ticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    bar.ax.minorticks_off()
    bar.set_label(f"rival's time / {own}'s (green: {own} is faster)")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
