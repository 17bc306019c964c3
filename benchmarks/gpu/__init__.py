"""nplstm on a GPU: its engines checked beside a float64 loop, and timed beside ``torch.nn.LSTM`` with cuDNN."""
