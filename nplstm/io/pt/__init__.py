"""PyTorch's files without torch.

What torch saves is a pickle, a program whose result is the object, with the numbers beside it. ``unpickler`` runs
it restricted: a global name is looked up in ``allowed_globals`` (those of tensors in ``tensor_globals``),
and any other name is refused. The result is plain containers with a ``StridedTensor``
(``storages``) in the place of each tensor; ``pickled_file`` names, checks and reads them.
``zip_file`` and ``legacy_file`` are the two containers; ``state_dict_writer`` writes a state dict.
"""
