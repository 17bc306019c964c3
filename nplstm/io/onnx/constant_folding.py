"""Constant folding: the value of a name in an ONNX graph, as far as it is known without running the model.

Weights come from stored tensors, often through operators, and these may read sizes that are known only at run
time. So a graph is evaluated on stand-ins (``run_time_probes``): an input is an array of the declared shape,
filled with NaN, and open dimensions have sample sizes. Each value carries how much it depends on the run. A weight
may depend on sizes along the way, if in the end all sizes give the same numbers.

The outputs of LSTM nodes have numbers of which no two are the same. They stay known where an operator only moves
them, and become NaN where an operator does anything else with them.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np

from nplstm._typing import Array, DType
from nplstm.io.model_file import WIDENED, Budget, describe
from nplstm.io.onnx.operators import OPERATORS, Operator, OperatorCall, UnsupportedOperatorError
from nplstm.io.onnx.proto_fields import attribute_value, is_standard, node_name
from nplstm.io.onnx.run_time_probes import OutputProbes, SampleSizes
from nplstm.io.onnx.scopes import Definition, GraphInput, Initializer, NodeOutput, ScopedName
from nplstm.io.onnx.tensor_protos import DTYPES, LazyTensor, tensor_from_constant

__all__ = ["AbstractValue", "Dependence", "Evaluator", "Evaluators", "evaluators"]

_FEW = 4096
"""A tensor with more elements is not read for an outline; tensors of sizes and axes have fewer."""

_MOST_PROBED = 2**28
"""Limit on the bytes of values that depend on a run; a graph that makes more is not followed."""

_ERRORS = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, AttributeError, MemoryError)
"""What NumPy raises on operands that do not fit; a KeyError is an attribute that is missing."""


class Dependence(IntEnum):
    """What a value depends on: nothing but the file, also sizes of inputs, or also their data."""

    NOTHING = 0
    SIZES = 1
    DATA = 2


class AbstractValue(NamedTuple):
    """What is known of a value without a run."""

    array: Array | None
    """None for a value of unknown shape that depends on data, and for an input that is left out."""
    depends: Dependence = Dependence.NOTHING
    reason: str = ""
    """Why it is not a constant, if it depends on data: "comes from ..."."""
    dtype: str = ""
    """Its element type in the file."""
    outlined: bool = False
    """Whether the numbers in the file were not read, and zeros stand for them."""


_LEFT_OUT = AbstractValue(None)


class Evaluator:
    """Computes the values of a model on request, and keeps them.

    Parameters
    ----------
    stored : callable
        Returns the LazyTensor of a name and its ``TensorProto``.
    budget : Budget
        Counts what is computed or read; ``release`` gives it back.
    sizes : SampleSizes
        For open dimensions.
    outline : bool
        Whether large tensors are not read, and zeros of their shape stand for them.
    """

    def __init__(
        self,
        stored: Callable[[str, Any], LazyTensor],
        budget: Budget,
        sizes: SampleSizes,
        *,
        outline: bool,
    ) -> None:
        self._stored, self._budget, self._sizes, self._outline = stored, budget, sizes, outline
        self.probes = OutputProbes(sizes)
        self._values: dict[ScopedName, AbstractValue] = {}
        self._held = self._probed = 0

    def release(self) -> None:
        """Forget all values, and give back their memory."""
        self._values.clear()
        self._budget.give_back(self._held)
        self._held = 0

    def look(self, value: AbstractValue, what: str) -> Array | None:
        """Return the numbers of a value, without repetitions by broadcasting; None if they are not known.

        They are counted once more, because a file can make the reader look at the same ones many times.
        """
        if value.array is None or value.depends is Dependence.DATA:
            return None
        seen = value.array[tuple(slice(None) if stride else slice(1) for stride in value.array.strides)]
        self._take(seen.nbytes, what)
        return seen

    def value(self, scoped_name: ScopedName) -> AbstractValue:
        """Return what is known of a value.

        Raises
        ------
        FileFormatError
            If it is part of a cycle, a name is missing, operands do not fit, or it takes too much memory.
        """
        waiting = [scoped_name]  # an explicit stack: a graph may be deeper than Python's recursion limit
        begun: set[ScopedName] = set()
        while waiting:
            top = waiting[-1]
            if top in self._values:
                waiting.pop()
                continue
            definition = top.scope.find(top.name) if top.name else None
            missing = [need for need in _inputs_of(definition) if need not in self._values]
            if not missing:
                self._values[top] = _LEFT_OUT if definition is None else self._of(top, definition)
            elif top in begun:
                raise top.scope.context.error(f"{top.name!r} is computed from itself")
            begun.add(top)
            waiting += missing
        return self._values[scoped_name]

    def _of(self, scoped_name: ScopedName, definition: Definition) -> AbstractValue:
        """Return the value of a definition whose own inputs are known."""
        if isinstance(definition, ScopedName):
            return self._values[definition]
        if isinstance(definition, Initializer):
            return self._constant(
                self._stored(definition.name, definition.proto), f"the tensor {definition.name!r}"
            )
        if isinstance(definition, GraphInput):
            return self._declared(
                scoped_name, f"comes from the input {definition.name!r}, which is not a constant"
            )
        output = ScopedName(definition.scope, definition.node.output[definition.output])
        if output not in self._values:
            self._run(definition)
        return self._values[output]

    def _constant(self, tensor: LazyTensor, what: str) -> AbstractValue:
        """Return a tensor of the file; for an outline, zeros of its shape if it is large."""
        info = tensor.info
        if info.dtype not in DTYPES.values():
            return AbstractValue(
                None, Dependence.DATA, f"comes from {what} of the type {info.dtype}, which is not read"
            )
        if self._outline and info.size > _FEW:
            dtype = np.dtype(WIDENED.get(info.dtype, info.dtype))
            return AbstractValue(_filled(info.shape, dtype, 0), dtype=info.dtype, outlined=True)
        self._take(info.nbytes, what)
        return AbstractValue(tensor.read(), dtype=info.dtype)

    def _declared(self, scoped_name: ScopedName, reason: str) -> AbstractValue:
        """Return NaN of the shape that the file declares; no array if it declares none."""
        declared = scoped_name.scope.shape_of(scoped_name.name)
        if declared is None or not declared.HasField("shape"):
            return AbstractValue(None, Dependence.DATA, reason)
        shape = [
            dim.dim_value if dim.dim_value > 0 else self._sizes(dim.dim_param or (scoped_name, axis))
            for axis, dim in enumerate(declared.shape.dim)
        ]
        name = DTYPES.get(declared.elem_type, "float32")
        dtype = np.dtype(WIDENED.get(name, name))
        try:
            return AbstractValue(_filled(shape, dtype, np.nan), Dependence.DATA, reason, name)
        except ValueError:  # more axes or elements than NumPy has
            return AbstractValue(None, Dependence.DATA, reason)

    def _run(self, definition: NodeOutput) -> None:
        """Find the values of all outputs of a node."""
        scope, node, _ = definition
        inputs = [self._values[need] for need in _inputs_of(definition)]
        what = f"the operator {node.op_type} ({node_name(node)!r})"
        results: list[AbstractValue] = []
        reason = ""
        try:
            if not is_standard(node) or node.op_type not in _EVALUATED:
                raise UnsupportedOperatorError(f"{what}, which is not evaluated")
            if node.op_type == "Constant":
                results = [self._constant_node(definition, what)]
            elif node.op_type == "LSTM":
                results = self._probes(definition, inputs, what)
            elif unknown := _unknown_input(OPERATORS[node.op_type], inputs):
                reason = unknown.reason
            else:
                results = self._results(definition, inputs, what)
        except UnsupportedOperatorError as error:
            reason = f"comes from {error}"
        for k, name in enumerate(node.output):
            if name:
                scoped_name = ScopedName(scope, name)
                self._values[scoped_name] = results[k] if k < len(results) else self._declared(scoped_name, reason)

    def _constant_node(self, definition: NodeOutput, what: str) -> AbstractValue:
        for name, attribute in definition.scope.attributes_of(definition.node).items():
            tensor = tensor_from_constant(
                definition.node.output[0], name, attribute_value(attribute), self._stored
            )
            if tensor is None:
                raise UnsupportedOperatorError(f"{what} with the attribute {name}, which is not read")
            return self._constant(tensor, what)
        raise definition.scope.context.error(f"{what} has no value")

    def _probes(self, definition: NodeOutput, inputs: Sequence[AbstractValue], what: str) -> list[AbstractValue]:
        """Return the numbered outputs of an LSTM."""
        take = partial(self._count, what, Dependence.DATA)
        x, r = inputs
        arrays = self.probes.outputs(definition, x.array, r.array, take)
        dtype = r.dtype  # the probes themselves are of a type that holds more numbers
        return [AbstractValue(array, Dependence.DATA, f"comes from {what}", dtype) for array in arrays]

    def _results(self, definition: NodeOutput, inputs: Sequence[AbstractValue], what: str) -> list[AbstractValue]:
        """Compute a node's outputs."""
        scope, node, _ = definition
        depends = max((value.depends for value in inputs), default=Dependence.NOTHING)
        outlined = any(value.outlined for value in inputs)
        reason = next((value.reason for value in inputs if value.depends is Dependence.DATA), "")
        if node.op_type == "Shape":
            depends, outlined = min(depends, Dependence.SIZES), False
        halves = any(value.dtype == "bfloat16" for value in inputs)
        if halves and node.op_type in _ROUNDING:
            raise UnsupportedOperatorError(f"{what}, which would have to round to bfloat16")
        attributes = {name: self.attribute(name, a) for name, a in scope.attributes_of(node).items()}
        probing, held = depends is Dependence.DATA, self._held
        call = OperatorCall(
            attributes, len(node.output), partial(self._count, what, depends), scope.opset, probing
        )
        try:
            operator = _trivial_cast(node, attributes, inputs) or OPERATORS[node.op_type]
            with np.errstate(all="ignore"):
                arrays = _arrays(operator.compute(call, *(value.array for value in inputs)))
        except _ERRORS as error:
            if depends is Dependence.NOTHING:
                raise scope.context.error(f"{what} cannot be computed: {describe(error)}") from error
            raise UnsupportedOperatorError(
                f"{what}, which does not fit the sizes tried: {describe(error)}"
            ) from error
        if not operator.moves if probing else outlined and self._outline:  # the numbers are not needed
            arrays = [_filled(array.shape, array.dtype, np.nan if probing else 0) for array in arrays]
            self._budget.give_back(self._held - held)
            self._held = held
        # probes, and bfloat16 as float32, have another type than the value they stand for; moving keeps that type
        kinds = {} if node.op_type == "Cast" else {v.array.dtype: v.dtype for v in inputs if v.array is not None}
        dtypes = [kinds.get(array.dtype, array.dtype.name) for array in arrays]
        return [AbstractValue(array, depends, reason, dtypes[k], outlined) for k, array in enumerate(arrays)]

    def attribute(self, name: str, attribute: Any) -> Any:
        """Return the value of an attribute; of a tensor, its numbers."""
        value = attribute_value(attribute)
        if not hasattr(value, "data_type"):
            return value
        tensor = self._stored(name, value)
        self._take(tensor.info.nbytes, f"the attribute {name!r}")
        return tensor.read()

    def _count(self, what: str, depends: Dependence, nbytes: int) -> None:
        if depends is Dependence.DATA:
            self._probed += nbytes
            if self._probed > _MOST_PROBED:
                raise UnsupportedOperatorError(f"{what}, which is too large to be tried")
        self._take(nbytes, what)

    def _take(self, nbytes: int, what: str) -> None:
        self._budget.take(nbytes, what)
        self._held += nbytes


