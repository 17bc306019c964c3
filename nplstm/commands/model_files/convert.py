"""``nplstm convert``: a layer, or all tensors, from one file format to another."""

import sys
from pathlib import Path

from nplstm.errors import ArgumentError
from nplstm.io import load, open_file, save, write_tensors
from nplstm.io.model_file import MAX_BYTES

__all__ = ["convert"]


def convert(
    source: Path,
    target: Path,
    *,
    layer: str | None = None,
    format: str | None = None,
    dtype: str | None = None,
    batch_first: bool | None = None,
    tensors: bool = False,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Read an LSTM, or with ``tensors`` all arrays and the text beside them, and write it in another format.

    Returns
    -------
    int
        0.
    """
    if tensors:
        for name, value in {"--layer": layer, "--dtype": dtype, "--batch-first": batch_first}.items():
            if value is not None:
                raise ArgumentError(f"{name}: is about one LSTM, and --tensors converts every tensor as it is")
        with open_file(source, max_bytes=max_bytes) as file:
            metadata, arrays = file.metadata, {name: file.read(name) for name in file.tensors}
        write_tensors(target, arrays, metadata, format=format)
        what = f"{len(arrays)} tensors"
    else:
        found = load(source, layer=layer, dtype=dtype, batch_first=batch_first, max_bytes=max_bytes)
        save(found, target, format=format)
        what = repr(found)
    sys.stdout.write(f"{what}, {target.stat().st_size:,} bytes in {target}\n")
    return 0
