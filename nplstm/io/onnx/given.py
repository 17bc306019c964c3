"""What an LSTM node is given beside its input and weights: initial states, and the sequences' lengths.

A layer is given them at each call. Where they are inputs of the model too, nothing is lost; where the model holds
or computes them, the layer alone computes something else, and its user has to know.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

from nplstm.io.onnx.evaluation import Depends, Evaluator, Value
from nplstm.io.onnx.operators import OPERATORS
from nplstm.io.onnx.scopes import DeclaredInput, Place, Produced, is_standard

__all__ = ["Origin", "State", "made_at", "origin_of", "state_of"]

_KEEPING = {"Cast", "CastLike", "Expand", "Tile", *(name for name, each in OPERATORS.items() if each.moves)}
"""The operators whose results have the numbers of their first inputs, whatever their type and however often."""


class Origin(Enum):
    """Where the numbers of a value are from."""

    ZERO = "zero"  # or there is none: it is the same
    FIXED = "fixed in the file"
    GIVEN = "given"
    COMPUTED = "computed in the model"


class State(NamedTuple):
    """An initial state."""

    origin: Origin = Origin.ZERO
    computed: frozenset[Place] = frozenset()
    """Where it is computed, if it is."""


def made_at(place: Place) -> Place:
    """Return where a value has its first name; of one that was evaluated, and is in no circle therefore."""
    while place.name:
        source = place.scope.find(place.name)
        if isinstance(source, Place):
            place = source
        elif isinstance(source, Produced) and source.node.op_type == "Identity" and is_standard(source.node):
            place = Place(source.scope, source.node.input[0])
        else:
            return Place(place.scope.holder(place.name), place.name)
    return place


def origin_of(place: Place, evaluator: Evaluator, reader: Evaluator) -> Origin:
    """Tell where a value is from; ``reader`` reads what ``evaluator`` has an outline of."""
    return state_of(place, evaluator, reader).origin


def state_of(place: Place | None, evaluator: Evaluator, reader: Evaluator) -> State:
    """Tell where an initial state is from."""
    if place is None:
        return State()
    whole = _of_numbers(evaluator.value(place), place, reader)
    if whole is not None:
        return State(whole)
    leaves = frozenset(_leaves(place))
    origins = {_of_leaf(leaf, evaluator, reader) for leaf in leaves}
    if origins == {Origin.GIVEN}:
        return State(Origin.GIVEN)
    if origins <= {Origin.ZERO, Origin.FIXED}:
        return State(Origin.FIXED if Origin.FIXED in origins else Origin.ZERO)
    return State(Origin.COMPUTED, leaves)


def _of_numbers(value: Value, place: Place, reader: Evaluator) -> Origin | None:
    """Tell where a value is from whose numbers are known; None if they are not."""
    if value.outlined and value.depends is not Depends.DATA:
        value = reader.value(place)
    numbers = reader.look(value, "an initial state")
    if numbers is None:
        return None
    return Origin.FIXED if numbers.any() else Origin.ZERO


def _of_leaf(leaf: Place, evaluator: Evaluator, reader: Evaluator) -> Origin:
    source = leaf.scope.find(leaf.name)
    if isinstance(source, DeclaredInput):
        return Origin.GIVEN if source.of_model else Origin.COMPUTED
    if isinstance(source, Produced) and source.node.op_type == "ConstantOfShape":  # of whatever shape
        value: Any = source.scope.attributes_of(source.node).get("value")
        return Origin.FIXED if value is not None and reader.attribute("value", value).any() else Origin.ZERO
    return _of_numbers(evaluator.value(leaf), leaf, reader) or Origin.COMPUTED


def _leaves(place: Place) -> Iterator[Place]:
    """Yield where the numbers come from that a value is put together of."""
    waiting, seen = [place], set[Place]()
    while waiting:
        top = waiting.pop()
        if top in seen or not top.name:
            continue
        seen.add(top)
        source = top.scope.find(top.name)
        if isinstance(source, Place):
            waiting.append(source)
        elif isinstance(source, Produced) and source.node.op_type in _KEEPING and is_standard(source.node):
            names = source.node.input[: OPERATORS[source.node.op_type].numbers]
            waiting += [Place(source.scope, name) for name in names]
        else:
            yield Place(top.scope.holder(top.name), top.name)
