"""The ONNX graph of a layer: an ``LSTM`` or an ``LSTMCell`` as nodes and their connections.

The operator runs one layer in one or two directions, on (T, B, I), and returns (T, D, B, H). Stacks,
independent columns, residuals, merging and the user's layout are built here from ONNX's other operators.
"""

from nplstm.io.onnx.graph_builder import GraphBuilder
from nplstm.io.onnx.node_writer import add_lstm_node
from nplstm.layers import LSTM, LSTMCell
from nplstm.layers.check_options import lstm_options
from nplstm.layers.options import DEFAULTS, Options

__all__ = ["add_cell", "add_lstm"]


def add_cell(graph: GraphBuilder, cell: LSTMCell) -> None:
    """Build one step: the operator on a sequence of length 1."""
    H, axis = cell.hidden_size, graph.integers([0])
    x = graph.add("Unsqueeze", graph.input("input", ["B", cell.input_size]), axis)
    h, c = (graph.add("Unsqueeze", graph.input(name, ["B", H]), axis) for name in ("h_0", "c_0"))
    _, *final = add_lstm_node(
        graph, "_l0", cell.parameters, [""], cell.cell, reverse=[False], inputs=(x, "", h, c)
    )
    for name, state in zip(("h_1", "c_1"), final, strict=True):
        graph.output(name, graph.add("Squeeze", state, axis), ["B", H])


def add_lstm(graph: GraphBuilder, lstm: LSTM, *, states: bool, lengths: bool) -> None:
    """Build a stack of layers; ``states`` and ``lengths`` say which inputs there are beside "input"."""
    _LSTMGraph(graph, lstm, states=states, lengths=lengths).build()


