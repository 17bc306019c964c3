"""Datasets of an HDF5 file that hold the weights of LSTM cells.

Keras has written them in two ways. Since 2.13 (``.keras``, ``.weights.h5``) a group holds the weights of a cell
as ``vars/0``, ``vars/1``, ``vars/2``, and groups are called by the classes of layers. Before (``.h5``) each layer
of the model has a group with its name, and the attribute ``weight_names`` lists the weights below it, in order.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nplstm.io.keras.hdf5 import Hdf5

__all__ = [
    "CellDatasets",
    "LayerGroup",
    "cells_by_name",
    "cells_by_number",
    "group_cells",
    "in_number_order",
    "layer_name",
    "read_name_list",
]

_CELL = re.compile(r"(lstm_)?cells?(_\d+)?|stacked_rnn_cells(_\d+)?")
_NUMBER = re.compile(r"_(\d+)$")


class CellDatasets(NamedTuple):
    """The datasets of one cell."""

    place: str
    kernel: str
    recurrent: str
    bias: str | None

    @property
    def backward(self) -> bool:
        """Whether Bidirectional's names mark it as the second direction."""
        return any(part.startswith("backward_") for part in self.place.split("/"))

    @property
    def names(self) -> list[str]:
        """Names of the datasets that exist, in Keras's order."""
        return [name for name in self[1:] if name is not None]


class LayerGroup(NamedTuple):
    """The cells of a layer that has no configuration."""

    place: str
    directions: list[list[CellDatasets]]  # the cells of each direction


def cells_by_number(hdf5: Hdf5) -> Iterator[CellDatasets]:
    """Yield the LSTM cells with weights ``vars/0`` and so on; shapes distinguish them from other layers."""
    places = sorted(
        (name.removesuffix("vars/1") for name in hdf5.datasets if name.endswith("/vars/1")), key=_by_size
    )
    for place in places:
        names = [f"{place}vars/{number}" for number in range(4)]
        cell = _lstm_cell(hdf5, place[:-1], dict(zip(("kernel", "recurrent_kernel", "bias"), names, strict=False)))
        if cell and names[3] not in hdf5.datasets:
            yield cell


def _by_size(name: str) -> tuple[int, str]:
    """Return a key that sorts ``cell_2`` before ``cell_10``."""
    return len(name), name


def cells_by_name(hdf5: Hdf5, group: str, layer: str) -> Iterator[CellDatasets]:
    """Yield the LSTM cells in the group of a model's layer, in order, by the names of weights."""
    start = f"{group}/{layer}" if group else layer
    cells: dict[str, dict[str, str]] = {}
    for name in read_name_list(hdf5, start, "weight_names"):
        place, _, weight = name.rpartition("/")
        full = place if f"{place}/".startswith(f"{layer}/") else f"{layer}/{place}"
        cells.setdefault(full, {})[weight.partition(":")[0]] = f"{start}/{name}"
    found = (_lstm_cell(hdf5, place, names) for place, names in cells.items())
    return (cell for cell in found if cell)


def read_name_list(hdf5: Hdf5, group: str, name: str) -> list[str]:
    """Return a list of names; a long one is split into several attributes, ``name0``, ``name1`` and so on."""
    whole = hdf5.texts(group, name)
    if whole is not None:
        return whole
    parts: list[str] = []
    number = 0
    while (part := hdf5.texts(group, f"{name}{number}")) is not None:
        parts += part
        number += 1
    return parts


def _lstm_cell(hdf5: Hdf5, place: str, names: dict[str, str]) -> CellDatasets | None:
    """Return these datasets as an LSTM cell if their shapes are those of one, else None."""
    shapes = {weight: hdf5.datasets[name].shape for weight, name in names.items() if name in hdf5.datasets}
    kernel, recurrent = shapes.get("kernel", ()), shapes.get("recurrent_kernel", ())
    if len(kernel) != 2 or len(recurrent) != 2 or 0 in kernel + recurrent:
        return None
    rows = 4 * recurrent[0]
    if kernel[1] != rows or recurrent[1] != rows or shapes.get("bias", (rows,)) != (rows,):
        return None
    if "bias" not in shapes and not _CELL.fullmatch(place.rpartition("/")[2]) and names["kernel"].endswith("/0"):
        return None  # two matrices may be anything
    return CellDatasets(
        place, names["kernel"], names["recurrent_kernel"], names["bias"] if "bias" in shapes else None
    )


def group_cells(cells: Iterable[CellDatasets]) -> list[LayerGroup]:
    """Group the cells by layer: those of a stack, and of two directions."""
    layers: dict[str, dict[str, list[CellDatasets]]] = {}
    for cell in cells:
        parts = cell.place.split("/")
        while len(parts) > 1 and _CELL.fullmatch(parts[-1]):
            parts.pop()
        turned = len(parts) > 1 and parts[-1].startswith(("forward_", "backward_"))
        direction = parts.pop() if turned else ""
        layers.setdefault("/".join(parts), {}).setdefault(direction, []).append(cell)
    found: list[LayerGroup] = []
    for place, directions in layers.items():
        ways = sorted(directions, reverse=True)  # forward before backward
        turns, names = [way.partition("_")[0] for way in ways], {way.partition("_")[2] for way in ways}
        if turns == ["forward", "backward"] and len(names) == 1:
            found.append(LayerGroup(place, [directions[way] for way in ways]))
        else:
            found += [LayerGroup(f"{place}/{way}" if way else place, [some]) for way, some in directions.items()]
    return found


def in_number_order(cells: list[CellDatasets]) -> bool:
    """Tell whether the cells of a stack are in the order of the numbers in their names."""
    found = [_NUMBER.search(cell.place) for cell in cells]
    numbers = [int(number[1][:18]) if number else 0 for number in found]
    return numbers == sorted(numbers)


def layer_name(hdf5: Hdf5, place: str) -> str:
    """Return the names that Keras 3 stores in the groups along a path; the path itself if one is missing."""
    names: list[str] = []
    parts = place.split("/")
    for end in range(1, len(parts) + 1):
        names += hdf5.texts("/".join([*parts[:end], "vars"]), "name") or []
    return "/".join(names) if hdf5.texts(f"{place}/vars", "name") else place
