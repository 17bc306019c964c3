"""PyTorch's files without torch.

What torch saves is a pickle, a program whose result is the object, with the numbers beside it. ``unpickler`` runs
it restricted: a global name is looked up in ``allowed_globals`` (with ``torch_globals`` and ``numpy_globals``),
and any other name is refused. The result is plain containers (``pickled_values``) with a ``StridedTensor``
(``storages``) in the place of each tensor; ``named_tensors`` names them, ``pickled_file`` checks and reads them.
``zip_file`` and ``legacy_file`` are the two containers; ``state_dict_writer`` writes a state dict.
"""
