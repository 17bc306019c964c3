"""A character-level language model: the program behind ``nplstm train`` and ``nplstm sample``.

It is written with the library's public parts and nothing else, and doubles as the library's largest example.
"""

from nplstm.commands.language_model.baselines import bigram_bits, unigram_bits
from nplstm.commands.language_model.model import LanguageModel
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
