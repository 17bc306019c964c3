"""A Keras model's configuration: its layers by name, with the LSTM cells in them.

A configuration is the JSON that Keras makes of a model: a layer is an object with ``class_name`` and ``config``,
and models and wrappers have other layers in theirs. It is only read: no object in it is ever created.
"""

import re
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple, cast

__all__ = [
    "CellConfig",
    "GroupNumbering",
    "LayerInModel",
    "ObjectConfig",
    "TooLargeError",
    "cells_of",
    "class_of",
    "config_of",
    "directions_of",
    "is_fused",
    "is_recurrent",
    "is_shared",
    "lists_layers",
    "named_layers",
    "stacked",
]

ObjectConfig = dict[str, Any]
"""A layer in a configuration."""

_MAX_LAYERS = 10_000
_MAX_DEPTH = 32
_MAX_NAME = 1024


class TooLargeError(ValueError):
    """Models are nested deeper, or layers, cells or names are more or longer, than any real model has."""


class CellConfig(NamedTuple):
    """One LSTM cell of a layer: one set of weights."""

    suffix: str  # of its parameters under torch's names
    place: str  # its group in the layer, as Keras 3 names it
    config: ObjectConfig
    trains: tuple[bool, ...]  # "trainable" of what it is in inside the layer, then its own


class LayerInModel(NamedTuple):
    """A layer, and its position in the model."""

    name: str  # its own, after those of the models and wrappers around it, joined by "/"
    top: str  # the name of the outermost of these; its own where there is none
    place: str  # the group that Keras 3 puts its weights in
    trains: tuple[bool, ...]  # its "trainable", after those of the models and wrappers around it
    shared: bool  # whether this is a second use of the layer
    entry: ObjectConfig


class GroupNumbering(NamedTuple):
    """How a file names the groups of a model's layers: by class, with a number where there are several."""

    group: str  # which holds them
    used: Callable[[ObjectConfig, str], int]  # how many numbers a layer takes, by its entry and group


class _Position(NamedTuple):
    """A position on the walk through a model."""

    seen: Iterator[int]  # counts layers, here and elsewhere
    name: str = ""
    top: str = ""
    place: str = ""
    trains: tuple[bool, ...] = ()
    shared: bool = False
    depth: int = 0

    def into(self, entry: ObjectConfig, place: str) -> "_Position":
        name = object_name(entry)
        _check_count(next(self.seen))
        position = _Position(
            self.seen,
            f"{self.name}/{name}" if self.name else name,
            self.top or name,
            place,
            (*self.trains, _trains(entry)),
            self.shared or is_shared(entry),
            self.depth + 1,
        )
        if position.depth > _MAX_DEPTH or max(len(position.name), len(place)) > _MAX_NAME:
            raise TooLargeError(f"models nested more than {_MAX_DEPTH} deep, or names longer than {_MAX_NAME:,}")
        return position


def named_layers(model: ObjectConfig, numbering: GroupNumbering) -> Iterator[LayerInModel]:
    """Yield the layers of a model, with those of nested models and wrappers.

    Raises
    ------
    TooLargeError
    """
    return _layers(model, numbering, _Position(count()))


def _layers(model: ObjectConfig, numbering: GroupNumbering, position: _Position) -> Iterator[LayerInModel]:
    numbers: dict[str, int] = {}
    for entry in layers_in(model):
        kind = snake_case(class_of(entry))
        number = numbers.get(kind, 0)
        start = f"{position.place}/" if position.place else ""
        place = f"{start}{numbering.group}/{kind}{f'_{number}' if number else ''}"
        numbers[kind] = number + numbering.used(entry, place)
        yield from _visit(entry, numbering, position.into(entry, place))


def _visit(entry: ObjectConfig, numbering: GroupNumbering, position: _Position) -> Iterator[LayerInModel]:
    yield LayerInModel(position.name, position.top, position.place, position.trains, position.shared, entry)
    if is_recurrent(entry):
        return
    yield from _layers(entry, numbering, position)
    wrapped = _entry(config_of(entry).get("layer"))
    if wrapped:
        yield from _visit(wrapped, numbering, position.into(wrapped, f"{position.place}/layer"))


def _trains(entry: ObjectConfig) -> bool:
    return config_of(entry).get("trainable") is not False


def is_recurrent(entry: ObjectConfig) -> bool:
    """Tell whether a layer has LSTM cells, fused ones included."""
    return bool(cells_of(entry)) or is_fused(entry)


