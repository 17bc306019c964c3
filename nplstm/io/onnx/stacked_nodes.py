"""LSTM nodes that follow each other as the layers of a stack.

ONNX's operator is one layer, and returns (T, D, B, H); exporters put transpositions, reshapes, slices and
concatenations between two of them, each its own. Whether what they come to is the layout that the next one reads,
(T, B, D * H), is not told by their pattern: they are run, on numbers of which no two are the same. Operators that
do anything but move numbers make them unknown, so nothing is joined through them.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from nplstm._typing import Array
from nplstm.io.model_file import FoundLayer
from nplstm.io.onnx.constant_folding import AbstractValue, SampleSizes
from nplstm.io.onnx.node_reader import LSTMNode, Outlines, joined
from nplstm.io.onnx.scopes import NodeOutput, ScopedName, attribute_value

__all__ = ["OutputProbes", "found_layers"]


_MOST_COMPARED = 2**28
"""How many numbers are compared in all: a file can ask for the same ones any number of times."""


class OutputProbes:
    """Outputs of LSTM nodes, made of numbers that tell whose they are and where they stood."""

    def __init__(self) -> None:
        self._next = 1
        self._starts: list[int] = []
        self._outputs: list[ScopedName] = []
        self._expected: list[Array] = []
        self._left = _MOST_COMPARED

    def outputs(
        self,
        definition: NodeOutput,
        x: AbstractValue,
        r: AbstractValue,
        sizes: SampleSizes,
        take: Callable[[int], None],
    ) -> list[Array]:
        """Return Y, Y_h and Y_c of a node, given X and R; nothing if R is not what it should be."""
        if r.array is None or r.array.ndim != 3:
            return []
        D, _, H = r.array.shape
        key = (definition.scope, id(definition.node))
        known = x.array is not None and x.array.ndim == 3
        first, second = x.array.shape[:2] if known and x.array is not None else (sizes((key, 0)), sizes((key, 1)))
        layout = definition.scope.attributes_of(definition.node).get("layout")
        batch_first = layout is not None and attribute_value(layout) == 1
        Y = (first, second, D, H) if batch_first else (first, D, second, H)
        B = first if batch_first else second
        state = np.broadcast_to(np.array(np.nan), (B, D, H) if batch_first else (D, B, H))
        return [self._mark(definition, Y, batch_first, take), state, state]

    def _mark(
        self, definition: NodeOutput, shape: tuple[int, ...], batch_first: bool, take: Callable[[int], None]
    ) -> Array:
        count = prod(shape)
        take(16 * count)
        Y = np.arange(self._next, self._next + count, dtype=np.float64).reshape(shape)
        turned = Y if batch_first else Y.transpose(0, 2, 1, 3)
        first, second, D, H = turned.shape
        self._starts.append(self._next)
        self._outputs.append(
            ScopedName(definition.scope, definition.node.output[0] if definition.node.output else "")
        )
        self._expected.append(turned.reshape(first, second, D * H))
        self._next += count
        return Y

    def whose(self, value: AbstractValue) -> ScopedName | None:
        """Return the Y of which a value is all, the directions side by side; None if it is of none."""
        array = value.array
        if array is None or not array.size or array.dtype.kind != "f" or not np.isfinite(array.flat[0]):
            return None
        number = bisect_right(self._starts, float(array.flat[0])) - 1
        if number < 0 or array.shape != self._expected[number].shape or array.size > self._left:
            return None
        self._left -= array.size
        return self._outputs[number] if np.array_equal(array, self._expected[number]) else None


def found_layers(
    nodes: Sequence[LSTMNode], outlines: Outlines, probes: Sequence[OutputProbes]
) -> list[FoundLayer]:
    """Return the layers that the nodes are: stacks of those that follow each other, and the others alone."""
    above = _successors(nodes, outlines, probes)
    tops = {id(node) for node in above.values()}
    found: list[FoundLayer] = []
    for node in nodes:
        if id(node) in tops:
            continue
        chain = [node]
        while id(chain[-1]) in above:
            chain.append(above[id(chain[-1])])
        found.append(_stack(chain) if len(chain) > 1 else node.found())
    return found


def _successors(
    nodes: Sequence[LSTMNode], outlines: Outlines, probes: Sequence[OutputProbes]
) -> dict[int, LSTMNode]:
    """Return, by the identity of a node, the one that reads its output, if that is one alone and goes with it."""
    by_output = {ScopedName(node.scope, node.node.output[0]): node for node in nodes if node.node.output}
    readers: dict[int, list[LSTMNode]] = {}
    for node in nodes:
        x = node.input("X")
        if x is None:
            continue
        one, other = (
            probe.whose(evaluator.value(x)) for probe, evaluator in zip(probes, outlines[:2], strict=True)
        )
        if one is not None and one == other and one in by_output:
            readers.setdefault(id(by_output[one]), []).append(node)
    by_identity = {id(node): node for node in nodes}
    return {
        below: above[0]
        for below, above in readers.items()
        if len(above) == 1 and _go_together(by_identity[below], above[0])
    }


def _go_together(below: LSTMNode, above: LSTMNode) -> bool:
    """Tell whether two nodes, of which one reads the other's output, can be layers of one stack."""
    differ = {"input_size", "hidden_size"}
    options = [{k: v for k, v in node.options.items() if k not in differ} for node in (below, above)]
    return (
        below.problem is None
        and above.problem is None
        and options[0] == options[1]
        and below.dtype == above.dtype
        and below.scope.body is above.scope.body  # else one runs more often than the other, or not at all
        and below.lengths == above.lengths
        # what both are computed from cannot be computed from one of them
        and below.states == above.states
    )


def _stack(chain: Sequence[LSTMNode]) -> FoundLayer:
    """Return nodes as one layer."""
    sizes = tuple(node.options["hidden_size"] for node in chain)
    options = chain[0].options | {
        "hidden_size": sizes[0] if len(set(sizes)) == 1 else sizes,
        "num_layers": len(chain),
    }
    placed = [(node, [f"_l{layer}{end}" for end in node.suffixes]) for layer, node in enumerate(chain)]
    return joined(" + ".join(node.name for node in chain), options, placed)