class _LSTMGraph:
    """The graph of one ``LSTM``.

    A column is what one node computes in each layer: both directions where layers read both, or one of the
    directions where they never mix. States are found by layer and column.
    """

    def __init__(self, graph: GraphBuilder, lstm: LSTM, *, states: bool, lengths: bool) -> None:
        self._graph = graph
        self._lstm = lstm
        self._options = options = _options(lstm)
        every = tuple(range(options.directions))
        self._columns = [(d,) for d in every] if options.wiring.independent else [every]
        self._final: dict[str, dict[tuple[int, int], str]] = {"h": {}, "c": {}}
        self._x = self._input()
        self._initial = {name: self._initial_states(name) for name in self._final} if states else {}
        self._lengths = graph.input("lengths", ["B"], "int32") if lengths else ""
        # ReverseSequence wants them so, and comparisons with sizes
        self._lengths_64 = graph.cast_to_int64("lengths") if lengths else ""
        self._empty = self._without_steps() if states and lengths else ""

    def build(self) -> None:
        below = [self._without_padding(self._x)]
        for layer in range(self._options.layers):
            outputs: list[str] = []
            for column in range(len(self._columns)):
                read = below[column % len(below)]  # one input for both columns, or one each
                output = self._run(layer, column, read)
                residual = layer in self._options.wiring.residual
                outputs.append(self._graph.add("Add", output, read) if residual else output)
            below = outputs
        self._show(below)
        for name in self._final:
            self._show_states(name)

    # One layer

    def _run(self, layer: int, column: int, x: str) -> str:
        """Run a column's directions in one layer; return its output (T, B, D * H)."""
        options, directions = self._options, self._columns[column]
        h_0, c_0 = (self._initial[name][layer, column] if self._initial else "" for name in ("h", "c"))
        Y, *final = add_lstm_node(
            self._graph,
            options.suffix(layer, directions[0]),
            self._lstm.parameters,
            [options.suffix(layer, d) for d in directions],
            self._lstm.cell,
            reverse=[options.wiring.reverse[d] for d in directions],
            inputs=(x, self._lengths, h_0, c_0),
        )
        if self._empty:
            final = [self._graph.add("Where", self._empty, *each) for each in zip((h_0, c_0), final, strict=True)]
        for name, state in zip(("h", "c"), final, strict=True):
            self._final[name][layer, column] = state
        return self._side_by_side(Y, len(directions), options.hidden_sizes[layer])

    def _without_steps(self) -> str:
        """Tell which sequences have length 0, (B, 1): they keep their state, where the operator returns zeros."""
        empty = self._graph.add("Equal", self._lengths_64, self._graph.integers(0))
        return self._graph.add("Unsqueeze", empty, self._graph.integers([1]))

    def _side_by_side(self, Y: str, directions: int, H: int) -> str:
        """Turn (T, D, B, H) into (T, B, D * H)."""
        graph = self._graph
        if directions == 1:
            return graph.add("Squeeze", Y, graph.integers([1]))
        turned = graph.add("Transpose", Y, perm=[0, 2, 1, 3])
        return graph.add("Reshape", turned, graph.integers([0, 0, directions * H]))  # 0: the size stays

    # Input and output

    def _input(self) -> str:
        x = self._graph.input("input", self._axes(self._options.input_size))
        return self._turned(x)

    def _without_padding(self, x: str) -> str:
        """Put zeros past the sequences' ends, where the first layer would add what is there to its output."""
        if not self._lengths or 0 not in self._options.wiring.residual:
            return x
        graph = self._graph
        zero, one = graph.integers(0), graph.integers(1)
        steps = graph.add("Range", zero, graph.add("Gather", graph.add("Shape", x), zero), one)
        there = graph.add("Less", graph.add("Unsqueeze", steps, graph.integers([1])), self._lengths_64)
        there = graph.add("Unsqueeze", there, graph.integers([2]))
        return graph.add("Where", there, x, graph.number(0.0))

    def _show(self, columns: list[str]) -> None:
        """Make the last layer's output the graph's: merged, and in the user's order of steps and axes."""
        width = self._options.output_axis[1] or 0
        for name, value in zip(("output", "output_reverse"), self._merged(columns), strict=False):
            flipped = self._flipped(value) if self._lstm.output_order == "processing" else value
            self._graph.output(name, self._turned(flipped), self._axes(width))

    def _merged(self, columns: list[str]) -> list[str]:
        """Return what becomes of the two directions: one output, or both as they are."""
        graph, options, merge = self._graph, self._options, self._options.merge
        if options.directions == 1 or merge == "concat":
            return [graph.join(columns, axis=2)]
        if not options.wiring.independent:
            columns = graph.split(columns[0], [options.hidden_sizes[-1]] * 2, axis=2)
        if merge == "none":
            return columns
        merged = graph.add("Mul" if merge == "product" else "Add", *columns)
        return [graph.add("Mul", merged, graph.number(0.5)) if merge == "mean" else merged]

    def _flipped(self, value: str) -> str:
        """Turn each sequence around in time, its own steps alone, so that the padding stays at the end."""
        graph = self._graph
        if self._lengths:
            # at length 0 onnxruntime 1.17 to 1.24 leaves the output unwritten; 1 turns nothing around either
            ends = graph.add("Max", self._lengths_64, graph.integers([1]))
            return graph.add("ReverseSequence", value, ends, batch_axis=1, time_axis=0)
        last, beyond, axis = graph.integers([-1]), graph.integers([-(2**63)]), graph.integers([0])
        return graph.add("Slice", value, last, beyond, axis, last)

    def _axes(self, width: int) -> list[int | str]:
        return ["B", "T", width] if self._lstm.batch_first else ["T", "B", width]

    def _turned(self, value: str) -> str:
        """Exchange steps and sequences where the layer has the batch first."""
        return self._graph.add("Transpose", value, perm=[1, 0, 2]) if self._lstm.batch_first else value

    # States

    def _groups(self) -> list[tuple[str, list[tuple[int, int]]]]:
        """Return which states, by layer and column, stand in one array, in their order; and what ends its name."""
        options, columns = self._options, range(len(self._columns))
        if options.by_layer:
            return [(f"_l{layer}", [(layer, column) for column in columns]) for layer in range(options.layers)]
        every = [(layer, column) for layer in range(options.layers) for column in columns]
        return [("", sorted(every, key=lambda place: _order(options, *place)))]

    def _rows(self, members: list[tuple[int, int]]) -> list[int]:
        """Return how many directions each state has."""
        return [len(self._columns[column]) for _, column in members]

    def _initial_states(self, name: str) -> dict[tuple[int, int], str]:
        """Add the inputs of one kind of state, and take them apart."""
        found: dict[tuple[int, int], str] = {}
        for ending, members in self._groups():
            rows = self._rows(members)
            whole = self._graph.input(f"{name}_0{ending}", [sum(rows), "B", self._width(members)])
            found |= zip(members, self._graph.split(whole, rows, axis=0), strict=True)
        return found

    def _show_states(self, name: str) -> None:
        """Put the final states of one kind together, and make them outputs."""
        for ending, members in self._groups():
            joined = self._graph.join([self._final[name][place] for place in members], axis=0)
            axes = [sum(self._rows(members)), "B", self._width(members)]
            self._graph.output(f"{name}_n{ending}", joined, axes)

    def _width(self, members: list[tuple[int, int]]) -> int:
        return self._options.hidden_sizes[members[0][0]]


def _order(options: Options, layer: int, column: int) -> int:
    """Return where a state stands among all: by layers, or in independent columns by columns."""
    return column * options.layers + layer if options.wiring.independent else layer


def _options(lstm: LSTM) -> Options:
    """Return the sizes and the wiring of a layer that has neither projection nor transform."""
    arguments = {name: getattr(lstm, name) for name in ("input_size", "hidden_size", *DEFAULTS)}
    return lstm_options(**arguments, recurrent_size=None)
