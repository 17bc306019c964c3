"""The LSTM beside its rivals on a CPU: ``torch.nn.LSTM`` and onnxruntime's LSTM operator.

``cases`` says what is run; ``with_nplstm``, ``with_torch`` and ``with_onnxruntime`` how each library does it, in a
process of its own (``worker``). ``check`` compares results with a float64 run before ``measure`` times anything;
``imports``, ``memory`` and ``sizes`` measure what is no call, ``peak`` what a core can do. ``machine`` has the
instruction sets, and how libraries are told to use them. ``report`` and ``picture`` are made of the JSON alone.
"""
