"""nplstm beside ``torch.nn.LSTM`` and onnxruntime's LSTM operator on a CPU, each in a process of its own."""
