"""The LSTMs in a model's configuration: what they are called, and what they are made of.

A configuration is the JSON that Keras makes of a model: a layer is an object with ``class_name`` and ``config``,
and models and wrappers hold other layers in theirs. It is text here and stays text: nothing in it is ever made.
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
    """There are more models in models, layers or cells, or longer names, than any model has."""


class CellConfig(NamedTuple):
    """One LSTM cell of a layer: one set of weights."""

    suffix: str  # that torch's names would end in
    place: str  # in the layer, as Keras 3 has it in a file
    config: ObjectConfig
    trains: tuple[bool, ...]  # its "trainable", after that of what it is in, inside of the layer


class LayerInModel(NamedTuple):
    """A layer, and where it is in its model."""

    name: str  # its own, after those of the models and wrappers around it, joined by "/"
    top: str  # the name of the outermost of these; its own where there is none
    place: str  # the group that Keras 3 puts its weights in
    trains: tuple[bool, ...]  # its "trainable", after those of the models and wrappers around it
    shared: bool  # whether it is in the model a second time
    entry: ObjectConfig


class GroupNumbering(NamedTuple):
    """How a file names the groups of a model's layers: by class, and by a number where there are several."""

    group: str  # which holds them
    used: Callable[[ObjectConfig, str], int]  # how many numbers a layer takes, by its entry and group


class _Position(NamedTuple):
    """What is known of a place on the way through a model."""

    seen: Iterator[int]  # counts layers, here and elsewhere
    name: str = ""
    top: str = ""
    place: str = ""
    trains: tuple[bool, ...] = ()
    shared: bool = False
    depth: int = 0

    def into(self, entry: ObjectConfig, place: str) -> "_Position":
        name = name_of(entry)
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
    """Yield the layers of a model, also those in models and wrappers inside of it.

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
    """Tell whether a layer has LSTM cells, of whichever layout."""
    return bool(cells_of(entry)) or is_fused(entry)


def is_fused(entry: ObjectConfig) -> bool:
    """Tell whether a layer is Keras 2's for GPUs, or two directions of it: its weights have another layout."""
    inner = directions_of(entry)[0] if entry.get("class_name") == "Bidirectional" else entry
    return inner.get("class_name") == "CuDNNLSTM"


def is_shared(entry: ObjectConfig) -> bool:
    """Tell whether a layer is in the model a second time: the first has no number."""
    return entry.get("shared_object_id") is not None


def cells_of(entry: ObjectConfig) -> list[CellConfig]:
    """Return the LSTM cells of a layer, in the order of its weights; none of other layers."""
    if entry.get("class_name") != "Bidirectional":
        return _cells(entry, "", "", ())
    forward, backward = directions_of(entry)
    first = _cells(forward, "", "forward_layer/", (_trains(forward),))
    return first + _cells(backward, "_reverse", "backward_layer/", (_trains(backward),))


def directions_of(entry: ObjectConfig) -> tuple[ObjectConfig, ObjectConfig]:
    """Return the two layers of a Bidirectional; the second is like the first where the user gave none."""
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
    """Tell whether a configuration says what a model is made of; that of a class of the user's own does not."""
    return "layers" in config_of(model) or isinstance(model.get("config"), list)


def layers_in(entry: ObjectConfig) -> list[ObjectConfig]:
    """Return the layers of a model; none of what is not one."""
    config = entry.get("config")
    if isinstance(config, list):  # a Sequential, before Keras 2.2.3
        return _entries(cast("Any", config))
    return _entries(config_of(entry).get("layers"))


def config_of(entry: ObjectConfig) -> ObjectConfig:
    """Return a layer's options."""
    return _entry(entry.get("config"))


def name_of(entry: ObjectConfig) -> str:
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
    """Return a class's name as Keras writes it in paths: TimeDistributed is time_distributed."""
    spaced = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()
