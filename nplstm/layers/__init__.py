"""The user's classes, ``LSTM``, ``LSTMCell`` and ``Stream``, and the stack of layers and directions below them."""

from nplstm.layers.cell import LSTMCell, LSTMCellGradients, LSTMCellTape
from nplstm.layers.lstm import LSTM
from nplstm.layers.stream import Stream
from nplstm.layers.tape import LSTMGradients, LSTMTape

__all__ = ["LSTM", "LSTMCell", "LSTMCellGradients", "LSTMCellTape", "LSTMGradients", "LSTMTape", "Stream"]
