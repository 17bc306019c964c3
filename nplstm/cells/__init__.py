"""One step of an LSTM, forward and backward. Start with ``lstm.py``."""
