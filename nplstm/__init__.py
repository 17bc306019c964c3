"""The LSTM without the framework: forward and backward, on NumPy or CuPy.

>>> import numpy as np, nplstm
>>> lstm = nplstm.LSTM(input_size=10, hidden_size=20, rng=0)
>>> output, (h_n, c_n) = lstm(np.zeros((5, 3, 10), dtype=np.float32))
>>> output.shape
(5, 3, 20)
"""

__version__ = "0.1.0"

from nplstm.errors import NplstmError
from nplstm.layers import LSTM, LSTMCell
from nplstm.packing import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
)

__all__ = [
    "LSTM",
    "LSTMCell",
    "NplstmError",
    "PackedSequence",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
]
