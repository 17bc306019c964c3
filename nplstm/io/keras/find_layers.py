"""LSTM layers of a Keras file: the model's configuration matched with the datasets of the weights."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.keras.hdf5 import Hdf5
from nplstm.io.keras.layer_options import UnsupportedOptionError, layer_cautions, layer_notes, layer_options
from nplstm.io.keras.model_config import (
    CellConfig,
    GroupNumbering,
    LayerInModel,
    ObjectConfig,
    cells_of,
    class_of,
    is_recurrent,
    is_shared,
    lists_layers,
    named_layers,
)
from nplstm.io.keras.weight_datasets import (
    CellDatasets,
    LayerGroup,
    cells_by_name,
    cells_by_number,
    group_cells,
    in_number_order,
    layer_name,
    read_name_list,
)
from nplstm.io.model_file import WIDENED, FoundLayer, ModelFile
from nplstm.io.weight_formats.single_layer import LAYER_FORMATS, convert, torch_format

__all__ = ["WeightSource", "layers_in_class_groups", "layers_in_named_groups"]

_ASSUMED = "its configuration is not in the file: that its options are Keras's defaults is assumed"
_UNORDERED = (
    "its cells are not in the order of their numbers, and without its configuration their order is not known"
)
_OLD_GROUP = "_layer_checkpoint_dependencies"


class WeightSource(NamedTuple):
    """The file that a layer is read from."""

    file: ModelFile
    version: str  # of the Keras that wrote the file


class FoundWeights(NamedTuple):
    """A layer with its weights."""

    layer: LayerInModel
    weights: list[CellDatasets]  # in the order of its cells; none where the cells and weights are not as many
    problem: str | None  # why these cannot be its weights


def layers_in_class_groups(source: WeightSource, hdf5: Hdf5, model: ObjectConfig | None) -> list[FoundLayer]:
    """Return the LSTMs of a file whose groups are named after classes; the configuration may be missing."""
    weights = {cell.place: cell for cell in cells_by_number(hdf5)}
    found: list[FoundLayer] = []
    known: set[str] = set()
    classes: dict[str, str] = {}
    for layer in named_layers(model or {}, _numbering(source, hdf5)):
        classes[layer.place] = class_of(layer.entry)
        # a shared layer is listed, and stored, at its first use
        if layer.shared or not is_recurrent(layer.entry):
            continue
        places = [f"{layer.place}/{cell.place}" for cell in cells_of(layer.entry)]
        known.update(places)
        cells = [weights[place] for place in places if place in weights]
        found.append(_configured(source, FoundWeights(layer, cells, None), layer.place))
    rest = group_cells(cell for place, cell in weights.items() if place not in known)
    if model is None or not lists_layers(model):
        return found + [_assumed(source, layer_name(hdf5, place), directions) for place, directions in rest]
    return found + [_unknown(source, layer_name(hdf5, other.place), other, classes) for other in rest]


def layers_in_named_groups(
    source: WeightSource, hdf5: Hdf5, group: str, model: ObjectConfig | None
) -> list[FoundLayer]:
    """Return the LSTMs of a file whose groups are named after layers; the configuration may be missing."""
    names = dict.fromkeys(read_name_list(hdf5, group, "layer_names"))
    weights = {name: list(cells_by_name(hdf5, group, name)) for name in names}
    if model is None:
        return [
            _assumed(source, *layer) for layer in group_cells(cell for cells in weights.values() for cell in cells)
        ]
    layers: dict[str, list[LayerInModel]] = {}
    classes: dict[str, str] = {}
    for layer in named_layers(model, _numbering(source, hdf5)):
        classes.setdefault(layer.top, class_of(layer.entry))
        if is_recurrent(layer.entry):
            layers.setdefault(layer.top, []).append(layer)
    known = [
        _configured(source, share, f"{group}/{top}")
        for top, some in layers.items()
        for share in _assign_weights(some, weights.get(top, []), source.version)
    ]
    rest = group_cells(cell for name, cells in weights.items() if name not in layers for cell in cells)
    return known + [_unknown(source, other.place, other, classes) for other in rest]


def _numbering(source: WeightSource, hdf5: Hdf5) -> GroupNumbering:
    """Return how the version that wrote the file named its groups.

    A layer that is in the model twice is stored once; Keras 3 counts it twice, Keras 2 once. In 2.13 a layer with
    weights took two numbers, because it was listed twice.
    """
    old = _OLD_GROUP in hdf5
    names = sorted(hdf5.datasets) if old else []

    def used(entry: ObjectConfig, place: str) -> int:
        if not old:
            return 0 if is_shared(entry) and source.version.startswith("2.") else 1
        after = bisect_left(names, f"{place}/")
        filled = after < len(names) and names[after].startswith(f"{place}/")
        return 2 if filled or is_shared(entry) else 1

    return GroupNumbering(_OLD_GROUP if old else "layers", used)


def _assumed(source: WeightSource, name: str, directions: list[list[CellDatasets]]) -> FoundLayer:
    """Return a layer for weights without a configuration, with Keras's default options."""
    layers = [_default_layer(source, cells) for cells in directions]
    entry = layers[0]
    if len(layers) == 2:
        backward = {**layers[1], "config": {**layers[1]["config"], "go_backwards": True}}
        entry = {"class_name": "Bidirectional", "config": {"layer": entry, "backward_layer": backward}}
    layer = LayerInModel(name, name, name, trains=(), shared=False, entry=entry)
    problem = None if all(in_number_order(cells) for cells in directions) else _UNORDERED
    every = [cell for cells in directions for cell in cells]
    found = _configured(source, FoundWeights(layer, every, problem), name)
    return replace(found, notes=(), cautions=(_ASSUMED,))


