"""Training: truncated backpropagation through time over parallel streams of a text, with checkpoints.

All that training depends on is in the ``Trainer`` and goes into a checkpoint: weights, Adam's memory, the
recurrent state, the place in the text, the generator's state. So a run that was stopped goes on bit for bit.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from nplstm._shapes import check_number, check_size
from nplstm._typing import Array
from nplstm.backends import get_backend
from nplstm.errors import ArgumentError, FileFormatError, NplstmError
from nplstm.io import read_tensors, write_tensors
from nplstm.language_model.model import LanguageModel, State
from nplstm.language_model.text import Corpus, streams
from nplstm.training import Adam, clip_grad_norm

FORMAT = "nplstm language model training 1"


@dataclass(frozen=True)
class Settings:
    """What defines a training run, beside the text.

    Attributes
    ----------
    embedding_size, hidden_size, num_layers, dropout
        The model.
    batch_size, window
        Parallel streams, and characters of each per update; gradients reach back to the window's start.
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
        for name in ("embedding_size", "hidden_size", "num_layers", "batch_size", "window", "steps"):
            check_size(name, getattr(self, name))
        check_size("evaluate_every", self.evaluate_every)
        check_size("seed", self.seed, minimum=0)
        check_number("dropout", self.dropout, minimum=0.0, maximum=1.0)
        check_number("lr", self.lr, above=0.0)
        check_number("clip_norm", self.clip_norm, above=0.0)
        check_number("validation", self.validation, above=0.0, maximum=0.5)
        if self.dropout > 0 and self.num_layers == 1:
            raise ArgumentError(f"dropout: acts between layers, and num_layers is 1; got {self.dropout}")

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of update ``step``, counted from 0."""
        warm_up = min(1.0, (step + 1) / min(20, self.steps))
        return self.lr * warm_up * (0.55 + 0.45 * math.cos(math.pi * step / self.steps))


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # updates taken
    position: int = 0  # steps of the streams that have been read, in this pass over the text
    running_loss: float = 0.0  # nats per character, added up over the updates since the last evaluation
    running_steps: int = 0
    best: float = math.inf  # bits per character on the validation part
    history: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])
    # (step, training, validation) in bits per character


class Trainer:
    """Trains a ``LanguageModel`` on a ``Corpus``.

    Parameters
    ----------
    corpus : Corpus
    settings : Settings
    backend : {"numpy", "cupy"}

    Attributes
    ----------
    model : LanguageModel
    progress : Progress

    Examples
    --------
    >>> from nplstm.language_model import Corpus, Settings, Trainer
    >>> settings = Settings(embedding_size=4, hidden_size=8, batch_size=2, window=8, steps=5)
    >>> trainer = Trainer(Corpus.of("to be or not to be, " * 9, validation=0.1, window=8), settings)
    >>> while not trainer.done:
    ...     bits = trainer.update()
    >>> trainer.progress.step
    5
    """

    def __init__(self, corpus: Corpus, settings: Settings, *, backend: str = "numpy") -> None:
        self.corpus, self.settings, self.progress = corpus, settings, Progress()
        self._rng = np.random.default_rng(settings.seed)
        self.model = LanguageModel(
            corpus.vocabulary,
            embedding_size=settings.embedding_size,
            hidden_size=settings.hidden_size,
            num_layers=settings.num_layers,
            dropout=settings.dropout,
            backend=backend,
            rng=self._rng,
        )
        self._optimizer = Adam(self.model.parameters, lr=settings.lr)
        self._state: State | None = None
        inputs, targets = streams(corpus.training, settings.batch_size, window=settings.window)
        place = get_backend(backend).asarray
        self._inputs, self._targets = place(inputs), place(targets)

    @property
    def done(self) -> bool:
        """Whether all updates have been taken."""
        return self.progress.step >= self.settings.steps

    @property
    def evaluation_due(self) -> bool:
        """Whether the last update was one that an evaluation follows."""
        return self.progress.running_steps > 0 and (
            self.done or self.progress.step % self.settings.evaluate_every == 0
        )

    @property
    def characters_per_update(self) -> int:
        """How many characters one update reads."""
        return self._inputs.shape[1] * min(self.settings.window, len(self._inputs))

    def update(self) -> float:
        """Take one update; return the loss in bits per character."""
        progress, settings = self.progress, self.settings
        if progress.position + settings.window > len(self._inputs):
            progress.position, self._state = 0, None  # a new pass over the text
        span = slice(progress.position, progress.position + settings.window)
        result = self.model.gradients(self._inputs[span], self._targets[span], self._state, rng=self._rng)
        clipped, _ = clip_grad_norm(result.gradients, settings.clip_norm)
        self._optimizer.lr = settings.learning_rate(progress.step)
        self._optimizer.step(clipped)
        self._state = result.state
        progress.position += settings.window
        progress.step += 1
        progress.running_loss += result.loss
        progress.running_steps += 1
        return result.loss / math.log(2)

    def evaluate(self) -> tuple[float, bool]:
        """Measure the model on the validation part; return bits per character, and whether it is the best yet."""
        progress = self.progress
        bits = self.model.bits_per_character(self.corpus.validation)
        training = progress.running_loss / max(progress.running_steps, 1) / math.log(2)
        progress.history.append((progress.step, training, bits))
        progress.running_loss, progress.running_steps = 0.0, 0
        improved = bits < progress.best
        progress.best = min(bits, progress.best)
        return bits, improved

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that training depends on to a safetensors file, wholly or not at all."""
        tensors: dict[str, Array] = {f"model.{name}": a for name, a in self.model.parameters.items()}
        tensors |= {f"optimizer.{name}": a for name, a in self._optimizer.state_dict().items()}
        if self._state is not None:
            tensors |= {"state.h": self._state[0], "state.c": self._state[1]}
        metadata = {
            "format": FORMAT,
            "settings": json.dumps(asdict(self.settings)),
            "progress": json.dumps(asdict(self.progress)),
            "generator": json.dumps(self._rng.bit_generator.state),
            "text": self.corpus.digest,
        }
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        read_corpus: Callable[[Settings], Corpus],
        *,
        steps: int | None = None,
        backend: str = "numpy",
    ) -> Self:
        """Take up a run where ``save`` left it.

        Parameters
        ----------
        path : str or PathLike
        read_corpus : callable
            Given the run's settings, returns the corpus; it must be of the same text.
        steps : int, optional
            A new total of updates.
        backend : {"numpy", "cupy"}

        Raises
        ------
        FileFormatError
            If the file is damaged, or holds something else.
        ArgumentError
            If the text is another one.
        """
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != FORMAT:
            raise FileFormatError(
                f"{path}: a safetensors file, but not a checkpoint of `nplstm train` "
                f"(format {metadata.get('format', 'not stated')!r}, expected {FORMAT!r})"
            )
        try:
            settings = Settings(**(json.loads(metadata["settings"]) | ({} if steps is None else {"steps": steps})))
            progress = Progress(**json.loads(metadata["progress"]))
            progress.history = [(int(s), float(t), float(v)) for s, t, v in progress.history]
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"{path}: the checkpoint is damaged: {error}") from error
        if progress.step > settings.steps:
            raise ArgumentError(f"steps: {path} has {progress.step} updates behind it, got {settings.steps}")
        corpus = read_corpus(settings)
        if corpus.digest != metadata.get("text"):
            raise ArgumentError(f"text: {path} was trained on another text than the one given")
        trainer = cls(corpus, settings, backend=backend)
        try:
            trainer._restore(tensors, progress, json.loads(metadata["generator"]))
        except (KeyError, TypeError, ValueError, NplstmError) as error:
            raise FileFormatError(f"{path}: the checkpoint is damaged: {error}") from error
        return trainer

    def _restore(self, tensors: dict[str, Array], progress: Progress, generator: dict[str, Any]) -> None:
        def part(prefix: str) -> dict[str, Array]:
            return {k.removeprefix(prefix): a for k, a in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self._optimizer.load_state_dict(part("optimizer."))
        self._rng.bit_generator.state = generator
        self.progress = progress
        state = part("state.")
        place = get_backend(self.model.lstm.backend).asarray
        self._state = (place(state["h"]), place(state["c"])) if state else None