def is_fused(entry: ObjectConfig) -> bool:
    """Tell whether a layer is Keras 2's CuDNNLSTM, or a Bidirectional of it: its weights have another format."""
    inner = directions_of(entry)[0] if entry.get("class_name") == "Bidirectional" else entry
    return inner.get("class_name") == "CuDNNLSTM"


def is_shared(entry: ObjectConfig) -> bool:
    """Tell whether this is a second use of a layer: the first use has no number."""
    return entry.get("shared_object_id") is not None


def cells_of(entry: ObjectConfig) -> list[CellConfig]:
    """Return the LSTM cells of a layer, in the order of its weights; none of other layers."""
    if entry.get("class_name") != "Bidirectional":
        return _cells(entry, "", "", ())
    forward, backward = directions_of(entry)
    first = _cells(forward, "", "forward_layer/", (_trains(forward),))
    return first + _cells(backward, "_reverse", "backward_layer/", (_trains(backward),))


def directions_of(entry: ObjectConfig) -> tuple[ObjectConfig, ObjectConfig]:
    """Return the two layers of a Bidirectional; without a ``backward_layer`` the second is a copy of the first."""
    config = config_of(entry)
    forward = _entry(config.get("layer"))
    backward = _entry(config.get("backward_layer"))
    return forward, backward or {**forward, "config": {**config_of(forward), "go_backwards": True}}


def _cells(entry: ObjectConfig, direction: str, place: str, trains: tuple[bool, ...]) -> list[CellConfig]:
    config = config_of(entry)
    if entry.get("class_name") == "LSTM":
        return [CellConfig(f"_l0{direction}", f"{place}cell", config, trains)]
    if entry.get("class_name") != "RNN":
        return []
    cell = _entry(config.get("cell"))
    if cell.get("class_name") == "LSTMCell":
        return [CellConfig(f"_l0{direction}", f"{place}cell", config_of(cell), (*trains, _trains(cell)))]
    if cell.get("class_name") != "StackedRNNCells":
        return []
    _check_count(len(stacked(cell)))
    found: list[CellConfig] = []
    for layer, one in enumerate(stacked(cell)):
        if one.get("class_name") == "LSTMCell":
            inside = f"{place}cell/cells/lstm_cell{f'_{len(found)}' if found else ''}"
            flags = (*trains, _trains(cell), _trains(one))
            found.append(CellConfig(f"_l{layer}{direction}", inside, config_of(one), flags))
    return found


def _check_count(number: int) -> None:
    if number > _MAX_LAYERS:
        raise TooLargeError(f"its model has more than {_MAX_LAYERS:,} layers or cells")


def stacked(entry: ObjectConfig) -> list[ObjectConfig]:
    """Return the cells of a StackedRNNCells."""
    return _entries(config_of(entry).get("cells"))


def lists_layers(model: ObjectConfig) -> bool:
    """Tell whether a configuration lists the layers; that of a subclassed model does not."""
    return "layers" in config_of(model) or isinstance(model.get("config"), list)


def layers_in(entry: ObjectConfig) -> list[ObjectConfig]:
    """Return the layers of a model; an empty list for other objects."""
    config = entry.get("config")
    if isinstance(config, list):  # a Sequential, before Keras 2.2.3
        return _entries(cast("Any", config))
    return _entries(config_of(entry).get("layers"))


def config_of(entry: ObjectConfig) -> ObjectConfig:
    """Return a layer's options."""
    return _entry(entry.get("config"))


def object_name(entry: ObjectConfig) -> str:
    """Return a layer's name; that of its class if it has none."""
    name = config_of(entry).get("name", entry.get("name"))
    return name if isinstance(name, str) else class_of(entry)


def class_of(entry: ObjectConfig) -> str:
    """Return what a layer's class is called; "" if the entry does not say."""
    name = entry.get("class_name")
    return name[:_MAX_NAME] if isinstance(name, str) else ""


def _entries(value: Any) -> list[ObjectConfig]:
    if not isinstance(value, list):
        return []
    return [entry for entry in cast("list[Any]", value) if isinstance(entry, dict)]


def _entry(value: Any) -> ObjectConfig:
    return cast("ObjectConfig", value) if isinstance(value, dict) else {}


def snake_case(name: str) -> str:
    """Return a class's name as Keras writes it in paths: TimeDistributed becomes time_distributed."""
    spaced = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()
