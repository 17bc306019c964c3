"""``nplstm verify``: compares the layers of two files, their parameters and their outputs."""

import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np

from nplstm._shapes import check_number, check_size
from nplstm._typing import Array, Arrays
from nplstm.commands.model_files.sequences import as_lstm, named_states
from nplstm.errors import ArgumentError
from nplstm.io import load, open_file
from nplstm.io.model_file import MAX_BYTES
from nplstm.layers import LSTM

__all__ = ["verify"]

_STEPS, _BATCH = 17, 3
_TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
"""Relative to the largest number of an array, if that is above 1: a few rounding errors."""


def verify(
    first: Path,
    second: Path,
    *,
    layer: str | None = None,
    second_layer: str | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    as_json: bool = False,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Print the largest differences between two files' layers: of parameters, and of outputs on random input.

    Both are compared in the wider of their two element types. Of two biases the sum is compared, since Keras has
    one where torch and ONNX have two.

    Parameters
    ----------
    first, second : Path
    layer, second_layer : str, optional
        Names of the LSTMs; ``second_layer`` is ``layer`` by default, if the second file has several.
    tolerance : float, optional
        Relative to the largest number of an array, if that is above 1; 1e-6 by default, in float64 1e-12.
    seed : int
        Of the random input.

    Returns
    -------
    int
        0 if the outputs agree to ``tolerance``, else 1; NaN agrees with nothing.

    Raises
    ------
    ArgumentError
        If the layers differ in their sizes.
    FileFormatError
        If a file is damaged, or has no LSTM that can be loaded.

    Examples
    --------
    >>> import nplstm, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a, b = Path(folder, "a.npz"), Path(folder, "b.pt")
    ...     nplstm.save(nplstm.LSTM(3, 5, rng=0), a)
    ...     nplstm.save(nplstm.load(a), b)
    ...     status = verify(a, b)  # doctest: +ELLIPSIS
    LSTM(3, 5), float32
    ...
    the outputs agree (to 1e-06, on random input)
    >>> status
    0
    """
    check_size("--seed", seed, minimum=0)
    if tolerance is not None:
        check_number("--tolerance", tolerance, minimum=0)
    other = second_layer
    if second_layer is None and not _holds_one(second, max_bytes):
        other = layer
    a, b = (
        as_lstm(load(path, layer=name, max_bytes=max_bytes)) for path, name in ((first, layer), (second, other))
    )
    bound = max(_TOLERANCE[lstm.dtype.name] for lstm in (a, b)) if tolerance is None else tolerance
    dtypes = [lstm.dtype.name for lstm in (a, b)]
    dtype = np.promote_types(a.dtype, b.dtype)
    a, b = a.to(dtype=dtype), b.to(dtype=dtype)
    _check_comparable(a, b)
    acting = _acting(a), _acting(b)
    parameters = _differences(*acting)
    results = _results(a, seed), _results(b, seed)
    outputs = _differences(*results)
    same = all(difference <= bound * max(_scale(name, results), 1) for name, difference in outputs.items())
    alike = all(difference <= bound * _scale(name, acting) for name, difference in parameters.items())
    found = {
        "layers": [repr(a), repr(b)],
        "dtypes": dtypes,
        "parameters": parameters,
        "outputs": outputs,
        "tolerance": bound,
        "same": same,
        "parameters_same": alike,
    }
    sys.stdout.write((_json(found) if as_json else _text(found)) + "\n")
    return 0 if same else 1


def _holds_one(path: Path, max_bytes: int) -> bool:
    """Tell whether a file holds one LSTM: then its name does not matter, which a conversion may have dropped."""
    with open_file(path, max_bytes=max_bytes) as file:
        return len(file.layers()) == 1


def _check_comparable(a: LSTM, b: LSTM) -> None:
    """Raise ArgumentError unless input and output have the same sizes."""
    for name in ("input_size", "hidden_size", "num_layers", "bidirectional", "proj_size"):
        one, other = getattr(a, name), getattr(b, name)
        if one != other:
            raise ArgumentError(
                f"{name}: the first file's layer has {one}, the second's {other}: not the same layer"
            )


def _acting(lstm: LSTM) -> dict[str, Array]:
    """Return the parameters by name, with the sum of two biases, unless layer normalisation keeps them apart."""
    named = dict(lstm.parameters)
    if lstm.cell.layer_norm is None:
        for name in [name for name in named if name.startswith("bias_ih")]:
            named[name.replace("bias_ih", "bias")] = named.pop(name) + named.pop(name.replace("ih", "hh"))
    return named


def _results(lstm: LSTM, seed: int) -> dict[str, Array]:
    """Return output and final states on random input, by name, with time first."""
    x = np.random.default_rng(seed).standard_normal((_STEPS, _BATCH, lstm.input_size)).astype(lstm.dtype)
    output, final = lstm(x.swapaxes(0, 1) if lstm.batch_first else x)
    outputs = cast("tuple[Array, ...]", output if isinstance(output, tuple) else (output,))
    shown = {f"output_{k}" if k else "output": array for k, array in enumerate(outputs)}
    if lstm.batch_first:
        shown = {name: array.swapaxes(0, 1) for name, array in shown.items()}
    return shown | named_states(final)


def _differences(a: Arrays, b: Arrays) -> dict[str, float]:
    """Return the largest difference of each array; infinite where one is missing or has another shape."""
    alike = {name: name in a and name in b and a[name].shape == b[name].shape for name in {**a, **b}}
    return {name: _greatest(a[name], b[name]) if same else float("inf") for name, same in alike.items()}


def _greatest(a: Array, b: Array) -> float:
    """Return the largest difference; a NaN in either makes it infinite."""
    unlike = a != b
    return float(np.nan_to_num(np.abs(a[unlike] - b[unlike]), nan=np.inf).max(initial=0.0))


def _scale(name: str, results: tuple[Arrays, Arrays]) -> float:
    """Return the largest number of an array in both."""
    return max(float(np.abs(arrays[name]).max(initial=0.0)) for arrays in results if name in arrays)


def _json(found: dict[str, Any]) -> str:
    """Return one JSON object; infinite differences are null, since JSON has no such number."""
    finite = {
        kind: {name: difference if difference < float("inf") else None for name, difference in found[kind].items()}
        for kind in ("parameters", "outputs")
    }
    return json.dumps(found | finite, indent=2)


def _text(found: dict[str, Any]) -> str:
    lines = [f"{repr_}, {dtype}" for repr_, dtype in zip(found["layers"], found["dtypes"], strict=True)]
    for kind in ("parameters", "outputs"):
        lines += ["", f"greatest difference of {kind}"]
        lines += [f"  {name:<20} {difference:.3g}" for name, difference in found[kind].items()]
    verdict = "the outputs agree" if found["same"] else "THE OUTPUTS DIFFER"
    but = "; the parameters do not" if found["same"] and not found["parameters_same"] else ""
    return "\n".join([*lines, "", f"{verdict} (to {found['tolerance']:g}, on random input){but}"])
