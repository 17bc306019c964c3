"""Checks of names, options and types before weights are converted; shapes are checked in the conversion."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from nplstm._shapes import check_flag, check_mapping, check_size
from nplstm._typing import Array, Arrays
from nplstm.backends import backend_of, check_arrays, check_dtype
from nplstm.errors import ArgumentError, StateDictError
from nplstm.io.weight_formats.flat_vector import FLAT_FORMATS, FlatFormat, StackSizes
from nplstm.io.weight_formats.single_layer import LAYER_FORMATS, LayerFormat, expand

_EXTRAS = {
    "weight_ch": "peepholes",
    "weight_hr": "a projection",
    "gain_": "layer normalisation",
    "bias_c": "layer normalisation",
    "transform_": "a hidden transform",
}
"""Parameters that most formats do not have, by the beginning of their names."""


def check_format(format: object) -> None:
    """Raise unless there is a format of that name."""
    if not isinstance(format, str) or format not in {*LAYER_FORMATS, *FLAT_FORMATS}:
        known = ", ".join(repr(name) for name in (*LAYER_FORMATS, *FLAT_FORMATS))
        raise ArgumentError(f"format: expected one of {known}, got {format!r}")


def check_suffix(suffix: object) -> str:
    """Return the suffix if it is a string."""
    if not isinstance(suffix, str):
        raise ArgumentError(f"suffix: expected a string such as '_l0', got {suffix!r}")
    return suffix


def check_no_suffix(format: str, suffix: object) -> None:
    """Raise if there is a suffix, for the formats of a stack."""
    if suffix != "":
        raise ArgumentError(
            f"suffix: weight format {format!r} holds all layers and directions, got {suffix!r}; leave it out"
        )


def check_sizes(format: str, flat: FlatFormat, options: Mapping[str, Any]) -> StackSizes:
    """Return the sizes of a stack from the options."""
    for name in ("input_size", "hidden_size"):
        if name not in options:
            raise ArgumentError(
                f"{name}: a vector does not show its sizes, and weight format {format!r} needs this one"
            )
    bias = check_flag("bias", options.get("bias", True))
    if flat.always_biased and not bias:
        raise ArgumentError(f"bias: weight format {format!r} always has biases, got {bias}")
    return StackSizes(
        input_size=check_size("input_size", options["input_size"]),
        hidden_size=check_size("hidden_size", options["hidden_size"]),
        num_layers=check_size("num_layers", options.get("num_layers", 1)),
        bidirectional=check_flag("bidirectional", options.get("bidirectional", False)),
        bias=bias,
    )


def by_name(format: str, arrays: Arrays | Sequence[Array], argument: str = "arrays") -> dict[str, Array]:
    """Return arrays by name; those of Keras's list get their names."""
    if argument == "arrays" and format == "keras" and isinstance(arrays, list | tuple):
        names = list(LAYER_FORMATS["keras"].axes)
        if len(arrays) not in {2, 3}:
            raise ArgumentError(
                f"arrays: expected a list of {', '.join(names)}, or the first two, got {len(arrays)}"
            )
        return dict(zip(names, arrays, strict=False))
    check_mapping(argument, arrays)
    named = cast("Arrays", arrays)
    for name in named:
        if not isinstance(name, str):
            raise ArgumentError(f"{argument}: expected names as keys, got {name!r}")
    return dict(named)


def of_layer(parameters: Arrays, suffix: str) -> dict[str, Array]:
    """Return the parameters without those of other layers and directions, by their names."""

    def elsewhere(name: str) -> bool:
        found = re.search(r"_l\d+(_reverse)?$", name)
        return found is not None and found[0] != suffix

    kept = {name: array for name, array in parameters.items() if not elsewhere(name)}
    if parameters and not kept:
        raise ArgumentError(
            f"suffix: no parameter ends in {suffix!r}, only these are there: {', '.join(parameters)}"
        )
    return kept


def check_layer(argument: str, owner: str, format: LayerFormat, arrays: Arrays) -> None:
    """Check names, backend and element type of the arrays of one layer."""
    known: list[str] = []
    needed: list[str] = []
    for name in format.axes:
        keys = expand(name, format.order)
        always = name in format.weights or (name in format.biases and format.always_biased)
        known += keys
        needed += keys if always or any(key in arrays for key in keys) else []
    check_names(argument, owner, arrays, needed=needed, known=known)
    check_alike(arrays)


def check_names(argument: str, owner: str, arrays: Arrays, *, needed: list[str], known: list[str]) -> None:
    """Raise with all names that are missing or unknown; parameters that the format does not have come first."""
    missing = [name for name in needed if name not in arrays]
    unknown = [name for name in arrays if name not in known]
    for name in unknown:
        for start, what in _EXTRAS.items():
            if argument == "parameters" and name.startswith(start):
                raise ArgumentError(f"{name}: weight format {owner!r} is converted without {what}")
    problems = [f"missing: {', '.join(missing)}"] if missing else []
    problems += [f"unknown: {', '.join(unknown)}"] if unknown else []
    if problems:
        raise StateDictError(
            f"{argument}: weight format {owner!r} takes {', '.join(known)}; {'; '.join(problems)}"
        )


def check_alike(arrays: Arrays) -> None:
    """Raise unless all are arrays of one backend and of one element type that it computes with."""
    first, array = next(iter(arrays.items()))
    backend = backend_of(array, first)
    check_arrays(first, backend, check_dtype(array.dtype, backend, first), **arrays)
