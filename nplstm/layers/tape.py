"""``LSTMTape``: one recorded forward pass, and the way back."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from nplstm._shapes import check_triple
from nplstm._typing import Array
from nplstm.backends import check_arrays
from nplstm.batch.layout import Layout
from nplstm.batch.packing import PackedSequence
from nplstm.core.params import Parameters
from nplstm.core.step import Recurrence, State
from nplstm.layers.context import ContextReader
from nplstm.layers.options import Structure
from nplstm.layers.output import Output
from nplstm.layers.stack import StackGradients, StackOutput, StackTape, stack_backward
from nplstm.layers.states import join_state, read_state, state_arrays

__all__ = ["GivenStates", "LSTMGradients", "LSTMTape", "Pass"]


class GivenStates(NamedTuple):
    """In which form the initial states were given."""

    vectors: tuple[bool, bool, bool]  # whether h_0, c_0 and s_0 were one vector for all
    recurrent: bool  # whether the recurrent input r_0 was given in the place of h_0


class Pass(NamedTuple):
    """One pass through a layer, before its results are in the user's form."""

    structure: Structure
    layout: Layout
    output: Output
    context: ContextReader
    given: GivenStates
    initial_h: list[Array]  # of the last layer, by direction, in the loop's order
    result: StackOutput

    def shown(self) -> Any:
        """Return the output in the user's form."""
        return self.output.show(self.result.joined, self.result.outputs, self.initial_h)

    def final(self) -> tuple[Any, ...]:
        """Return (h_n, c_n), and s_n where the hidden transform has a state, in the user's form."""
        layout, reverse = self.layout, self.structure.wiring.directions
        states: list[Any] = []
        for k in range(3 if self.structure.state_size else 2):
            parts = [
                [layout.final(cast("Array", state[k]), reverse=reverse[d]) for d, state in enumerate(directions)]
                for directions in self.result.final
            ]
            states.append(join_state(parts, self.structure, layout))
        return tuple(states)


class LSTMGradients(NamedTuple):
    """Gradients of a loss, each shaped like what it belongs to.

    ``input`` is a PackedSequence where the input was one. ``parameters`` are sums over time and batch. ``s_0``
    is None unless the hidden transform has a state, and ``context`` is empty unless it reads one.
    """

    input: Any
    h_0: Any
    c_0: Any
    parameters: Parameters
    s_0: Any = None
    context: dict[str, Any] = {}  # noqa: RUF012  never changed


