"""Plot of losses during training, as a PNG file; the only module that imports matplotlib."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from nplstm.errors import MissingDependencyError
from nplstm.io import atomic_write

__all__ = ["plot_training"]


def _figure(width: float, height: float) -> Any:
    """Make a figure that draws into memory: no window, no state shared with the caller's own plots."""
    try:
        figure: Any = import_module("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is not installed, and pictures need it: pip install 'nplstm[plot]'"
        ) from error
    return figure


def plot_training(
    path: str | os.PathLike[str],
    history: Sequence[tuple[int, float, float]],
    baselines: Mapping[str, float],
) -> None:
    """Draw training and validation loss over the updates, with baselines, to a PNG file.

    Parameters
    ----------
    path : str or PathLike
        Replaced where it exists.
    history : sequence of (update, training, validation)
        Losses in bits per character.
    baselines : mapping of name to float
        Validation losses to compare with, in bits per character.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    OSError
        If the file cannot be written; an older file of this name stays as it was.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from nplstm.plotting import plot_training
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "loss.png")
    ...     plot_training(path, [(100, 3.1, 2.9), (200, 2.6, 2.5)], {"unigram": 4.3})
    ...     path.read_bytes()[1:4]
    b'PNG'
    """
    figure = _figure(7, 4.2)
    axes = figure.add_subplot()
    updates = [update for update, _, _ in history]
    # a training loss is the mean since the last row, so it is drawn midway between the two
    middles = [(a + b) / 2 for a, b in zip([0, *updates], updates, strict=False)]
    axes.plot(middles, [loss for _, loss, _ in history], color="#9bb8d3", marker="o", ms=3, label="training")
    axes.plot(updates, [loss for _, _, loss in history], color="#1f4e79", marker="o", ms=3, label="validation")
    for name, value in baselines.items():
        axes.axhline(value, color="#b3541e", lw=1, ls="--")
        axes.annotate(
            f"{name} {value:.2f}", (0.995, value), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            color="#b3541e",
        )  # fmt: skip
    if history:
        best = min(loss for _, _, loss in history)
        axes.set_title(f"Character-level LSTM: best validation loss {best:.3f} bits per character")
    axes.set_xlabel("update")
    axes.set_ylabel("bits per character")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=130)
