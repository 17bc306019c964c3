"""``nplstm convert``: copies an LSTM, or all tensors, to a file of another format."""

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
    """Copy an LSTM, or with ``tensors`` all arrays and the metadata, to a file of another format.

    Parameters
    ----------
    source, target : Path
    layer, dtype, batch_first, max_bytes
        As for ``nplstm.load``.
    format : str, optional
        That of ``target``; by default its suffix decides.
    tensors : bool

    Returns
    -------
    int
        0.

    Raises
    ------
    ArgumentError
        If an option about an LSTM is combined with ``tensors``, or the format is unknown.
    FileFormatError
        If ``source`` is damaged, or has no LSTM that can be loaded.

    Examples
    --------
    >>> import nplstm, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nplstm.save(nplstm.LSTM(3, 5, rng=0), Path(folder, "a.npz"))
    ...     status = convert(Path(folder, "a.npz"), Path(folder, "a.pt"))  # doctest: +ELLIPSIS
    LSTM(3, 5), ... bytes in ...a.pt
    """
    if tensors:
        for name, value in {"--layer": layer, "--dtype": dtype, "--batch-first": batch_first}.items():
            if value is not None:
                raise ArgumentError(f"{name}: applies to one LSTM, but --tensors copies all tensors unchanged")
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
