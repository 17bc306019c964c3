"""Keras's files: ``.keras``, ``.weights.h5`` and ``.h5``, with NumPy alone.

The HDF5 inside is read here, not by the HDF5 library: that one hangs or dies of damaged files, and a reader of the
part of the format that Keras writes is small enough to be checked line by line.
"""
