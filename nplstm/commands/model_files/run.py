"""``nplstm run``: runs a trained LSTM over an array in a file."""

import math
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from nplstm._progress import terminal_bar
from nplstm._typing import Array
from nplstm.commands.model_files.sequences import STATES, States, as_lstm, named_states, run_in_chunks
from nplstm.core.packed import check_lengths
from nplstm.errors import ArgumentError, FileFormatError, ShapeError
from nplstm.io import atomic_write, load, read_tensors, write_tensors
from nplstm.io.layer_files import check_tensors_format
from nplstm.io.model_file import MAX_BYTES, check_ordinary, damaged, printable
from nplstm.layers import LSTM

__all__ = ["run"]


def run(
    model: Path,
    *,
    input: Path,
    output: Path,
    layer: str | None = None,
    lengths: str | None = None,
    initial: Path | None = None,
    states: Path | None = None,
    backend: str = "numpy",
    batch_first: bool | None = None,
    dtype: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Run the LSTM of a file over an ``.npy`` array, and write its output to another ``.npy`` file.

    Input and output are memory-mapped: they may be larger than memory. On any error an older output file stays as
    it was.

    Parameters
    ----------
    model : Path
    input : Path
        An array (T, B, I), (T, I), or with ``batch_first`` (B, T, I).
    output : Path
        Shaped like the input but for the last axis.
    layer, backend, batch_first, dtype, max_bytes
        As for ``nplstm.load``.
    lengths : str, optional
        Of the sequences: integers with commas between them, or an ``.npy`` file.
    initial, states : Path, optional
        Files of initial and of final states, with arrays ``h_n`` and ``c_n``.

    Returns
    -------
    int
        0.

    Raises
    ------
    ShapeError
        If the input's axes do not fit the LSTM.
    FileFormatError
        If a file is damaged, or the input is not of floating-point numbers.
    ArgumentError
        Names the option that does not fit.

    Examples
    --------
    >>> import nplstm, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a, x, y = (Path(folder, name) for name in ("a.npz", "x.npy", "y.npy"))
    ...     nplstm.save(nplstm.LSTM(3, 5, rng=0), a)
    ...     np.save(x, np.ones((7, 2, 3), np.float32))
    ...     status = run(a, input=x, output=y)  # doctest: +ELLIPSIS
    LSTM(3, 5)
    ...x.npy (7, 2, 3) float32 -> ...y.npy (7, 2, 5) float32
    """
    options: dict[str, Any] = {"layer": layer, "backend": backend, "batch_first": batch_first, "dtype": dtype}
    lstm = as_lstm(load(model, **options, max_bytes=max_bytes))
    x = _read_input(input, lstm)
    batched = x if x.ndim == 3 else x[None] if lstm.batch_first else x[:, None]
    batch = batched.shape[0 if lstm.batch_first else 1]
    steps = batched.shape[1 if lstm.batch_first else 0]
    given_lengths = None if lengths is None else _read_lengths(lengths, steps, batch)
    hx = None if initial is None else _read_states(initial, batch)
    _check_outputs(output, states)
    shape = (*x.shape[:-1], _width(lstm))
    with _mapped_output(output, shape, lstm.dtype) as out, _progress(batched[..., 0].size) as done:
        final = run_in_chunks(
            lstm, batched, out.reshape(*batched.shape[:2], shape[-1]), hx=hx, lengths=given_lengths, done=done
        )
    if states is not None:
        write_tensors(states, named_states(final))
    sys.stdout.write(f"{lstm!r}\n{input} {x.shape} {x.dtype} -> {output} {shape} {lstm.dtype}\n")
    return 0


def _width(lstm: LSTM) -> int:
    """Return the width of the output."""
    last = int(np.atleast_1d(lstm.hidden_size)[-1])  # a size for each layer, or one for all
    sides = 2 if lstm.bidirectional and lstm.merge == "concat" else 1
    return sides * (lstm.proj_size or last)


def _read_array(path: Path) -> Array:
    check_ordinary(path)
    with damaged(path, "not an array (.npy)", ValueError, TypeError, EOFError, OverflowError, SyntaxError):
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise FileFormatError(f"{path}: not a single array (.npy)")
    return cast("Array", array)


def _read_input(path: Path, lstm: LSTM) -> Array:
    x = _read_array(path)
    if x.dtype.kind != "f":
        raise FileFormatError(f"{path}: expected floating-point numbers, got {x.dtype}")
    axes = "(B, T, I)" if lstm.batch_first else "(T, B, I)"
    if x.ndim not in {2, 3} or x.shape[-1] != lstm.input_size:
        raise ShapeError(f"{path}: expected shape {axes} or (T, I) with I={lstm.input_size}, got {x.shape}")
    return x


def _read_lengths(text: str, steps: int, batch: int) -> Array:
    """Read lengths from an ``.npy`` file, or from numbers with commas between them."""
    if text.endswith(".npy"):
        lengths = _read_array(Path(text))
    else:
        try:
            lengths = np.array([int(number) for number in text.split(",")])
        except ValueError:
            raise ArgumentError(
                f"--lengths: expected integers with commas between them, or an .npy file, got {text!r}"
            ) from None
    return check_lengths(lengths, steps=steps, batch=batch, minimum=0, argument="--lengths")


def _read_states(path: Path, batch: int) -> States:
    """Read initial states as ``--states`` writes final ones: ``h_n``, ``c_n``, by layers ``h_n_l0``, ..."""
    arrays = read_tensors(path)
    found: list[Any] = []
    for name in STATES:
        layers = list(takewhile(arrays.__contains__, (f"{name}_l{k}" for k in count())))
        if name in arrays:
            found.append(_state(path, name, arrays.pop(name), batch))
        elif layers:
            found.append(tuple(_state(path, layer, arrays.pop(layer), batch) for layer in layers))
        elif name != STATES[-1]:  # which only some layers have
            raise ArgumentError(f"--initial: {path} has no {name}")
    if arrays:
        raise ArgumentError(f"--initial: {path} has {', '.join(map(printable, arrays))} beside states")
    return tuple(found)


def _state(path: Path, name: str, array: Array, batch: int) -> Array:
    if array.dtype.kind != "f" or array.ndim != 3 or array.shape[1] != batch:
        raise ArgumentError(
            f"--initial: {path}: {name}: expected floating-point numbers of shape (L * D, B={batch}, ...), got "
            f"{array.dtype} {array.shape}"
        )
    return array


def _check_outputs(output: Path, states: Path | None) -> None:
    """Raise before the work for output files that could not be written after it."""
    if states is not None:
        check_tensors_format(states)
        if states.resolve() == output.resolve():
            raise ArgumentError(f"--states: is the file of --output, {output}")


@contextmanager
def _mapped_output(path: Path, shape: tuple[int, ...], dtype: Any) -> Generator[Array]:
    """Yield an array mapped to a temporary file, which is renamed to ``path`` at the end if nothing is raised."""
    with atomic_write(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        file.flush()
        _reserve(file, start + math.prod(shape) * np.dtype(dtype).itemsize)
        mapped = np.memmap(file, dtype=dtype, mode="r+", offset=start, shape=shape)
        yield mapped
        mapped.flush()


def _reserve(file: BinaryIO, size: int) -> None:
    """Allocate a file's size: a full disk raises here, but would kill the process when its mapping is written."""
    reserve = getattr(os, "posix_fallocate", None)
    if reserve is None:
        file.truncate(size)
    else:
        reserve(file.fileno(), 0, size)


@contextmanager
def _progress(total: int) -> Generator[Any]:
    """Yield a function that is called with each chunk's size: it moves a progress bar, if there is a terminal."""
    bar = terminal_bar(f"{total:,} steps ...")
    if bar is None:
        yield _silent
        return
    with bar(total=total, unit=" steps", unit_scale=True, dynamic_ncols=True) as shown:
        yield shown.update


def _silent(count: int) -> None:
    """Do nothing."""
