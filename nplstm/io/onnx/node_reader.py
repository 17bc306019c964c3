"""Reader of one LSTM node: its attributes, weights, initial states and lengths as those of a layer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

import numpy as np

from nplstm._shapes import check_shape, check_size
from nplstm._typing import Array
from nplstm.core.cell_spec import CellSpec
from nplstm.errors import FileFormatError, NplstmError
from nplstm.io.model_file import Budget, FoundLayer, printable
from nplstm.io.onnx.constant_folding import AbstractValue, Dependence, Evaluator, Evaluators
from nplstm.io.onnx.initial_states import InitialState, Origin, first_name, initial_state
from nplstm.io.onnx.lstm_attributes import (
    WEIGHT_AXES,
    NodeAttributes,
    axis_sizes,
    read_attributes,
    without_forget_gate,
)
from nplstm.io.onnx.proto_fields import attribute_value
from nplstm.io.onnx.scopes import Scope, ScopedName
from nplstm.io.weight_formats.single_layer import LAYER_FORMATS, convert, torch_format

__all__ = ["LSTMNode", "NodeSources", "joined_layer"]

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_DTYPES = {"float16", "bfloat16", "float32", "float64"}


class NodeSources(NamedTuple):
    """What an ``LSTMNode`` is inspected and read with."""

    outlines: Evaluators  # which leave large tensors unread
    reader: Evaluator  # for initial states, which are read at once
    reading: Callable[[], AbstractContextManager[Evaluators]]  # for the weights
    budget: Budget


class _UnfitError(Exception):
    """Why a node cannot be a layer."""


class LSTMNode:
    """A node of the operator LSTM, inspected without reading its weights.

    Parameters
    ----------
    name : str
    scope : Scope
    node : NodeProto
    sources : NodeSources

    Attributes
    ----------
    options : dict
        Of the layer; incomplete if there is a problem.
    problem : str or None
    cautions : list of str
        About states and lengths that the model holds or computes.
    inputs : dict of str to ScopedName
        Those that are not left out, by ONNX's names.
    lengths : ScopedName or None
        The first name of the sequences' lengths, the same for all nodes with the same lengths.
    states : list of InitialState
        Those of h and c.
    """

    def __init__(self, name: str, scope: Scope, node: Any, sources: NodeSources) -> None:
        self.name, self.node, self.scope = name, node, scope
        self.sources = sources
        self.inputs = {key: ScopedName(scope, name) for key, name in zip(INPUTS, node.input, strict=False) if name}
        self.options: dict[str, Any] = {"kind": "LSTM"}
        self.cautions: list[str] = []
        self.lengths: ScopedName | None = None
        self.states: list[InitialState] = []
        self.problem: str | None = None
        self.dtype = ""
        self.num_parameters = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.attributes: NodeAttributes | None = None
        try:
            self._inspect()
        except FileFormatError:
            raise
        except (_UnfitError, NplstmError) as error:
            self.problem = printable(f"{error}"[:300])

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffix of the parameters' names in each direction, after the layer's number."""
        return ("", "_reverse")[: len(self.reverse)]

    @property
    def reverse(self) -> tuple[bool, ...]:
        """Whether each direction runs from the end."""
        return (False,) if self.attributes is None else self.attributes.reverse

    def found(self) -> FoundLayer:
        """Return the node as a layer of its own."""
        return FoundLayer(
            name=self.name,
            options=self.options,
            read=lambda: read_nodes([(self, [f"_l0{end}" for end in self.suffixes])]),
            dtype=self.dtype,
            num_parameters=self.num_parameters,
            problem=self.problem,
            cautions=tuple(self.cautions),
        )

    # Inspection

    def _inspect(self) -> None:
        if self.node.op_type != "LSTM":
            raise _UnfitError(f"it is a {self.node.op_type} of onnxruntime's, whose weights are not read")
        found = {name: attribute_value(a) for name, a in self.scope.attributes_of(self.node).items()}
        hidden_size = found.pop("hidden_size", None)
        found.pop("output_sequence", None)  # before version 7: whether there is an output Y
        self.attributes = attributes = _attributes(found, peephole="P" in self.inputs)
        values = {name: self._weight(name) for name in WEIGHT_AXES if name in ("W", "R") or name in self.inputs}
        self.dtype = ", ".join(sorted({value.dtype for value in values.values()}))
        shapes = {name: cast("Array", value.array).shape for name, value in values.items()}
        if "X" not in self.inputs:
            raise _UnfitError("it has no input X")
        self._shapes = shapes
        I, H = _sizes(shapes, len(self.reverse))
        if hidden_size is not None and check_size("hidden_size", hidden_size) != H:
            raise _UnfitError(f"its hidden_size is {hidden_size}, and its R has H={H}")
        spec = attributes.specs[0]
        self.options |= {"input_size": I, "hidden_size": H, "bias": "B" in values} | self._structure(attributes)
        K = spec.gates * H
        each = K * (I + H) + 2 * K * ("B" in values) + spec.peepholes * H
        self.num_parameters = each * len(self.reverse)
        if attributes.specs[-1] != spec:
            raise _UnfitError("its two directions have different activations")
        if self.dtype not in _DTYPES:
            raise _UnfitError(f"its weights are of {self.dtype}, and a layer's are of one type of floats")
        if "sequence_lens" in self.inputs:
            self._look_at_lengths(self.inputs["sequence_lens"], int(attributes.batch_first))
        for name in ("initial_h", "initial_c"):
            self._look_at_state(name)

    def _structure(self, attributes: NodeAttributes) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        usual = CellSpec().to_dict()
        cell = {name: value for name, value in attributes.specs[0].to_dict().items() if value != usual[name]}
        options = {"bidirectional": len(attributes.reverse) == 2, "reverse": attributes.reverse == (True,)}
        options |= {"batch_first": attributes.batch_first, "cell": cell}
        return {name: value for name, value in options.items() if value}

    def _weight(self, name: str) -> AbstractValue:
        """Return the outline of a weight, after checking that open sizes do not change its shape."""
        if name not in self.inputs:
            raise _UnfitError(f"it has no input {name}")
        one, other = (evaluator.value(self.inputs[name]) for evaluator in self.sources.outlines)
        if one.depends is Dependence.DATA:
            raise _UnfitError(f"its {name} {one.reason}")
        if one.array is None:
            raise _UnfitError(f"it has no input {name}")
        if other.array is None or one.array.shape != other.array.shape:
            raise _UnfitError(f"its {name} depends on the sizes of the model's inputs")
        return one

    def _look_at_lengths(self, scoped_name: ScopedName, axis: int) -> None:
        """Add a caution for lengths that are not an input of the model, unless they are always all steps of X."""
        one, other = self.sources.outlines
        origin = initial_state(scoped_name, one, self.sources.reader).origin
        self.lengths = first_name(scoped_name)
        if origin is not Origin.INPUT and not (
            self._all_steps(scoped_name, axis, one) and self._all_steps(scoped_name, axis, other)
        ):
            how = Origin.COMPUTED if origin is Origin.COMPUTED else Origin.FIXED
            self.cautions.append(f"its sequence_lens are {how.value}: give the layer lengths=")

    def _all_steps(self, scoped_name: ScopedName, axis: int, evaluator: Evaluator) -> bool:
        """Tell whether all lengths are the number of steps of X."""
        value, x = evaluator.value(scoped_name), evaluator.value(self.inputs["X"])
        lengths = evaluator.look(value, "sequence_lens")
        known = lengths is not None and not value.outlined and x.array is not None and x.array.ndim == 3
        return known and bool((lengths == cast("Array", x.array).shape[axis]).all())

    def _look_at_state(self, name: str) -> None:
        """Add a caution for an initial state that is neither an input of the model nor zero."""
        state = initial_state(self.inputs.get(name), self.sources.outlines.odd, self.sources.reader)
        self.states.append(state)
        if state.origin in (Origin.FIXED, Origin.COMPUTED):
            zero = " and not zero" if state.origin is Origin.FIXED else ""
            self.cautions.append(f"its {name} is {state.origin.value}{zero}: give the layer its initial state")

    # Weights

    def error(self, problem: str) -> FileFormatError:
        """Return the error that names the file and the node."""
        return self.scope.context.error(f"{self.name}: {problem}")

    def read(self, readers: Evaluators, suffixes: Sequence[str]) -> dict[str, Array]:
        """Read the parameters; ``suffixes`` end their names in each direction."""
        arrays = {name: self._read(name, readers) for name in self._shapes}
        specs = [] if self.attributes is None else self.attributes.specs
        named: dict[str, Array] = {}
        for d, (suffix, spec) in enumerate(zip(suffixes, specs, strict=True)):
            # not by from_weight_format, which takes only types that a backend computes with: on NumPy not float16
            of_direction = {name: array[d] for name, array in arrays.items()}
            direction = convert(LAYER_FORMATS["onnx"], of_direction, torch_format(suffix))
            named |= without_forget_gate(direction) if spec.coupled_input_forget else direction
        return named

    def _read(self, name: str, readers: Evaluators) -> Array:
        """Return a weight, after checking that open sizes do not change it."""
        value = readers.odd.value(self.inputs[name])
        array = value.array
        if array is not None and array.shape == self._shapes[name]:
            # counted for the parameters that are made of it, and before it is compared: it may be a huge view
            self.sources.budget.take(array.nbytes, printable(f"{self.name}: {name}"))
            even = array if value.depends is Dependence.NOTHING else readers.even.value(self.inputs[name]).array
            if even is array or (even is not None and np.array_equal(array, even, equal_nan=True)):
                return array
        raise self.error(f"its {name} depends on the sizes of the model's inputs")