def _unknown(source: WeightSource, name: str, group: LayerGroup, classes: Mapping[str, str]) -> FoundLayer:
    """Return a layer with a problem, for weights that belong to no LSTM of the configuration."""
    parts = group.place.split("/")
    around = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
    kind = next((classes[place] for place in around if place in classes), None)
    problem = (
        f"its weights, at {group.place!r}, are those of no LSTM in the configuration"
        f"{f'; the class there, {kind!r}, is not known' if kind is not None else ''}"
    )
    found = _assumed(source, name, group.directions)
    return replace(found, options={"kind": "LSTM"}, problem=problem, cautions=())


def _default_layer(source: WeightSource, weights: list[CellDatasets]) -> ObjectConfig:
    configs = [
        {"units": source.file.tensors[cell.recurrent].shape[0], "use_bias": cell.bias is not None}
        for cell in weights
    ]
    if len(configs) == 1:
        return {"class_name": "LSTM", "config": configs[0]}
    cells = [{"class_name": "LSTMCell", "config": config} for config in configs]
    return {"class_name": "RNN", "config": {"cell": {"class_name": "StackedRNNCells", "config": {"cells": cells}}}}


def _configured(source: WeightSource, share: FoundWeights, where: str) -> FoundLayer:
    """Return a layer of the configuration, with its weights."""
    layer, weights, problem = share
    cells = cells_of(layer.entry)
    tensors = [source.file.tensors[name] for cell in weights for name in cell.names]
    options: dict[str, Any] = {"kind": "LSTM"}
    try:
        options = layer_options(layer.entry, source.version)
        if len(weights) != len(cells):
            raise UnsupportedOptionError(f"its weights are not where Keras puts them, at {where!r}")
        if problem is not None:
            raise UnsupportedOptionError(problem)
        options["input_size"] = _input_size(source.file, list(zip(cells, weights, strict=True)), options)
    except UnsupportedOptionError as error:
        problem = str(error)
    return FoundLayer(
        name=layer.name,
        options=options,
        read=partial(_read, source.file, layer.name, cells, weights),
        dtype=", ".join(sorted({info.dtype for info in tensors})),
        num_parameters=sum(info.size for info in tensors),
        problem=problem,
        notes=layer_notes(layer.entry),
        cautions=layer_cautions(layer.entry),
    )