class LSTMTape:
    """One recorded forward pass of an ``LSTM``, made by ``LSTM.record``.

    Attributes
    ----------
    output, h_n, c_n
        As a plain call returns them. On NumPy they refuse to be written to.
    s_n
        The hidden transform's final state, where it has one; else None.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> lstm = nplstm.LSTM(2, 3, rng=0)
    >>> tape = lstm.record(np.ones((4, 1, 2), dtype=np.float32))
    >>> grads = tape.backward(None, (np.ones((1, 1, 3), dtype=np.float32), None))  # a loss that reads h_n
    >>> grads.h_0.shape
    (1, 1, 3)
    """

    def __init__(self, recorded: Pass) -> None:
        self._backend = recorded.layout.backend
        self._dtype = recorded.result.joined.dtype
        self._rows = recorded.result.joined
        # the tape may have these very numbers: where no array refuses to be written to, the user gets a copy
        self.output: Any = self._each(recorded.shown(), self._backend.guard)
        h_n, c_n, *s_n = recorded.final()
        self.h_n, self.c_n = (self._each(state, self._backend.freeze) for state in (h_n, c_n))
        self.s_n: Any = self._each(s_n[0], self._backend.freeze) if s_n else None
        self._structure = recorded.structure
        self._layout = recorded.layout
        self._output = recorded.output
        self._context = recorded.context
        self._given = recorded.given
        self._tape = cast("StackTape", recorded.result.tape)

    def _each(self, values: Any, show: Callable[[Array], Array]) -> Any:
        if isinstance(values, PackedSequence):
            return values._replace(data=show(values.data))
        if isinstance(values, tuple):
            return tuple(self._each(member, show) for member in cast("tuple[Any, ...]", values))
        return show(values)

    @property
    def nbytes(self) -> int:
        """Bytes that the tape keeps in memory, the output included; the parameters are the layer's.

        For a standard LSTM on the compiled and the NumPy engine at most 6 numbers for each cell and step beside
        input and output; with ``checkpoint_every`` the input and output of each layer, and a few states.
        """
        kept = {id(owner): owner for owner in map(_owner, _arrays((self._tape, self.output, self.h_n, self.c_n)))}
        return sum(int(owner.nbytes) for owner in kept.values())

    def backward(
        self,
        grad_output: Any = None,
        grad_state: tuple[Any, ...] | None = None,
    ) -> LSTMGradients:
        """Backpropagate a loss through every step and layer (BPTT).

        May be called again, with the same or other arguments: the tape is not changed, and each call returns
        gradients of its own.

        Parameters
        ----------
        grad_output : Array or PackedSequence, shaped like ``output``, optional
            d loss / d output; zero where left out. What it holds past a sequence's end has no effect.
        grad_state : (grad_h_n, grad_c_n), optional
            d loss / d (h_n, c_n), shaped like them; zero where left out or None. With a hidden transform that
            has a state, grad_s_n may follow.

        Returns
        -------
        LSTMGradients
            ``input``, shaped like the input; ``h_0`` and ``c_0``, shaped like those of ``hx``, or where it was
            left out as (L * D, B, P) and (L * D, B, H), or (L * D, B, R) where the layer reads the recurrent
            input; ``parameters``, by torch's names; ``s_0`` and ``context`` where the hidden transform has
            them.

        Raises
        ------
        ShapeError, DTypeError, BackendError
            As the forward pass, for the gradients given.
        """
        structure, layout = self._structure, self._layout
        given = check_triple(
            "grad_state", ("grad_h_n", "grad_c_n", "grad_s_n"), grad_state, structure.state_size > 0
        )
        arrays = self._output.arrays(grad_output)
        for argument, value in zip(("grad_h_n", "grad_c_n", "grad_s_n"), given, strict=True):
            arrays |= state_arrays(argument, value, structure)
        check_arrays("the LSTM", layout.backend, self._dtype, **{"the recording": self._rows}, **arrays)
        grad_rows, grad_filled = self._output.backward(grad_output)
        grads = stack_backward(grad_rows, self._final_gradients(given), self._tape)
        named = {
            name: array
            for layer, directions in enumerate(grads.sequences)
            for d, sequence in enumerate(directions)
            for name, array in sequence.params.named(structure.suffix(layer, d)).items()
        }
        h_0, c_0, s_0 = (self._initial_gradient(grads, k, grad_filled) for k in range(3))
        return LSTMGradients(
            input=layout.unpack(grads.x),
            h_0=h_0,
            c_0=c_0,
            parameters=Parameters(named, copy=False),
            s_0=s_0,
            context=self._context.gradients(_summed_contexts(grads), layout),
        )

    def _final_gradients(self, given: tuple[Any, Any, Any]) -> list[list[State]]:
        """Bring the user's gradients of the final states into the loop's order, zeros where there are none."""
        structure, layout, names = self._structure, self._layout, ("grad_h_n", "grad_c_n", "grad_s_n")
        by_state: list[list[list[Array]]] = []
        for argument, value, axes in zip(names, given, structure.state_axes, strict=False):
            parts = read_state(argument, value, axes, structure, layout, self._dtype, shareable=False)
            by_state.append(
                [
                    [
                        layout.final_gradient(part, reverse=r)
                        for part, r in zip(row, structure.wiring.directions, strict=True)
                    ]
                    for row in parts
                ]
            )
        return [
            [State(*(state[layer][d] for state in by_state)) for d in range(structure.directions)]
            for layer in range(structure.layers)
        ]

    def _initial_gradient(self, grads: StackGradients, k: int, grad_filled: list[Array | None]) -> Any:
        """Return the gradient of h_0, c_0 or s_0 in the form in which it was given."""
        structure, layout = self._structure, self._layout
        if k == 2 and not structure.state_size:
            return None
        recurrent = k == 0 and self._given.recurrent
        parts = [[cast("Array", s.r_0 if recurrent else s.state[k]) for s in row] for row in grads.sequences]
        if k == 0:
            parts[-1] = [p if more is None else p + more for p, more in zip(parts[-1], grad_filled, strict=True)]
        initial = [
            [
                layout.initial_gradient(part, reverse=r)
                for part, r in zip(row, structure.wiring.directions, strict=True)
            ]
            for row in parts
        ]
        return join_state(initial, structure, layout, as_vector=self._given.vectors[k])


def _arrays(value: Any) -> Iterator[Array]:
    """Return the arrays in a tape; those of the recurrence without its parameters."""
    if isinstance(value, Recurrence):
        yield from _arrays((value.masks, value.context, value.r_0))
    elif isinstance(value, dict):
        yield from _arrays(tuple(cast("dict[str, Any]", value).values()))
    elif isinstance(value, tuple | list):
        for member in cast("tuple[Any, ...]", value):
            yield from _arrays(member)
    elif hasattr(value, "nbytes"):
        yield value


def _owner(array: Any) -> Any:
    """Return the array whose memory it is."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array


def _summed_contexts(grads: StackGradients) -> dict[str, Array]:
    """Add up what all layers and directions, which read the same context, say of its gradient."""
    total: dict[str, Array] = {}
    for row in grads.sequences:
        for sequence in row:
            for name, grad in sequence.context.items():
                total[name] = total[name] + grad if name in total else grad
    return total
