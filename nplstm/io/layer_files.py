"""``save`` and ``load``: layers to and from files; ``write_tensors``: arrays to files."""

import os
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from nplstm._shapes import check_choice, check_flag
from nplstm._typing import Array, DType, DTypeLike
from nplstm.backends import Backend, backend_of, check_dtype, get_backend
from nplstm.errors import ArgumentError, FileFormatError, StateDictError
from nplstm.io.detect_format import open_file
from nplstm.io.layer_metadata import metadata_of
from nplstm.io.listing import choose_layer
from nplstm.io.model_file import MAX_BYTES, FoundLayer, printable
from nplstm.layers import LSTM, LSTMCell
from nplstm.layers.config import layer_of

__all__ = ["FORMATS", "check_tensors_format", "load", "save", "write_tensors"]

FORMATS = {".safetensors": "safetensors", ".npz": "npz", ".pt": "pt", ".pth": "pt", ".onnx": "onnx"}
"""The format written to a file by its suffix; any other suffix gets safetensors, except those of Keras."""

_LONGEST_NAME = 1000

_READ_ONLY = (".keras", ".h5", ".hdf5")

# Writers by module and name: a module is imported when its format is written.
_WRITERS = {
    "safetensors": ("nplstm.io.safetensors_file", "write_safetensors"),
    "npz": ("nplstm.io.npz_file", "write_npz"),
    "pt": ("nplstm.io.pt.state_dict_writer", "write_pt"),
}


def save(layer: LSTM | LSTMCell, path: str | os.PathLike[str], *, format: str | None = None) -> None:
    """Write a layer, its weights and options, to a file; the file is complete, or not changed at all.

    Parameters
    ----------
    layer : LSTM or LSTMCell
        On either backend.
    path : str or PathLike
        Replaced where it exists.
    format : {"safetensors", "npz", "pt", "onnx"}, optional
        By default from the suffix (``.npz``, ``.pt``, ``.pth``, ``.onnx``), else safetensors. All but "onnx" have
        torch's names for the weights, and the options beside them, ``CellSpec`` and hidden transform included.
        "npz" and "pt" need only NumPy; "pt" is a state dict for ``torch.load``. "onnx" is a model that any ONNX
        runtime runs; ``nplstm.onnx.export`` has more options.

    Raises
    ------
    ArgumentError
        If the layer has a hidden transform of the user's own, which no file can hold, or options that ONNX does
        not have; or if the suffix is that of a format that is not written.
    MissingDependencyError
        If safetensors or onnx is needed and not installed.
    OSError
        If the file cannot be written; what was there is intact.

    Examples
    --------
    >>> import nplstm, tempfile, pathlib
    >>> lstm = nplstm.LSTM(2, 3, cell=nplstm.CellSpec(peephole="diagonal"), rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nplstm.save(lstm, pathlib.Path(folder) / "lstm.safetensors")
    ...     nplstm.load(pathlib.Path(folder) / "lstm.safetensors")
    LSTM(2, 3, cell=CellSpec(peephole='diagonal'))
    """
    metadata = metadata_of(layer)
    if _format_of(path, format) == "onnx":
        from nplstm.io.onnx.export import export  # imported here, because it imports the package onnx

        export(layer, path)
    else:
        write_tensors(path, layer.state_dict(), metadata, format=format)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    *,
    format: str | None = None,
) -> None:
    """Write arrays and text to a safetensors, npz or PyTorch file; it is complete, or not changed at all.

    Parameters
    ----------
    path : str or PathLike
        Replaced where it exists.
    tensors : mapping of name to Array
        Of either backend.
    metadata : mapping of str to str, optional
    format : {"safetensors", "npz", "pt"}, optional
        By default from the suffix (``.npz``, ``.pt``, ``.pth``), else safetensors.

    Raises
    ------
    ArgumentError
        If the suffix is that of another format, or the format cannot hold a tensor's name or type.
    MissingDependencyError
        If safetensors is needed and not installed.
    OSError
        If the file cannot be written; what was there is intact.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> from nplstm.io import read_tensors, write_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(pathlib.Path(folder) / "a.npz", {"a": np.arange(3)}, {"of": "an example"})
    ...     read_tensors(pathlib.Path(folder) / "a.npz")
    {'a': array([0, 1, 2])}
    """
    module, name = _WRITERS[check_tensors_format(path, format)]
    getattr(import_module(module), name)(path, _checked(tensors), metadata or {})


def check_tensors_format(path: str | os.PathLike[str], format: str | None = None) -> str:
    """Return the format in which tensors are written to a path."""
    chosen = _format_of(path, format)
    if chosen not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise ArgumentError(f"format: {os.fspath(path)}: ONNX files hold layers; tensors go to {known}")
    return chosen


