"""Training: truncated backpropagation through time over parallel streams of a text, with checkpoints.

A checkpoint holds all that training depends on: weights, Adam's moments, the recurrent state, the place in the
text, the generator's state. So a run that was stopped continues as if it had not been, bit for bit.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np

from nplstm._shapes import check_shape, check_size
from nplstm._typing import Array
from nplstm.backends import check_arrays, get_backend
from nplstm.commands.language_model.files import DAMAGE, check_sizes, check_text, describe, read_header_of
from nplstm.commands.language_model.network import LanguageModel, LSTMState
from nplstm.commands.language_model.settings import Progress, Settings
from nplstm.commands.language_model.text import Corpus, streams
from nplstm.errors import ArgumentError, DivergenceError, FileFormatError
from nplstm.io import read_tensors, write_tensors
from nplstm.training import Adam, clip_grad_norm

FORMAT = "nplstm language model training 1"


class Trainer:
    """Trains a ``LanguageModel`` on a ``Corpus``.

    Parameters
    ----------
    corpus : Corpus
    settings : Settings
    backend : {"numpy", "cupy"}
    source : str
        Name of the text, saved in checkpoints: a resumed run reads it again.

    Attributes
    ----------
    model : LanguageModel
    progress : Progress
        Updates taken, place in the text, losses.

    Examples
    --------
    >>> from nplstm.commands.language_model import Corpus, Settings, Trainer
    >>> settings = Settings(embedding_size=4, hidden_size=8, batch_size=2, window=8, steps=5)
    >>> trainer = Trainer(Corpus.of("to be or not to be, " * 9, validation=0.1, window=8), settings)
    >>> while not trainer.done:
    ...     bits = trainer.update()
    >>> trainer.progress.step
    5
    """

    def __init__(self, corpus: Corpus, settings: Settings, *, backend: str = "numpy", source: str = "") -> None:
        self.corpus, self.settings, self.progress = corpus, settings, Progress()
        self.source = source
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
        self._state: LSTMState | None = None
        inputs, targets = streams(corpus.training, settings.batch_size, window=settings.window)
        place = get_backend(backend).asarray
        self._inputs, self._targets = place(inputs), place(targets)

    @property
    def done(self) -> bool:
        """Whether all updates have been taken."""
        return self.progress.step >= self.settings.steps

    @property
    def evaluation_due(self) -> bool:
        """Whether to call ``evaluate`` now: after every ``evaluate_every`` updates and at the end, once."""
        unseen = self.progress.running_characters > 0 or not self.progress.history
        return unseen and (self.done or self.progress.step % self.settings.evaluate_every == 0)

    @property
    def characters_per_update(self) -> int:
        """The number of characters an update reads; the last update of a pass over the text may read less."""
        return self._inputs.shape[1] * self.settings.window

    def update(self) -> float:
        """Take one update; return the loss in bits per character.

        Raises
        ------
        DivergenceError
            If the loss or the gradient is infinite or NaN; the model is left as it was.

        Examples
        --------
        >>> from nplstm.commands.language_model import Corpus, Settings, Trainer
        >>> settings = Settings(embedding_size=4, hidden_size=8, batch_size=2, window=8)
        >>> trainer = Trainer(Corpus.of("to be or not to be, " * 9, validation=0.1, window=8), settings)
        >>> 2 < trainer.update() < 4  # log2(8) is 3
        True
        """
        progress, settings = self.progress, self.settings
        if progress.position >= len(self._inputs):
            progress.position, self._state = 0, None  # a new pass over the text
        span = slice(progress.position, progress.position + settings.window)
        x, y = self._inputs[span], self._targets[span]
        with np.errstate(over="ignore", invalid="ignore"):  # the result is checked below
            result = self.model.gradients(x, y, self._state, rng=self._rng)
            clipped, norm = clip_grad_norm(result.gradients, settings.clip_norm)
        if not math.isfinite(result.loss) or not math.isfinite(norm):
            raise DivergenceError(
                f"training has diverged: at update {progress.step + 1} the loss is {result.loss:.3g} nats, the "
                f"gradient's norm {norm:.3g}; start again with a smaller lr than {settings.lr}"
            )
        self._optimizer.lr = settings.learning_rate(progress.step)
        self._optimizer.step(clipped)
        self._state = result.state
        progress.position += len(x)
        progress.step += 1
        progress.running_loss += result.loss * x.size
        progress.running_characters += x.size
        return result.loss / math.log(2)

    def evaluate(self) -> tuple[float, bool]:
        """Measure the model on the validation part, and note the result in ``progress``.

        Returns
        -------
        bits : float
            Bits per character.
        improved : bool
            Whether this is the best result so far.

        Raises
        ------
        DivergenceError
            If the result is infinite or NaN.

        Examples
        --------
        >>> from nplstm.commands.language_model import Corpus, Settings, Trainer
        >>> settings = Settings(embedding_size=4, hidden_size=8, batch_size=2, window=8)
        >>> trainer = Trainer(Corpus.of("to be or not to be, " * 9, validation=0.1, window=8), settings)
        >>> bits, improved = trainer.evaluate()
        >>> improved
        True
        """
        progress = self.progress
        with np.errstate(over="ignore", invalid="ignore"):
            bits = self.model.bits_per_character(self.corpus.validation)
        if not math.isfinite(bits):
            raise DivergenceError(f"training has diverged: after update {progress.step} validation gives {bits}")
        if progress.running_characters:
            training = progress.running_loss / progress.running_characters / math.log(2)
        else:
            training = progress.history[-1][1] if progress.history else bits
        progress.history.append((progress.step, training, bits))
        progress.running_loss, progress.running_characters = 0.0, 0
        improved = bits < progress.best
        if improved:
            progress.best = bits
        return bits, improved

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint, a safetensors file; on any error, an older file of this name stays as it was."""
        tensors: dict[str, Array] = {f"model.{name}": a for name, a in self.model.parameters.items()}
        tensors |= {f"optimizer.{name}": a for name, a in self._optimizer.state_dict().items()}
        if self._state is not None and self.progress.position:
            tensors |= {"state.h": self._state[0], "state.c": self._state[1]}
        metadata = {
            "format": FORMAT,
            "settings": json.dumps(asdict(self.settings)),
            "progress": json.dumps(asdict(self.progress)),
            "generator": json.dumps(self._rng.bit_generator.state),
            "text": self.corpus.digest,
            "source": json.dumps(self.source),
        }
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        read_corpus: Callable[[Settings, str], Corpus],
        *,
        steps: int | None = None,
        backend: str = "numpy",
    ) -> Self:
        """Return a trainer that continues where ``save`` was called.

        Parameters
        ----------
        path : str or PathLike
        read_corpus : callable
            Takes the run's settings and its ``source``; returns the corpus, which must be of the same text.
        steps : int, optional
            A new total of updates.
        backend : {"numpy", "cupy"}

        Raises
        ------
        FileFormatError
            If the file is damaged, or holds something else.
        ArgumentError
            If the text is another one, or the run has taken more updates than ``steps``.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from nplstm.commands.language_model import Corpus, Settings, Trainer
        >>> corpus = Corpus.of("to be or not to be, " * 9, validation=0.1, window=8)
        >>> trainer = Trainer(corpus, Settings(embedding_size=4, hidden_size=8, batch_size=2, window=8))
        >>> bits = trainer.update()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = pathlib.Path(folder, "checkpoint.safetensors")
        ...     trainer.save(checkpoint)
        ...     resumed = Trainer.load(checkpoint, lambda settings, source: corpus)
        >>> resumed.progress.step, resumed.update() == trainer.update()
        (1, True)
        """
        if steps is not None:
            check_size("steps", steps)
        shapes, metadata = read_header_of(path, FORMAT, "a checkpoint")
        try:
            settings = Settings(**json.loads(metadata["settings"]))
            progress = Progress.of(json.loads(metadata["progress"]))
            check_sizes(shapes, asdict(settings), prefix="model.")
            source = check_text("source", json.loads(metadata["source"]))
        except DAMAGE as error:
            raise FileFormatError(f"{path}: the checkpoint is damaged: {describe(error)}") from error
        if steps is not None:
            settings = replace(settings, steps=steps)
        if progress.step > settings.steps:
            raise ArgumentError(f"steps: {path} has taken {progress.step} updates already, got {settings.steps}")
        corpus = read_corpus(settings, source)
        if corpus.digest != metadata.get("text"):
            raise ArgumentError(f"text: {path} was trained on {source}, and this is another text")
        trainer = cls(corpus, settings, backend=backend, source=source)
        try:
            trainer._restore(read_tensors(path), progress, json.loads(metadata["generator"]))
        except DAMAGE as error:
            raise FileFormatError(f"{path}: the checkpoint is damaged: {describe(error)}") from error
        return trainer

    def _restore(self, tensors: dict[str, Array], progress: Progress, generator: dict[str, Any]) -> None:
        """Set all state from a checkpoint's arrays; ArgumentError if one is missing, unexpected or misshapen."""

        def part(prefix: str) -> dict[str, Array]:
            return {k.removeprefix(prefix): a for k, a in tensors.items() if k.startswith(prefix)}

        optimizer, state = part("optimizer."), part("state.")
        expected = {f"model.{name}" for name in self.model.parameters}
        if progress.step:
            slots = ("step", "exp_avg", "exp_avg_sq")
            expected |= {f"optimizer.{slot}.{name}" for slot in slots for name in self.model.parameters}
        if progress.position:
            expected |= {"state.h", "state.c"}
        if tensors.keys() != expected:
            raise ArgumentError(f"arrays: missing or unexpected: {sorted(tensors.keys() ^ expected)[:5]}")
        lstm = self.model.lstm
        for name, array in state.items():
            sizes = [(str(n), n) for n in (lstm.num_layers, self._inputs.shape[1], lstm.hidden_size)]
            check_shape(f"state.{name}", array.shape, sizes)
            check_arrays("the model", get_backend("numpy"), lstm.dtype, **{f"state.{name}": array})
        self.model.load_state_dict(part("model."))
        self._optimizer.load_state_dict(optimizer)
        self._rng.bit_generator.state = generator
        self.progress = progress
        place = get_backend(lstm.backend).asarray
        self._state = (place(state["h"]), place(state["c"])) if state else None
