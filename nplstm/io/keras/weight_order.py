"""Which weights are which cell's, in a ``.h5``: it lists those of all cells of a model's layer in one row.

Keras lists the weights that train first, and then the frozen ones. Its configuration says which those are, but for
what Keras 2 leaves out; names, which stand beside the weights, say where an order so found cannot be the true one.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from nplstm.io.keras.model_config import CellConfig, LayerInModel, cells_of
from nplstm.io.keras.weight_datasets import CellDatasets

__all__ = ["LayerWeights", "assign_weights"]


class LayerWeights(NamedTuple):
    """What one layer gets."""

    layer: LayerInModel
    weights: list[CellDatasets]  # in the order of its cells; none where the cells and weights are not as many
    problem: str | None  # why these cannot be its weights


def assign_weights(
    layers: list[LayerInModel], weights: list[CellDatasets], version: str
) -> Iterator[LayerWeights]:
    """Yield what each of the layers in a model's layer gets of its weights.

    Parameters
    ----------
    layers : list of LayerInModel
        Those with LSTM cells.
    weights : list of CellDatasets
        As they are listed.
    version : str
        Of the Keras that wrote the file.
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
        yield LayerWeights(layer, found, _misnamed(layer, found, names))


def _trains(layer: LayerInModel, cell: CellConfig, version: str) -> bool:
    """Tell whether weights are listed with those that train.

    In Keras 3 that is up to the outermost layer and to what has the weights; before, to all between as well.
    """
    flags = layer.trains + cell.trains
    return flags[0] and flags[-1] if version.startswith("3.") else all(flags)


def _misnamed(layer: LayerInModel, weights: list[CellDatasets], layers: set[str]) -> str | None:
    """Return why these cannot be a layer's weights: they are called like another layer's, or another cell's."""
    cells = [cell.config.get("name") for cell in cells_of(layer.entry)]
    known = {name for name in cells if isinstance(name, str)}
    for one, cell in zip(weights, cells, strict=False):
        parts = set(one.place.split("/"))
        if _is_others(parts, _name(layer), layers) or (isinstance(cell, str) and _is_others(parts, cell, known)):
            return f"which weights are whose is not clear: {one.kernel!r} is in the place of another's"
    return None


def _is_others(parts: set[str], found: str, names: Iterable[str]) -> bool:
    return found not in parts and not parts.isdisjoint(names)


def _name(layer: LayerInModel) -> str:
    """Return a layer's name without those of what it is in."""
    return layer.name.rpartition("/")[2]
