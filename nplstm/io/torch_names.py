"""LSTMs found by torch's parameter names and their shapes, in files that do not describe their layers.

``weight_hh_l0`` of shape (4H, P) gives the sizes, ``_reverse`` the directions, the numbers after ``_l`` the
layers. GRUs and plain RNNs have the same names, and other shapes.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from nplstm._typing import Array
from nplstm.io.model_file import FoundLayer, TensorInfo

__all__ = ["layers_by_name"]

_FIELDS = "weight_ih|weight_hh|bias_ih|bias_hh|weight_hr|weight_ch|gain_ih|gain_hh|gain_c|bias_c"
_NAME = re.compile(
    rf"(?P<prefix>.*?)(?:parametrizations\.)?(?P<name>(?:{_FIELDS})(?P<place>_l(?:0|[1-9]\d*)(?:_reverse)?)?)"
    r"(?P<part>_orig|_mask|_[guv]|\.original\d?)?",
    re.DOTALL,
)
"""A parameter, or a part of one that is pruned or weight-normalised, which torch stores in parts."""

Shapes = dict[str, tuple[int, ...]]


def layers_by_name(tensors: Mapping[str, TensorInfo], read: Callable[[str], Array]) -> list[FoundLayer]:
    """Return the LSTMs among tensors with torch's names; an LSTM's name is the prefix of its tensors' names.

    Parameters
    ----------
    tensors : mapping of name to TensorInfo
    read : callable
        Reads a tensor by its full name.
    """
    groups: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
    parts: dict[tuple[str, bool], str] = {}
    for name, info in tensors.items():
        found = _NAME.fullmatch(name)
        if not found:
            continue
        place = (found["prefix"], found["place"] is None)
        group = groups.setdefault(place, {})
        if not found["part"]:
            group[found["name"]] = info
            continue
        parts[place] = name
        if len(info.shape) == 2 or not found["name"].startswith("weight"):  # the part of the parameter's shape
            group.setdefault(found["name"], info)
    return [
        _layer(prefix, group, read, cell=cell, in_parts=parts.get((prefix, cell)))
        for (prefix, cell), group in groups.items()
        if _is_lstm(group, "" if cell else "_l0")
    ]


def _is_lstm(group: Mapping[str, TensorInfo], suffix: str) -> bool:
    """Tell an LSTM from a GRU or a plain RNN, which have the same names, by the rows of ``weight_hh``."""
    needed = [f"weight_ih{suffix}", f"weight_hh{suffix}"]
    if not all(name in group and len(group[name].shape) == 2 for name in needed):
        return False
    rows, width = group[needed[1]].shape
    return rows > 0 and rows % 4 == 0 and rows not in {width, 3 * width}


def _layer(
    prefix: str, group: Mapping[str, TensorInfo], read: Callable[[str], Array], *, cell: bool, in_parts: str | None
) -> FoundLayer:
    shapes = {name: info.shape for name, info in group.items()}
    names = list(group)
    options, problem = _cell_options(shapes) if cell else _stack_options(shapes)
    if in_parts is not None:
        problem = (
            f"{in_parts!r} is a part of a weight that is pruned or normalised; make it whole in torch, and save"
        )
    R = options.get("recurrent_size")
    return FoundLayer(
        name=prefix,
        options=options,
        read=lambda: {name: read(prefix + name) for name in names},
        dtype=", ".join(sorted({info.dtype for info in group.values()})),
        num_parameters=sum(info.size for info in group.values()),
        problem=problem,
        notes=() if R is None else (f"weight_hh reads {R} numbers, not h: hence recurrent_size",),
    )


def _cell_options(shapes: Shapes) -> tuple[dict[str, Any], str | None]:
    options: dict[str, Any] = {"kind": "LSTMCell", "bias": "bias_ih" in shapes}
    options |= {"input_size": shapes["weight_ih"][1], "hidden_size": shapes["weight_hh"][0] // 4}
    if "weight_hr" in shapes:
        return options, "weight_hr: an LSTMCell has no projection"
    if shapes["weight_hh"][1] != options["hidden_size"]:
        options["recurrent_size"] = shapes["weight_hh"][1]
    cell, problem = _spec(shapes, "")
    return options | cell, problem


def _stack_options(shapes: Shapes) -> tuple[dict[str, Any], str | None]:
    layers = len({name for name in shapes if re.fullmatch(r"weight_hh_l\d+", name)})
    bidirectional = any(name.endswith("_reverse") for name in shapes)
    if any(len(shapes.get(f"weight_hh_l{layer}", ())) != 2 for layer in range(layers)):
        return {"kind": "LSTM"}, "not every layer, by its number, has a matrix weight_hh"
    sizes = [shapes[f"weight_hh_l{layer}"][0] // 4 for layer in range(layers)]
    options: dict[str, Any] = {
        "kind": "LSTM",
        "input_size": shapes["weight_ih_l0"][-1],
        "hidden_size": sizes[0] if len(set(sizes)) == 1 else tuple(sizes),
        "num_layers": layers,
        "bias": "bias_ih_l0" in shapes,
        "bidirectional": bidirectional,
        "proj_size": shapes["weight_hr_l0"][0] if shapes.get("weight_hr_l0") else 0,
    }
    width = options["proj_size"] or sizes[0]
    if shapes["weight_hh_l0"][1] != width:
        options["recurrent_size"] = shapes["weight_hh_l0"][1]
    if bidirectional and layers > 1 and shapes.get("weight_ih_l1", ())[-1:] == (width,):
        options["stacking"] = "independent"  # a layer reads one direction of the layer below, not both
    cell, problem = _spec(shapes, "_l0")
    return options | cell, problem


def _spec(shapes: Shapes, suffix: str) -> tuple[dict[str, Any], str | None]:
    """Return the cell's options that the weights show, and the problem if they do not show all."""
    if any(name.startswith("gain_") for name in shapes):
        return {}, "its layer normalisation is one of two kinds, and the weights do not say which"
    peepholes = shapes.get("weight_ch" + suffix)
    if peepholes is None:
        return {}, None
    return {"cell": {"peephole": "diagonal" if len(peepholes) == 1 else "full"}}, None