def read_nodes(nodes: Sequence[tuple[LSTMNode, Sequence[str]]]) -> dict[str, Array]:
    """Read the parameters of nodes that are one layer; each comes with the suffixes of its directions.

    Raises
    ------
    FileFormatError
        If there is a problem, or the weights are not as declared.
    """
    for node, _ in nodes:
        if node.problem is not None:
            raise node.error(node.problem)
    with nodes[0][0].sources.reading() as readers:
        return {name: a for node, suffixes in nodes for name, a in node.read(readers, suffixes).items()}


def joined_layer(
    name: str, options: Mapping[str, Any], placed: Sequence[tuple[LSTMNode, Sequence[str]]]
) -> FoundLayer:
    """Return nodes as one layer; each comes with the suffixes of its directions."""
    nodes = [node for node, _ in placed]
    return FoundLayer(
        name=name,
        options=options,
        read=lambda: read_nodes(placed),
        dtype=", ".join(sorted({node.dtype for node in nodes})),
        num_parameters=sum(node.num_parameters for node in nodes),
        cautions=tuple(f"{node.name}: {caution}" for node in nodes for caution in node.cautions),
        parts=tuple(node.found() for node in nodes),
    )


def _attributes(attributes: dict[str, Any], *, peephole: bool) -> NodeAttributes:
    """Read the attributes, and refuse those that no version of the operator has."""
    known = {"activations", "activation_alpha", "activation_beta", "clip", "direction", "input_forget", "layout"}
    unknown = [name for name in attributes if name not in known]
    if unknown:
        raise _UnfitError(f"ONNX's LSTM has no attribute {unknown[0]!r}")
    return read_attributes(peephole=peephole, **attributes)


def _sizes(shapes: dict[str, tuple[int, ...]], D: int) -> tuple[int, int]:
    """Return I and H, after checking all shapes against them."""
    check_shape("its R", shapes["R"], [("D", D), ("4H", None), ("H", None)])
    check_shape("its W", shapes["W"], [("D", D), ("4H", None), ("I", None)])
    H, I = shapes["R"][2], shapes["W"][2]
    sizes = axis_sizes(D, H, I)
    for name, shape in shapes.items():
        check_shape(f"its {name}", shape, [(axis, sizes[axis]) for axis in WEIGHT_AXES[name]])
    if H < 1 or I < 1:
        raise _UnfitError(f"its weights have H={H} and I={I}")
    return I, H
