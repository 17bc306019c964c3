"""The language model: embedding, LSTM and linear layer; sampling, saving and loading it."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from nplstm._shapes import check_number, check_size
from nplstm._typing import Array, DTypeLike, HostIndices
from nplstm.backends import get_backend
from nplstm.commands.language_model.files import DAMAGE, check_sizes, describe, read_header_of
from nplstm.commands.language_model.text import Vocabulary
from nplstm.core.module import load_arrays
from nplstm.core.params import JoinedParameters, as_generator
from nplstm.errors import ArgumentError, DivergenceError, FileFormatError
from nplstm.io import read_tensors, write_tensors
from nplstm.layers import LSTM
from nplstm.training import Embedding, Linear, cross_entropy

FORMAT = "nplstm language model 1"
_PADDING = -100
_COLD = 1e-6  # a temperature below which the likeliest character is taken, and no quotient can overflow

LSTMState = tuple[Array, Array]
"""(h_n, c_n) of the LSTM, each (num_layers, B, hidden_size)."""


class Result(NamedTuple):
    """Loss and gradients of one window of text."""

    loss: float  # nats per character
    gradients: JoinedParameters
    state: LSTMState  # after the window: where the next one starts


class LanguageModel:
    """Predicts each character of a text from all characters before it.

    ::

        x_t = E[character_t]        h_t = LSTM(x_t, state)        logits_t = W h_t + b

    Parameters
    ----------
    vocabulary : Vocabulary
    embedding_size, hidden_size, num_layers, dropout
        Sizes of the parts, and the dropout between layers of the LSTM.
    backend, dtype, rng
        As for ``LSTM``.

    Attributes
    ----------
    parameters : JoinedParameters
        Of all parts, as ``embedding.weight``, ``lstm.weight_ih_l0``, ``head.bias``, ...

    Examples
    --------
    >>> from nplstm.commands.language_model import LanguageModel, Vocabulary
    >>> model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3, rng=0)
    >>> "".join(model.sample("a", length=4, rng=0))
    'baaa'
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        backend: str = "numpy",
        dtype: DTypeLike = "float32",
        rng: Any = None,
    ) -> None:
        generator = as_generator(rng)
        self.vocabulary = vocabulary
        placed: dict[str, Any] = {"backend": backend, "dtype": dtype, "rng": generator}
        self.embedding = Embedding(len(vocabulary), embedding_size, **placed)
        self.lstm = LSTM(embedding_size, hidden_size, num_layers, dropout=dropout, **placed)
        self.head = Linear(hidden_size, len(vocabulary), **placed)
        self.parameters = JoinedParameters(
            embedding=self.embedding.parameters, lstm=self.lstm.parameters, head=self.head.parameters
        )

    @property
    def num_parameters(self) -> int:
        """The number of elements of all parameters."""
        return sum(int(array.size) for array in self.parameters.values())

    def to(self, backend: str | None = None, dtype: DTypeLike | None = None) -> Self:
        """Move all parts to another backend or element type, in place, as ``LSTM.to``; return the model.

        >>> model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3)
        >>> model.to(dtype="float64").parameters["head.bias"].dtype
        dtype('float64')
        """
        for part in (self.embedding, self.lstm, self.head):
            part.to(backend, dtype)
        return self

    def logits(self, numbers: Array, state: LSTMState | None = None) -> tuple[Array, LSTMState]:
        """Return the logits of the next character at each step, and the state after the last one.

        Parameters
        ----------
        numbers : Array of integers, shape (T, B)
            Characters, by their numbers in the vocabulary.
        state : tuple of Arrays (h, c), each (num_layers, B, hidden_size), optional
            Zeros by default.

        Returns
        -------
        logits : Array, shape (T, B, len(vocabulary))
        state : tuple of Arrays (h_n, c_n)

        >>> model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3)
        >>> logits, (h_n, c_n) = model.logits(np.array([[0], [1], [0], [1]]))
        >>> logits.shape, h_n.shape
        ((4, 1, 2), (1, 1, 3))
        """
        output, state = self.lstm(self.embedding(numbers), state)
        return self.head(output), state

    def loss(self, numbers: Array, targets: Array, state: LSTMState | None = None) -> tuple[float, LSTMState]:
        """Return the mean loss in nats per character, without dropout, and the state after the window.

        ``numbers`` and ``targets``, the characters that follow them, have shape (T, B).

        >>> model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3, rng=0)
        >>> text = np.array([[0], [1], [0], [1]])
        >>> loss, state = model.loss(text[:-1], text[1:])
        >>> 0.5 < loss < 1  # log(2) is about 0.69
        True
        """
        logits, state = self.logits(numbers, state)
        return cross_entropy(logits, targets)[0], state

    def gradients(
        self,
        numbers: Array,
        targets: Array,
        state: LSTMState | None = None,
        *,
        rng: Any = None,
        training: bool = True,
    ) -> Result:
        """Return the loss of a window, its gradients, and the state after it.

        Parameters
        ----------
        numbers, targets : Array of integers, shape (T, B)
            Characters, and those that follow them.
        state : tuple of Arrays (h, c), optional
            Zeros by default; no gradient flows into it.
        rng : int, numpy.random.Generator or None
            Draws the dropout.
        training : bool
            Whether dropout acts.

        Returns
        -------
        Result
            ``loss`` in nats per character, ``gradients`` by the names of ``parameters``, ``state``.

        >>> model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3, rng=0)
        >>> text = np.array([[0], [1], [0], [1]])
        >>> model.gradients(text[:-1], text[1:]).gradients["head.bias"].shape
        (2,)
        """
        embedded = self.embedding.record(numbers)
        recurrent = self.lstm.record(embedded.output, state, rng=rng, training=training)
        head = self.head.record(recurrent.output)
        loss, grad_logits = cross_entropy(head.output, targets)
        grad_head = head.backward(grad_logits)
        grad_lstm = recurrent.backward(grad_head.input)
        grad_embedding = embedded.backward(grad_lstm.input)
        gradients = JoinedParameters(
            embedding=grad_embedding.parameters, lstm=grad_lstm.parameters, head=grad_head.parameters
        )
        return Result(loss, gradients, (recurrent.h_n, recurrent.c_n))

    def bits_per_character(self, numbers: HostIndices, *, count: int = 16, window: int = 256) -> float:
        """Measure the model on a text: mean of -log2 p over all its characters but the first.

        The text is read as up to ``count`` parallel streams, each from a zero state. The characters at the
        streams' starts are predicted without what came before, so the figure is a little too high rather than
        too low.

        Raises
        ------
        ArgumentError
            If there are less than two characters.

        >>> vocabulary = Vocabulary("ab")
        >>> model = LanguageModel(vocabulary, embedding_size=2, hidden_size=3, rng=0)
        >>> 0.5 < model.bits_per_character(vocabulary.encode("abba" * 9)) < 1.5
        True
        """
        if len(numbers) < 2:
            raise ArgumentError(f"numbers: expected at least 2 characters to measure on, got {len(numbers)}")
        backend = get_backend(self.lstm.backend)
        predicted = len(numbers) - 1
        count = max(1, min(count, predicted // window))
        length = -(-predicted // count)
        inputs = np.zeros(count * length, dtype=np.int64)
        targets = np.full(count * length, _PADDING, dtype=np.int64)
        inputs[:predicted], targets[:predicted] = numbers[:-1], numbers[1:]
        inputs, targets = inputs.reshape(count, length).T, targets.reshape(count, length).T
        state: LSTMState | None = None
        total = 0.0
        for start in range(0, length, window):
            span = slice(start, start + window)
            logits, state = self.logits(backend.asarray(inputs[span]), state)
            y = backend.asarray(targets[span])
            total += cross_entropy(logits, y, reduction="sum", ignore_index=_PADDING)[0]
        return total / predicted / math.log(2)

    def sample(self, prompt: str, *, length: int, temperature: float = 1.0, rng: Any = None) -> Iterator[str]:
        """Yield ``length`` characters that follow the prompt, one by one.

        Parameters
        ----------
        prompt : str
            The text to continue. Empty: a line break, or the first character of the vocabulary.
        length : int
        temperature : float >= 0
            Logits are divided by it: below 1 the likelier characters gain. 0 always takes the likeliest.
        rng : int, numpy.random.Generator or None

        Raises
        ------
        ArgumentError
            If the prompt has a character that the model does not know, or the temperature is negative.

        >>> model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3, rng=0)
        >>> len("".join(model.sample("abba", length=10, temperature=0.5, rng=1)))
        10
        """
        length = check_size("length", length, minimum=0)
        temperature = check_number("temperature", temperature, minimum=0.0)
        known = self.vocabulary.characters
        numbers = self.vocabulary.encode(prompt or ("\n" if "\n" in known else known[0]))
        return self._characters(numbers, length, temperature, as_generator(rng))

    def _characters(
        self, numbers: HostIndices, length: int, temperature: float, rng: np.random.Generator
    ) -> Iterator[str]:
        backend = get_backend(self.lstm.backend)
        state: LSTMState | None = None
        for _ in range(length):
            logits, state = self.logits(backend.asarray(numbers[:, None]), state)
            scores = backend.to_numpy(logits)[-1, 0].astype(np.float64)
            numbers = np.array([_draw(scores, temperature, rng)])
            yield self.vocabulary.decode(numbers)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments for a model of the same sizes, without vocabulary, backend and dtype.

        >>> LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3).config()
        {'embedding_size': 2, 'hidden_size': 3, 'num_layers': 1, 'dropout': 0.0}
        """
        return {
            "embedding_size": self.embedding.embedding_dim,
            "hidden_size": self.lstm.hidden_size,
            "num_layers": self.lstm.num_layers,
            "dropout": self.lstm.dropout,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, with ``config()`` and the vocabulary in its metadata."""
        metadata = {
            "format": FORMAT,
            "config": json.dumps(self.config()),
            "vocabulary": json.dumps(self.vocabulary.characters),
        }
        write_tensors(path, self.parameters, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str = "numpy") -> Self:
        """Read a model from a file that ``save`` wrote.

        Raises
        ------
        FileFormatError
            If the file is damaged, or holds something else. Memory is taken only for what the file really has.
        OSError
            If it cannot be read.
        BackendUnavailableError
            If the backend is not installed.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(pathlib.Path(folder, "model.safetensors"))
        ...     LanguageModel.load(pathlib.Path(folder, "model.safetensors")).vocabulary.characters
        'ab'
        """
        get_backend(backend)  # before anything that is reported as damage of the file
        shapes, metadata = read_header_of(path, FORMAT, "a language model")
        try:
            vocabulary, config = Vocabulary(json.loads(metadata["vocabulary"])), json.loads(metadata["config"])
            check_sizes(shapes, config)
            model = cls(vocabulary, backend=backend, rng=0, **config)
            model.load_state_dict(read_tensors(path))
        except DAMAGE as error:
            raise FileFormatError(f"{path}: the model in this file is damaged: {describe(error)}") from error
        return model

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace all parameters, by their names in ``parameters``; on any error none is replaced.

        Raises
        ------
        StateDictError
            If an array is missing, unexpected, or has another shape.

        >>> a, b = (LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3) for _ in range(2))
        >>> b.load_state_dict(a.parameters)
        >>> bool((a.parameters["head.bias"] == b.parameters["head.bias"]).all())
        True
        """
        load_arrays(self.parameters, state_dict, owner="the language model", strict=True)


def _draw(scores: Array, temperature: float, rng: np.random.Generator) -> int:
    """Draw an index from the softmax of scores / temperature."""
    if not np.isfinite(scores).all():
        raise DivergenceError("the model's logits are infinite or NaN: its weights cannot be used")
    if temperature < _COLD:
        return int(np.argmax(scores))
    cumulative: Array = np.exp((scores - scores.max()) / temperature).cumsum()
    return int(np.searchsorted(cumulative, rng.random() * float(cumulative[-1]), side="right"))
