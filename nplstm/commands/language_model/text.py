"""Text as integers: reading a file, the vocabulary, training and validation parts, parallel streams."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from nplstm._typing import HostIndices
from nplstm.errors import ArgumentError, FileFormatError

PYDOC = "pydoc_data.topics"
"""The name of the text that is used where there is no file: the documentation that CPython itself ships."""


def read_text(source: str | Path) -> str:
    """Read a UTF-8 text file, or for ``PYDOC`` the language's documentation, which CPython ships.

    Raises
    ------
    FileFormatError
        If the file is empty, or is not UTF-8 text: a NUL character counts as binary.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> from nplstm.commands.language_model import read_text
    >>> len(read_text("pydoc_data.topics")) > 100_000
    True
    """
    if str(source) == PYDOC:
        return _pydoc_text()
    data = Path(source).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{source}: not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start} ({error.reason})"
        ) from error
    if "\0" in text:
        raise FileFormatError(f"{source}: binary, not text: a NUL byte at offset {data.index(0)}")
    if not text:
        raise FileFormatError(f"{source}: the file is empty")
    return text


def _pydoc_text() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise FileFormatError(f"this Python comes without {PYDOC}: name a text file") from error
    return "\n".join(topics[name] for name in sorted(topics))


@dataclass(frozen=True)
class Vocabulary:
    """The characters that a model knows; a character's number is its index in ``characters``.

    Parameters
    ----------
    characters : str
        Each once.

    Raises
    ------
    ArgumentError
        If there is no character, one occurs twice, or one is half of a surrogate pair.

    Examples
    --------
    >>> from nplstm.commands.language_model import Vocabulary
    >>> vocabulary = Vocabulary.of("abracadabra")
    >>> vocabulary.decode(vocabulary.encode("cab"))
    'cab'
    """

    characters: str
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.characters, str):
            raise ArgumentError(f"characters: expected a string, got {type(self.characters).__qualname__}")
        if not self.characters or len(set(self.characters)) < len(self.characters):
            raise ArgumentError("characters: expected at least one, and each once")
        if any("\ud800" <= character <= "\udfff" for character in self.characters):
            raise ArgumentError("characters: expected text, got half of a surrogate pair")
        index = {character: k for k, character in enumerate(self.characters)}
        object.__setattr__(self, "_index", index)

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the vocabulary of a text: its characters in the order of their code points.

        >>> from nplstm.commands.language_model import Vocabulary
        >>> Vocabulary.of("abracadabra").characters
        'abcdr'
        """
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> HostIndices:
        """Return the numbers of a text's characters.

        Raises
        ------
        ArgumentError
            Names the characters that are not in the vocabulary.

        Examples
        --------
        >>> from nplstm.commands.language_model import Vocabulary
        >>> Vocabulary("abc").encode("cab")
        array([2, 0, 1])
        """
        unknown = sorted(set(text) - self._index.keys())
        if unknown:
            raise ArgumentError(
                f"text: not in the model's vocabulary: {_shorten(', '.join(map(repr, unknown)))}; "
                f"the vocabulary is {_shorten(repr(self.characters))}"
            )
        return np.array([self._index[character] for character in text], dtype=np.int64)

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of these numbers.

        >>> from nplstm.commands.language_model import Vocabulary
        >>> Vocabulary("abc").decode([2, 0, 1])
        'cab'
        """
        return "".join(self.characters[number] for number in numbers)


def _shorten(text: str, width: int = 200) -> str:
    return text if len(text) <= width else text[:width] + " ..."


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text, cut into a training part and, from its end, a validation part.

    Attributes
    ----------
    vocabulary : Vocabulary
        Of the whole text.
    training, validation : HostIndices
        The parts, as numbers.
    digest : str
        SHA-256 of the text: a resumed run compares it, since it needs the same text.
    """

    vocabulary: Vocabulary
    training: HostIndices
    validation: HostIndices
    digest: str

    @classmethod
    def of(cls, text: str, *, validation: float, window: int) -> Self:
        """Cut a text into its parts; ``validation`` is the share of the validation part.

        Raises
        ------
        ArgumentError
            If the training part is shorter than one window of ``window`` characters and the one after it, or
            the validation part has less than two characters.

        Examples
        --------
        >>> from nplstm.commands.language_model import Corpus
        >>> corpus = Corpus.of("abc" * 10, validation=0.1, window=5)
        >>> len(corpus.training), corpus.validation
        (27, array([0, 1, 2]))
        """
        vocabulary = Vocabulary.of(text)
        numbers = vocabulary.encode(text)
        cut = len(numbers) - max(int(len(numbers) * validation), 2)
        if cut < window + 1:
            raise ArgumentError(
                f"text: {len(text)} characters are too few: the training part has {max(cut, 0)} of them, and one "
                f"window needs {window + 1}; use a longer text or a smaller window"
            )
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(vocabulary, numbers[:cut], numbers[cut:], digest)


def streams(numbers: HostIndices, count: int, *, window: int) -> tuple[HostIndices, HostIndices]:
    """Cut a text into parallel streams: inputs and, one character later, targets; each (length, streams).

    There are ``count`` streams, or as many as have room for one window each; at least one.

    >>> inputs, targets = streams(np.arange(9), 2, window=4)
    >>> inputs.T
    array([[0, 1, 2, 3],
           [4, 5, 6, 7]])
    >>> targets.T
    array([[1, 2, 3, 4],
           [5, 6, 7, 8]])
    """
    count = max(1, min(count, (len(numbers) - 1) // window))
    length = (len(numbers) - 1) // count
    inputs = numbers[: length * count].reshape(count, length)
    targets = numbers[1 : length * count + 1].reshape(count, length)
    return np.ascontiguousarray(inputs.T), np.ascontiguousarray(targets.T)
