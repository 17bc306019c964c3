"""``LSTMTape``: a recorded forward pass of an ``LSTM``, and its backward pass."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from nplstm._shapes import check_triple
from nplstm._typing import Array
from nplstm.backends import check_arrays
from nplstm.batch.packing import PackedSequence
from nplstm.core.bound_transform import BoundTransform
from nplstm.core.params import Parameters
from nplstm.core.step import State, Step
from nplstm.layers.forward import Pass
from nplstm.layers.output import output_backward, output_gradients
from nplstm.layers.stack import StackGradients, stack_backward
from nplstm.layers.states import (
    each_layer,
    new_states,
    read_state,
    stack_layers,
    state_arrays,
    sum_states,
    user_state,
)

__all__ = ["LSTMGradients", "LSTMTape"]


_NO_STATES = None, None, None


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

    def __init__(self, recorded: Pass, final: State) -> None:
        backend = recorded.layout.backend
        # the tape may have these very numbers: where no array refuses to be written to, the user gets a copy
        self.output: Any = _each(recorded.output(), backend.guard)
        h_n, c_n, *s_n = recorded.states(final)
        self.h_n, self.c_n = _each(h_n, backend.freeze), _each(c_n, backend.freeze)
        self.s_n: Any = _each(s_n[0], backend.freeze) if s_n else None
        self._pass = recorded

    @property
    def nbytes(self) -> int:
        """Bytes that the tape keeps in memory, the output included; the parameters are the layer's.

        For a standard LSTM on the compiled and the NumPy engine about 5 numbers for each cell and step (the
        compiled one rounds cells up to whole vectors), the input, and the output of each layer; with
        ``checkpoint_every`` the input and output of each layer, and a few states.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> lstm, x = nplstm.LSTM(2, 3, rng=0), np.ones((100, 1, 2), dtype=np.float32)
        >>> lstm.record(x).nbytes > lstm.record(x, checkpoint_every=10).nbytes
        True
        """
        kept = {
            id(owner): owner for owner in map(_owner, _arrays((self._pass.tape, self.output, self.h_n, self.c_n)))
        }
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

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> lstm = nplstm.LSTM(2, 3, rng=0)
        >>> tape = lstm.record(np.ones((4, 1, 2), dtype=np.float32))
        >>> grads = tape.backward(np.ones_like(tape.output))  # of a loss that is the sum of the output
        >>> grads.input.shape, grads.c_0.shape, grads.parameters["weight_hh_l0"].shape
        ((4, 1, 2), (1, 1, 3), (12, 3))
        """
        recorded, options, layout = self._pass, self._pass.options, self._pass.layout
        states = _NO_STATES
        if grad_state is not None:
            states = check_triple("grad_state", options.gradient_names, grad_state, options.state_size > 0)
        grad_outputs = output_gradients(grad_output, options)
        self._check_arrays(grad_outputs, states)
        grad_rows, grad_filled = output_backward(
            grad_outputs, recorded.joined, recorded.initial_h, options, layout
        )
        grad = self._final_gradients(states)
        assert recorded.tape is not None
        grads = stack_backward(grad_rows, grad, recorded.tape)
        named: dict[str, Array] = {}
        for layer, directions in enumerate(grads.sequences):
            for d, sequence in enumerate(directions):
                named |= sequence.params.named(options.suffix(layer, d))
        h_0, c_0, s_0 = self._initial_gradients(grad, grads, grad_filled)
        return LSTMGradients(
            input=layout.unpack(grads.x),
            h_0=h_0,
            c_0=c_0,
            parameters=Parameters(named, copy=False),
            s_0=s_0,
            context={}
            if recorded.context is None
            else recorded.context.gradients(_summed_contexts(grads), layout),
        )

    def _check_arrays(self, grad_outputs: dict[str, Any], states: tuple[Any, Any, Any]) -> None:
        """Raise unless the gradients are where the recording is, and of its element type."""
        recorded, options = self._pass, self._pass.options
        arrays = {"the recording": recorded.joined}
        for argument, value in grad_outputs.items():
            arrays[argument] = recorded.layout.data_of(argument, value)
        if states is not _NO_STATES:
            for argument, value in zip(options.gradient_names, states, strict=True):
                if value is not None:
                    arrays |= state_arrays(argument, value, options)
        check_arrays(options.owner, recorded.layout.backend, recorded.joined.dtype, **arrays)

    def _final_gradients(self, states: tuple[Any, Any, Any]) -> State:
        """Return the gradients of the final states in the loop's order, zeros for None; they may be written to."""
        options, layout, dtype = self._pass.options, self._pass.layout, self._pass.joined.dtype
        if states is _NO_STATES:
            return new_states(layout.backend.xp.zeros, options, layout.steps.batch, dtype)

        members = [
            read_state(argument, value, axes, options, layout, dtype, gradient=True, copy=True)
            for argument, value, axes in zip(options.gradient_names, states, options.state_axes, strict=False)
        ]
        return State(*members)

    def _initial_gradients(
        self, grad: State, grads: StackGradients, grad_filled: list[Array | None]
    ) -> tuple[Any, Any, Any]:
        """Return the gradients of h_0, c_0 and s_0 in the user's form; None where there is no s."""
        recorded, options, layout = self._pass, self._pass.options, self._pass.layout
        h: Any = grad.h
        if recorded.recurrent:  # in the place of h_0, and nothing was filled
            r_0 = [[cast("Array", sequence.r_0) for sequence in row] for row in grads.sequences]
            h = stack_layers(r_0, options, layout)
        for d, more in enumerate(grad_filled):
            if more is not None:
                h[-1][d] += more

        def of_user(state: Any, vector: bool) -> Any:
            if layout.reorders:
                state = each_layer(layout.initial_gradient, state, options.wiring.reverse)
            return sum_states(state) if vector else user_state(state, options, layout)

        vectors, s = recorded.vectors, grad.s
        return of_user(h, vectors[0]), of_user(grad.c, vectors[1]), None if s is None else of_user(s, vectors[2])


def _each(values: Any, show: Callable[[Array], Array]) -> Any:
    """Apply a function to the arrays that a user gets."""
    if isinstance(values, PackedSequence):
        return values._replace(data=show(values.data))
    if isinstance(values, tuple):
        return tuple(_each(member, show) for member in cast("tuple[Any, ...]", values))
    return show(values)


def _arrays(value: Any) -> Iterator[Array]:
    """Return the arrays in a tape; those of a step without its parameters."""
    if isinstance(value, Step):
        yield from _arrays(value.inputs)
    elif isinstance(value, BoundTransform):
        yield from _arrays(value.context)
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
            for name, grad in (sequence.context or {}).items():
                total[name] = total[name] + grad if name in total else grad
    return total
