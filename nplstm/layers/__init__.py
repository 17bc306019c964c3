"""The layers that users hold: ``LSTM``, ``LSTMCell`` and ``Stream``, and their tapes."""

from nplstm.layers.cell import LSTMCell, LSTMCellGradients, LSTMCellTape
from nplstm.layers.lstm import LSTM
from nplstm.layers.stream import Stream
from nplstm.layers.tape import LSTMGradients, LSTMTape

__all__ = ["LSTM", "LSTMCell", "LSTMCellGradients", "LSTMCellTape", "LSTMGradients", "LSTMTape", "Stream"]
