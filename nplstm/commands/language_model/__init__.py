"""Character-level language model: the program behind ``nplstm train`` and ``nplstm sample``.

It is made of the library's layers, loss and optimizer, and shares the checks and file functions of the other
commands. ``examples/language_model.py`` is a shorter one that uses public functions alone.
"""

from nplstm.commands.language_model.baselines import bigram_bits, unigram_bits
from nplstm.commands.language_model.network import LanguageModel
from nplstm.commands.language_model.settings import Settings
from nplstm.commands.language_model.text import Corpus, Vocabulary, read_text
from nplstm.commands.language_model.trainer import Trainer

__all__ = [
    "Corpus",
    "LanguageModel",
    "Settings",
    "Trainer",
    "Vocabulary",
    "bigram_bits",
    "read_text",
    "unigram_bits",
]
