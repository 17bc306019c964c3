"""Origin of an LSTM node's initial states and sequence lengths: inputs of the model, constants, or computed.

A layer takes them as arguments of each call. If they are inputs of the model, the layer is equivalent; if the
model holds or computes them, the layer alone computes something else, and ``load`` warns of it.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

from nplstm.io.onnx.constant_folding import AbstractValue, Dependence, Evaluator
from nplstm.io.onnx.operators import OPERATORS
from nplstm.io.onnx.proto_fields import is_standard
from nplstm.io.onnx.scopes import GraphInput, NodeOutput, ScopedName

__all__ = ["InitialState", "Origin", "first_name", "initial_state"]

_COPYING = {"Cast", "Expand", "Tile", *(name for name, each in OPERATORS.items() if each.moves)}
"""Operators whose results have the numbers of their first inputs, perhaps cast or repeated."""


class Origin(Enum):
    """Where the numbers of a value come from."""

    ZERO = "zero"  # or the input is left out, which is the same
    FIXED = "fixed in the file"
    INPUT = "an input of the model"
    COMPUTED = "computed in the model"


class InitialState(NamedTuple):
    """The origin of an initial state."""

    origin: Origin = Origin.ZERO
    computed: frozenset[ScopedName] = frozenset()
    """The values it is made of, if it is computed."""


def first_name(scoped_name: ScopedName) -> ScopedName:
    """Return the first name of a value, before any Identity; it has been evaluated, so there is no cycle."""
    while scoped_name.name:
        definition = scoped_name.scope.find(scoped_name.name)
        if isinstance(definition, ScopedName):
            scoped_name = definition
        elif (
            isinstance(definition, NodeOutput)
            and definition.node.op_type == "Identity"
            and is_standard(definition.node)
        ):
            scoped_name = ScopedName(definition.scope, definition.node.input[0])
        else:
            return ScopedName(scoped_name.scope.holder(scoped_name.name), scoped_name.name)
    return scoped_name


def initial_state(scoped_name: ScopedName | None, evaluator: Evaluator, reader: Evaluator) -> InitialState:
    """Return the origin of an initial state; ``reader`` reads what ``evaluator`` has only an outline of."""
    if scoped_name is None:
        return InitialState()
    whole = _of_numbers(evaluator.value(scoped_name), scoped_name, reader)
    if whole is not None:
        return InitialState(whole)
    leaves = frozenset(_leaves(scoped_name))
    origins = {_of_leaf(leaf, evaluator, reader) for leaf in leaves}
    if origins == {Origin.INPUT}:
        return InitialState(Origin.INPUT)
    if origins <= {Origin.ZERO, Origin.FIXED}:
        return InitialState(Origin.FIXED if Origin.FIXED in origins else Origin.ZERO)
    return InitialState(Origin.COMPUTED, leaves)


def _of_numbers(value: AbstractValue, scoped_name: ScopedName, reader: Evaluator) -> Origin | None:
    """Return the origin of a value whose numbers are known; None if they are not."""
    if value.outlined and value.depends is not Dependence.DATA:
        value = reader.value(scoped_name)
    numbers = reader.look(value, "an initial state")
    if numbers is None:
        return None
    return Origin.FIXED if numbers.any() else Origin.ZERO


def _of_leaf(leaf: ScopedName, evaluator: Evaluator, reader: Evaluator) -> Origin:
    definition = leaf.scope.find(leaf.name)
    if isinstance(definition, GraphInput):
        return Origin.INPUT if definition.of_model else Origin.COMPUTED
    if isinstance(definition, NodeOutput) and definition.node.op_type == "ConstantOfShape":  # whatever the shape
        value: Any = definition.scope.attributes_of(definition.node).get("value")
        return Origin.FIXED if value is not None and reader.attribute("value", value).any() else Origin.ZERO
    return _of_numbers(evaluator.value(leaf), leaf, reader) or Origin.COMPUTED


def _leaves(scoped_name: ScopedName) -> Iterator[ScopedName]:
    """Yield the values whose numbers a value is made of, through operators that only copy."""
    waiting, seen = [scoped_name], set[ScopedName]()
    while waiting:
        top = waiting.pop()
        if top in seen or not top.name:
            continue
        seen.add(top)
        definition = top.scope.find(top.name)
        if isinstance(definition, ScopedName):
            waiting.append(definition)
        elif (
            isinstance(definition, NodeOutput)
            and definition.node.op_type in _COPYING
            and is_standard(definition.node)
        ):
            names = definition.node.input[: OPERATORS[definition.node.op_type].numbers]
            waiting += [ScopedName(definition.scope, name) for name in names]
        else:
            yield ScopedName(top.scope.holder(top.name), top.name)
