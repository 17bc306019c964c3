"""Stacks: LSTM nodes that follow each other, joined as the layers of one LSTM.

ONNX's operator is one layer, and returns (T, D, B, H); exporters put transpositions, reshapes, slices and
concatenations between two of them, each exporter its own. Whether they come to the axes that the next node reads,
(T, B, D * H), is not told by their pattern: they are run, on numbers of which no two are the same. Operators that
do anything but move numbers make them unknown, so nothing is joined through them.
"""

from collections.abc import Sequence

from nplstm.io.model_file import FoundLayer
from nplstm.io.onnx.constant_folding import Evaluators
from nplstm.io.onnx.node_reader import LSTMNode, joined_layer
from nplstm.io.onnx.scopes import ScopedName

__all__ = ["layers_of_nodes"]


def layers_of_nodes(nodes: Sequence[LSTMNode], outlines: Evaluators) -> list[FoundLayer]:
    """Return the nodes as layers: those that follow each other as stacks, the others alone."""
    above = _successors(nodes, outlines)
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


def _successors(nodes: Sequence[LSTMNode], outlines: Evaluators) -> dict[int, LSTMNode]:
    """Return by a node's id the node that is the next layer: the only reader of its output, and compatible."""
    by_output = {ScopedName(node.scope, node.node.output[0]): node for node in nodes if node.node.output}
    readers: dict[int, list[LSTMNode]] = {}
    for node in nodes:
        x = node.inputs.get("X")
        if x is None:
            continue
        one, other = (evaluator.probes.node_output(evaluator.value(x).array) for evaluator in outlines)
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
        # equal origins: a state cannot be computed from the node below
        and below.states == above.states
    )


def _stack(chain: Sequence[LSTMNode]) -> FoundLayer:
    """Return nodes that follow each other as one layer."""
    sizes = tuple(node.options["hidden_size"] for node in chain)
    options = chain[0].options | {
        "hidden_size": sizes[0] if len(set(sizes)) == 1 else sizes,
        "num_layers": len(chain),
    }
    placed = [(node, [f"_l{layer}{end}" for end in node.suffixes]) for layer, node in enumerate(chain)]
    return joined_layer(" + ".join(node.name for node in chain), options, placed)
