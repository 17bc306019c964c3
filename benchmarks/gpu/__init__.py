"""The LSTM on a GPU beside ``torch.nn.LSTM`` with cuDNN: one process, one device, libraries in turn.

``cases`` says what is run; ``with_nplstm`` and ``with_torch`` how each library does it, behind what ``library``
asks of them. ``check`` compares results before ``measure`` times anything; ``model`` says what a call should take.
``verify`` looks at the engines themselves, beside a float64 loop, and ``sanitize`` has NVIDIA's tool look at their
memory. ``figures`` and ``report`` are made of the JSON alone.
"""
