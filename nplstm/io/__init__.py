"""Files in and out. Each format's library is imported when the format is used.

A file is written beside its destination and renamed when it is complete: a full disk, a crash or Ctrl-C
leaves the old file as it was. No file that is read can run code.
"""

from nplstm.io._atomic import atomic_write
from nplstm.io._tensors import read_header, read_tensors, write_tensors

__all__ = ["atomic_write", "read_header", "read_tensors", "write_tensors"]
