"""From what is in a file to the LSTMs in it: a model's configuration and the places of weights put together."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.keras.hdf5 import Hdf5
from nplstm.io.keras.models import Cell, Entry, Numbering, Recurrent, cells_of, is_shared, named_layers
from nplstm.io.keras.options import UnsupportedError, layer_notes, layer_options
from nplstm.io.keras.weight_places import Weights, cells_by_name, cells_by_number, grouped, listed, name_in
from nplstm.io.layouts.layer import LAYER_LAYOUTS, convert, torch_layout
from nplstm.io.model_file import WIDENED, FoundLayer, ModelFile

__all__ = ["Source", "found_layers", "legacy_layers"]

_ASSUMED = "its configuration is not in the file: that its options are Keras's defaults is assumed"
_OLD_GROUP = "_layer_checkpoint_dependencies"


class Source(NamedTuple):
    """What a layer is made of, besides its configuration."""

    file: ModelFile
    version: str  # of the Keras that wrote the file


def found_layers(source: Source, hdf5: Hdf5, model: Entry | None) -> list[FoundLayer]:
    """Return the LSTMs of a file with groups called by classes; with or without the model's configuration."""
    weights = {cell.place: cell for cell in cells_by_number(hdf5)}
    found: list[FoundLayer] = []
    known: set[str] = set()
    for layer in named_layers(model or {}, _numbering(source, hdf5)):
        if layer.shared:  # it is listed, and stored, where it comes first
            continue
        places = [f"{layer.place}/{cell.place}" for cell in cells_of(layer.entry)]
        known.update(places)
        cells = [weights[place] for place in places if place in weights]
        found.append(_configured(source, layer, cells, layer.place))
    rest = [cell for place, cell in weights.items() if place not in known]
    return found + [_assumed(source, name_in(hdf5, place), ways) for place, ways in grouped(rest)]


def legacy_layers(source: Source, hdf5: Hdf5, group: str, model: Entry | None) -> list[FoundLayer]:
    """Return the LSTMs of a file with groups called by the names of layers; with or without a configuration."""
    names = dict.fromkeys(listed(hdf5, group, "layer_names"))
    weights = {name: list(cells_by_name(hdf5, group, name)) for name in names}
    if model is None:
        return [
            _assumed(source, *layer) for layer in grouped(cell for cells in weights.values() for cell in cells)
        ]
    layers: dict[str, list[Recurrent]] = {}
    for layer in named_layers(model, _numbering(source, hdf5)):
        layers.setdefault(layer.top, []).append(layer)
    return [
        found
        for top, some in layers.items()
        for found in _in_order(source, some, weights.get(top, []), f"{group}/{top}")
    ]


def _numbering(source: Source, hdf5: Hdf5) -> Numbering:
    """Return how the version that wrote the file named its groups.

    A layer that is in the model twice is stored once; Keras 3 counts it twice, Keras 2 once. In 2.13 a layer with
    weights took two numbers, because it was listed twice.
    """
    old = _OLD_GROUP in hdf5
    names = sorted(hdf5.datasets) if old else []

    def used(entry: Entry, place: str) -> int:
        if not old:
            return 0 if is_shared(entry) and source.version.startswith("2.") else 1
        after = bisect_left(names, f"{place}/")
        filled = after < len(names) and names[after].startswith(f"{place}/")
        return 2 if filled or is_shared(entry) else 1

    return Numbering(_OLD_GROUP if old else "layers", used)


def _in_order(source: Source, layers: list[Recurrent], weights: list[Weights], where: str) -> list[FoundLayer]:
    """Give the weights of a model's layer to those in it, in Keras's own order: the ones that train come first."""
    needed = [len(cells_of(layer.entry)) for layer in layers]
    given = iter(weights if sum(needed) == len(weights) else [])
    parts: dict[int, list[Weights]] = {}
    for place in sorted(range(len(layers)), key=lambda place: not layers[place].trainable):
        parts[place] = list(islice(given, needed[place]))
    return [_configured(source, layer, parts[place], where) for place, layer in enumerate(layers)]