class Evaluators(NamedTuple):
    """Two evaluators of one file, which have no sample size in common."""

    odd: Evaluator
    even: Evaluator


@contextmanager
def evaluators(
    stored: Callable[[str, Any], LazyTensor], budget: Budget, *, outline: bool
) -> Generator[Evaluators]:
    """Yield evaluators that differ in the sizes of open dimensions; their memory is given back in the end."""
    pair = Evaluators(
        Evaluator(stored, budget, SampleSizes(3, 2, 24), outline=outline),
        Evaluator(stored, budget, SampleSizes(2, 4, 23), outline=outline),
    )
    try:
        yield pair
    finally:
        for evaluator in pair:
            evaluator.release()


_ROUNDING = {"Add", "Mul", "Sub"}
"""Operators whose results are rounded to their element type."""

_EVALUATED = {*OPERATORS, "Constant", "LSTM"}


def _unknown_input(operator: Operator, inputs: Sequence[AbstractValue]) -> AbstractValue | None:
    """Return an input whose unknown numbers decide the results' shape or order; None if there is none."""
    return next(
        (
            value
            for k, value in enumerate(inputs)
            if value.depends is Dependence.DATA and (value.array is None or k >= operator.numbers)
        ),
        None,
    )


def _trivial_cast(node: Any, attributes: dict[str, Any], inputs: Sequence[AbstractValue]) -> Operator | None:
    """Return the identity for a Cast to the type that the input already has."""
    same = node.op_type == "Cast" and inputs and DTYPES.get(attributes.get("to", 0)) == inputs[0].dtype
    return OPERATORS["Identity"] if same else None


def _filled(shape: Sequence[int], dtype: DType, number: float) -> Array:
    """Return a broadcast number, which takes no memory; in an array of integers NaN becomes 0."""
    filled = np.array(number if dtype.kind in "fc" else 0, dtype=dtype)
    return np.broadcast_to(filled, tuple(shape))


def _arrays(computed: Any) -> list[Array]:
    """Return an operator's results as arrays, which NumPy's scalars are not."""
    every = cast("list[Any]", computed) if isinstance(computed, list) else [computed]
    arrays: list[Array] = [np.asarray(array) for array in every]
    if any(array.dtype.kind not in "biufc" for array in arrays):
        raise ValueError("an input is left out")
    return arrays


def _inputs_of(definition: Definition | None) -> list[ScopedName]:
    """Return the values that a definition is computed from."""
    if isinstance(definition, ScopedName):
        return [definition]
    if not isinstance(definition, NodeOutput):
        return []
    scope, node, _ = definition
    if not is_standard(node) or node.op_type not in _EVALUATED:
        return []
    names = list(node.input)
    if node.op_type == "LSTM":  # X and R: the outputs' shapes do not depend on the others
        names = [*names, "", "", ""][0:3:2]
    return [ScopedName(scope, name) for name in names]
