"""Operations of one step, each with its derivative: ``<name>_forward`` and ``<name>_backward``.

All are written against the array's namespace, so they run on NumPy and CuPy.
"""