def _assumed(source: Source, name: str, ways: list[list[Weights]]) -> FoundLayer:
    """Return the layer that weights without a configuration are, if its options are Keras's defaults."""
    layers = [_default_layer(source, cells) for cells in ways]
    entry = layers[0]
    if len(layers) == 2:
        backward = {**layers[1], "config": {**layers[1]["config"], "go_backwards": True}}
        entry = {"class_name": "Bidirectional", "config": {"layer": entry, "backward_layer": backward}}
    layer = Recurrent(name, name, name, trainable=True, shared=False, entry=entry)
    found = _configured(source, layer, [cell for cells in ways for cell in cells], name)
    return replace(found, notes=(_ASSUMED,))


def _default_layer(source: Source, weights: list[Weights]) -> Entry:
    configs = [
        {"units": source.file.tensors[cell.recurrent].shape[0], "use_bias": cell.bias is not None}
        for cell in weights
    ]
    if len(configs) == 1:
        return {"class_name": "LSTM", "config": configs[0]}
    cells = [{"class_name": "LSTMCell", "config": config} for config in configs]
    return {"class_name": "RNN", "config": {"cell": {"class_name": "StackedRNNCells", "config": {"cells": cells}}}}


def _configured(source: Source, layer: Recurrent, weights: list[Weights], where: str) -> FoundLayer:
    """Return a layer of the configuration, with its weights."""
    cells = cells_of(layer.entry)
    tensors = [source.file.tensors[name] for cell in weights for name in cell.names]
    options: dict[str, Any] = {"kind": "LSTM"}
    problem = None
    try:
        options = layer_options(layer.entry, source.version)
        if len(weights) != len(cells):
            raise UnsupportedError(f"its weights are not where Keras puts them, at {where!r}")
        options["input_size"] = _input_size(source.file, list(zip(cells, weights, strict=True)), options)
    except UnsupportedError as error:
        problem = str(error)
    return FoundLayer(
        name=layer.name,
        options=options,
        read=partial(_read, source.file, layer.name, cells, weights),
        dtype=", ".join(sorted({info.dtype for info in tensors})),
        num_parameters=sum(info.size for info in tensors),
        problem=problem,
        notes=layer_notes(layer.entry),
    )


def _input_size(file: ModelFile, cells: list[tuple[Cell, Weights]], options: Mapping[str, Any]) -> int:
    """Return how wide a layer's input is; raise where its weights are others than its options ask for."""
    inputs: set[int] = set()
    for cell, weights in cells:
        (rows, _), (units, _) = (file.tensors[name].shape for name in weights[1:3])
        if units != cell.config["units"]:
            raise UnsupportedError(f"units={cell.config['units']}, and {weights.recurrent!r} has {units}")
        if (weights.bias is not None) != options["bias"]:
            raise UnsupportedError(
                f"use_bias={options['bias']}, and {weights.place!r} has {len(weights.names)} weights"
            )
        if cell.suffix.startswith("_l0"):
            inputs.add(rows)
    read_as = {file.tensors[name].dtype for _, weights in cells for name in weights.names}
    dtypes = {WIDENED.get(dtype, dtype) for dtype in read_as}
    if len(inputs) != 1 or len(dtypes) != 1:
        raise UnsupportedError(
            f"its weights do not fit each other: inputs {sorted(inputs)}, {', '.join(sorted(dtypes))}"
        )
    return inputs.pop()


def _read(file: ModelFile, name: str, cells: list[Cell], weights: list[Weights]) -> dict[str, Array]:
    """Read the parameters; not by ``from_layout``, which takes only what the backend computes with."""
    if len(cells) != len(weights):
        raise FileFormatError(f"{file.path}: {name!r}: its weights are not where Keras puts them")
    parameters: dict[str, Array] = {}
    for cell, one in zip(cells, weights, strict=True):
        named = zip(("kernel", "recurrent_kernel", "bias"), one.names, strict=False)  # there may be no bias
        arrays = {key: file.read(place) for key, place in named}
        parameters |= convert(LAYER_LAYOUTS["keras"], arrays, torch_layout(cell.suffix))
    return parameters
