"""Baselines of a language model: bits per character by the frequencies of characters and of pairs."""

import numpy as np

from nplstm._typing import HostIndices


def _smoothed_unigram(training: HostIndices, size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    counts = np.bincount(training, minlength=size) + 1.0
    return counts / counts.sum()


def _mean_bits(probability: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return abs(float(np.log2(probability).mean()))  # abs: a certain text has 0 bits, not -0


def unigram_bits(training: HostIndices, validation: HostIndices, size: int) -> float:
    """Bits per character of the validation part under the characters' frequencies in the training part.

    ::

        p(b) = (n_b + 1) / (n + size)

    Parameters
    ----------
    training, validation : HostIndices
        Characters as numbers below ``size``.

    Returns
    -------
    float
        Mean of -log2 p over all validation characters but the first, as the language model is measured.

    Examples
    --------
    >>> import numpy as np
    >>> from nplstm.commands.language_model import unigram_bits
    >>> unigram_bits(np.array([0, 1, 0, 1]), np.array([0, 1, 1]), size=2)
    1.0
    """
    return _mean_bits(_smoothed_unigram(training, size)[validation[1:]])


def bigram_bits(training: HostIndices, validation: HostIndices, size: int) -> float:
    """Bits per character under the frequencies of pairs, with Witten-Bell smoothing.

    ::

        p(b | a) = (n_ab + d_a p(b)) / (n_a + d_a)          d_a: how many characters were seen after a

    Parameters, result and the unigram ``p(b)`` are those of ``unigram_bits``. Source: Witten & Bell, "The
    zero-frequency problem", 1991 (method C).

    Examples
    --------
    >>> import numpy as np
    >>> from nplstm.commands.language_model import bigram_bits
    >>> training = np.array([0, 1] * 100)
    >>> bigram_bits(training, training, size=2) < 0.01
    True
    """
    unigram = _smoothed_unigram(training, size)
    # only the pairs that occur are counted: with thousands of characters a table of all would not fit
    pairs, counts = np.unique(training[:-1] * size + training[1:], return_counts=True)
    followed = np.bincount(training[:-1], minlength=size)  # n_a
    distinct = np.maximum(np.bincount(pairs // size, minlength=size), 1)  # d_a
    before, after = validation[:-1], validation[1:]
    wanted = before * size + after
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    seen = np.where(pairs[place] == wanted, counts[place], 0)  # n_ab
    probability = (seen + distinct[before] * unigram[after]) / (followed[before] + distinct[before])
    return _mean_bits(probability)
