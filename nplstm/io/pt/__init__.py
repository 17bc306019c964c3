"""PyTorch's files without torch.

What torch saves is a pickle, a program whose result is the object, with the numbers beside it. ``machine`` runs
such programs without the means to do anything: a name stands for what ``names``, ``torch_names`` and
``numpy_names`` have for it, and any other is refused. The result is plain containers (``values``) with a
``StoredTensor`` (``stored``) wherever there is a tensor; ``flatten`` gives these their names, ``reader`` checks
and reads them. ``zip_format`` and ``legacy`` know where in a file everything lies; ``write`` makes such a file.
"""
