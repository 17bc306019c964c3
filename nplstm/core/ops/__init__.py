"""Operations without time, as pairs that stand side by side: ``<name>_forward`` and ``<name>_backward``.

Everything here is written against the array's own namespace, and works on NumPy and CuPy alike.
"""