def _checked(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors as NumPy arrays, after checking that every format can hold them and their names."""
    arrays: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
            raise ArgumentError(
                f"tensors: expected names of printable text, at most {_LONGEST_NAME} characters, got {name!a:.80}"
            )
        arrays[name] = backend_of(tensor, f"tensors[{name!r}]").to_numpy(tensor)
        if arrays[name].dtype.kind not in "biufc":
            raise ArgumentError(f"tensors: {name!r} is {arrays[name].dtype}; expected numbers")
    return arrays


def _format_of(path: str | os.PathLike[str], format: str | None) -> str:
    if format is not None:
        check_choice("format", format, dict.fromkeys(FORMATS.values()))
        return format
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122  pathlib takes its time to import
    if suffix in _READ_ONLY:
        raise ArgumentError(
            f"path: {os.fspath(path)} ends in {suffix}, which is Keras's: such files are read, not written; give "
            f"it an ending of {', '.join(FORMATS)}; nplstm.io.keras_weights gives what a layer's set_weights takes"
        )
    return FORMATS.get(suffix, "safetensors")


def load(
    path: str | os.PathLike[str],
    *,
    prefix: str | None = None,
    layer: str | None = None,
    backend: str = "numpy",
    dtype: DTypeLike | None = None,
    batch_first: bool | None = None,
    max_bytes: int = MAX_BYTES,
) -> LSTM | LSTMCell:
    """Load an LSTM from a PyTorch, safetensors, npz, ONNX or Keras file as a layer.

    The format is detected from the content, not from the name. Sizes, layers, directions, projection and bias come
    from the file's metadata or, without it, from the names and shapes of its tensors. No file can run code, and no
    framework is needed.

    Parameters
    ----------
    path : str or PathLike
        ``.pt`` and ``.pth`` (state dicts, whole checkpoints, TorchScript, files from before 1.6),
        ``.safetensors``, ``.npz``, ``.onnx``, ``.keras``, ``.weights.h5``, ``.h5``.
    prefix, layer : str, optional
        Which LSTM, where there are several. Both mean the same: what precedes ``weight_ih_l0`` in the tensors'
        names (``"encoder.lstm."``), or the name of a Keras layer or ONNX node. The end of a name, from a dot or
        slash on, is enough if it fits only one.
    backend : {"numpy", "cupy"}
        The layer's backend.
    dtype : dtype, optional
        The layer's element type, to which the weights are cast. By default the file's; float16 becomes float32
        where the backend does not compute with it, and bfloat16 always does; both are exact.
    batch_first : bool, optional
        Whether the layer takes (B, T, I). By default as in the file: Keras's layers do; PyTorch's files do not
        record it, and count as False.
    max_bytes : int
        How much memory reading may take.

    Returns
    -------
    LSTM or LSTMCell
        A cell where the tensors' names have no layer number.

    Warns
    -----
    UserWarning
        If the layer alone may compute other numbers than the model: the model fixes initial states or lengths, or
        the file does not record the layer's options and they are assumed.

    Raises
    ------
    ArgumentError
        If the file holds several LSTMs and none is named, or none has that name; the message lists them.
    FileFormatError
        If the file is damaged or hostile, its format is not supported, it holds no LSTM, or one that nplstm does
        not support; the message names the reason.
    BackendUnavailableError, DTypeError
        If the backend is not available, or does not have the element type.
    MissingDependencyError
        If the file's format needs a package that is not installed.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import nplstm, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nplstm.save(nplstm.LSTM(2, 3, num_layers=2, rng=0), pathlib.Path(folder) / "lstm.npz")
    ...     nplstm.load(pathlib.Path(folder) / "lstm.npz")
    LSTM(2, 3, num_layers=2)
    """
    if prefix is not None and layer is not None:
        raise ArgumentError(f"layer: means the same as prefix; give one of them, got {prefix!r} and {layer!r}")
    target = get_backend(backend)
    wanted = None if dtype is None else check_dtype(dtype, target)
    with open_file(path, max_bytes=max_bytes) as file:
        found = choose_layer(file, layer if prefix is None else prefix)
        if found.problem is not None:
            raise FileFormatError(f"{path}: {_named(found)}{found.problem}")
        for caution in found.cautions:
            warnings.warn(f"{os.fspath(path)}: {printable(_named(found) + caution)}", stacklevel=2)
        parameters = found.read()
    return build(path, found, parameters, target, wanted, batch_first)


def build(
    path: str | os.PathLike[str],
    found: FoundLayer,
    parameters: Mapping[str, Array],
    backend: Backend,
    dtype: DType | None,
    batch_first: bool | None,
) -> LSTM | LSTMCell:
    """Return a layer that was found in a file, with its parameters."""
    options: dict[str, Any] = dict(found.options)
    if batch_first is not None:
        check_flag("batch_first", batch_first)
        if options.get("kind") == "LSTMCell":
            raise ArgumentError("batch_first: the file holds an LSTMCell, whose input has no steps")
        options["batch_first"] = batch_first
    _check_floats(path, parameters)
    kind = _dtype_of(path, parameters, backend) if dtype is None else dtype
    try:
        return layer_of(options, parameters, backend=backend.name, dtype=kind)
    except (ValueError, TypeError, OverflowError, RecursionError, StateDictError) as error:
        raise FileFormatError(
            f"{path}: {_named(found)}its weights and options do not make a layer: {error}"
        ) from error


def _named(found: FoundLayer) -> str:
    return f"{found.name!r}: " if found.name else ""


def _dtype_of(path: str | os.PathLike[str], parameters: Mapping[str, Array], backend: Backend) -> DType:
    """Return the element type of the weights, or float32 for float16 where the backend has none."""
    dtypes = {array.dtype.name: array.dtype for array in parameters.values()}
    if len(dtypes) != 1:
        raise FileFormatError(
            f"{path}: expected weights of one element type, got {', '.join(sorted(dtypes))}; dtype= casts them"
        )
    ((name, dtype),) = dtypes.items()
    if name == "float16" and name not in backend.float_dtypes:
        return check_dtype("float32", backend)
    return check_dtype(dtype, backend)


def _check_floats(path: str | os.PathLike[str], parameters: Mapping[str, Array]) -> None:
    """Raise for weights that cannot be cast to floats: integers lack their scale, complex numbers lose a part."""
    for name, array in parameters.items():
        if array.dtype.kind != "f":
            raise FileFormatError(f"{path}: {name} is {array.dtype}, and weights are floating-point numbers")
