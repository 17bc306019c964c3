"""Settings and progress of a training run: what a checkpoint holds beside arrays."""

import math
import sys
from dataclasses import dataclass, field
from typing import Any, Self

from nplstm._shapes import check_number, check_size
from nplstm.errors import ArgumentError


@dataclass(frozen=True)
class Settings:
    """Settings of a training run.

    Attributes
    ----------
    embedding_size, hidden_size, num_layers, dropout
        Sizes of the model, and the dropout between its LSTM's layers.
    batch_size, window
        Parallel streams of text, and characters of each per update; gradients reach back to the window's start.
    steps : int
        Updates in all.
    lr, clip_norm
        Adam's learning rate at its peak (a short warm-up, then half a cosine to a tenth), and the bound on the
        gradient's norm.
    validation : float in (0, 0.5]
        Share of the text, from its end, that is held out.
    evaluate_every : int
        Updates between evaluations; each one writes a checkpoint.
    seed : int
        Of the initial weights and of dropout.

    Raises
    ------
    ArgumentError
        Names the setting that is out of range.

    Examples
    --------
    >>> from nplstm.commands.language_model import Settings
    >>> Settings(hidden_size=128, steps=500).hidden_size
    128
    """

    embedding_size: int = 64
    hidden_size: int = 256
    num_layers: int = 1
    dropout: float = 0.0
    batch_size: int = 32
    window: int = 64
    steps: int = 1000
    lr: float = 5e-3
    clip_norm: float = 1.0
    validation: float = 0.1
    evaluate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "seed": check_size("seed", self.seed, minimum=0),
            "dropout": check_number("dropout", self.dropout, minimum=0.0, maximum=1.0),
            "lr": check_number("lr", self.lr, above=0.0, maximum=sys.float_info.max),
            "clip_norm": check_number("clip_norm", self.clip_norm, above=0.0),
            "validation": check_number("validation", self.validation, above=0.0, maximum=0.5),
        }
        sizes = ("embedding_size", "hidden_size", "num_layers", "batch_size", "window", "steps", "evaluate_every")
        checked |= {name: check_size(name, getattr(self, name)) for name in sizes}
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # NumPy's numbers become Python's, which a file can hold
        if self.dropout > 0 and self.num_layers == 1:
            raise ArgumentError(f"dropout: acts between layers, and num_layers is 1; got {self.dropout}")

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of update ``step``, counted from 0.

        >>> from nplstm.commands.language_model import Settings
        >>> [round(Settings(lr=0.01, steps=100).learning_rate(step), 4) for step in (0, 19, 99)]
        [0.0005, 0.0092, 0.001]
        """
        warm_up = min(1.0, (step + 1) / min(20, self.steps))
        return self.lr * warm_up * (0.55 + 0.45 * math.cos(math.pi * step / self.steps))


@dataclass
class Progress:
    """Progress of a run: updates, place in the text, losses."""

    step: int = 0  # updates taken
    position: int = 0  # steps of the streams that have been read, in this pass over the text
    running_loss: float = 0.0  # nats, added up over the characters since the last evaluation
    running_characters: int = 0
    best: float = math.inf  # bits per character on the validation part
    history: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])
    # (step, training, validation) in bits per character

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Self:
        """Return the progress whose ``asdict`` a checkpoint holds; raise if a value cannot be right."""
        rows = [
            (check_size("history", step), check_number("history", training), check_number("history", validation))
            for step, training, validation in saved["history"]
        ]
        return cls(
            step=check_size("step", saved["step"], minimum=0),
            position=check_size("position", saved["position"], minimum=0),
            running_loss=check_number("running_loss", saved["running_loss"], minimum=0.0),
            running_characters=check_size("running_characters", saved["running_characters"], minimum=0),
            best=check_number("best", saved["best"], minimum=0.0),
            history=rows,
        )