def _input_size(file: ModelFile, cells: list[tuple[CellConfig, CellDatasets]], options: Mapping[str, Any]) -> int:
    """Return a layer's input size; raise where its weights do not fit its options."""
    inputs: set[int] = set()
    for cell, weights in cells:
        (rows, _), (units, _) = (file.tensors[name].shape for name in weights[1:3])
        if units != cell.config["units"]:
            raise UnsupportedOptionError(f"units={cell.config['units']}, and {weights.recurrent!r} has {units}")
        if (weights.bias is not None) != options["bias"]:
            raise UnsupportedOptionError(
                f"use_bias={options['bias']}, and {weights.place!r} has {len(weights.names)} weights"
            )
        if cell.suffix.startswith("_l0"):
            inputs.add(rows)
    read_as = {file.tensors[name].dtype for _, weights in cells for name in weights.names}
    dtypes = {WIDENED.get(dtype, dtype) for dtype in read_as}
    if len(inputs) != 1 or len(dtypes) != 1:
        raise UnsupportedOptionError(
            f"its weights do not fit each other: inputs {sorted(inputs)}, {', '.join(sorted(dtypes))}"
        )
    return inputs.pop()


def _read(file: ModelFile, name: str, cells: list[CellConfig], weights: list[CellDatasets]) -> dict[str, Array]:
    """Read the parameters; not by ``from_weight_format``, which takes only types that a backend computes with."""
    if len(cells) != len(weights):
        raise FileFormatError(f"{file.path}: {name!r}: its weights are not where Keras puts them")
    parameters: dict[str, Array] = {}
    for cell, one in zip(cells, weights, strict=True):
        named = zip(("kernel", "recurrent_kernel", "bias"), one.names, strict=False)  # there may be no bias
        arrays = {key: file.read(place) for key, place in named}
        parameters |= convert(LAYER_FORMATS["keras"], arrays, torch_format(cell.suffix))
    return parameters


def _assign_weights(
    layers: list[LayerInModel], weights: list[CellDatasets], version: str
) -> Iterator[FoundWeights]:
    """Yield the weights of each LSTM layer in a top-level layer of a ``.h5`` file, which lists them in one row.

    Keras lists the weights that train first, then the frozen ones. The configuration says which those are, except
    for what Keras 2 leaves out; where the weights' names contradict the order found, it is a problem.
    """
    cells = [(layer, cell) for layer in layers for cell in cells_of(layer.entry)]
    order = sorted(range(len(cells)), key=lambda place: not _trains(*cells[place], version))
    by_cell = dict(zip(order, weights, strict=True)) if len(weights) == len(cells) else {}
    names = {_name(layer) for layer in layers}
    in_order = (by_cell[place] for place in range(len(by_cell)))
    for layer in layers:
        found = list(islice(in_order, len(cells_of(layer.entry))))
        # Keras 2 does not write down that one direction is frozen; Bidirectional names both
        found.sort(key=lambda one: one.backward)
        yield FoundWeights(layer, found, _misnamed(layer, found, names))


def _trains(layer: LayerInModel, cell: CellConfig, version: str) -> bool:
    """Tell whether weights are listed with those that train.

    In Keras 3 that is up to the outermost layer and to what has the weights; before, to all between as well.
    """
    flags = layer.trains + cell.trains
    return flags[0] and flags[-1] if version.startswith("3.") else all(flags)


def _misnamed(layer: LayerInModel, weights: list[CellDatasets], layers: set[str]) -> str | None:
    """Return why these cannot be a layer's weights: their names are those of another layer or cell."""
    cells = [cell.config.get("name") for cell in cells_of(layer.entry)]
    known = {name for name in cells if isinstance(name, str)}
    for one, cell in zip(weights, cells, strict=False):
        parts = set(one.place.split("/"))
        if _is_others(parts, _name(layer), layers) or (isinstance(cell, str) and _is_others(parts, cell, known)):
            return f"the order of its weights is not clear: {one.kernel!r} has the name of another layer or cell"
    return None


def _is_others(parts: set[str], name: str, names: Iterable[str]) -> bool:
    return name not in parts and not parts.isdisjoint(names)


def _name(layer: LayerInModel) -> str:
    """Return a layer's own name, without those of the models around it."""
    return layer.name.rpartition("/")[2]
