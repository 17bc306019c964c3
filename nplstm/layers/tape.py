"""``LSTMTape``: one recorded forward pass, and the way back."""

from typing import Any, NamedTuple, cast

from nplstm._shapes import Axis, check_pair, given
from nplstm._typing import Array
from nplstm.backends import check_arrays
from nplstm.layers.layout import Layout
from nplstm.layers.stack import StackOutput, StackTape, stack_backward
from nplstm.packing import PackedSequence
from nplstm.params import Parameters

__all__ = ["LSTMGradients", "LSTMTape", "Wiring"]


class Wiring(NamedTuple):
    """How layers, directions and widths of an ``LSTM`` hang together."""

    suffixes: list[list[str]]  # of the parameters' names, by layer, then by direction
    h_axis: Axis  # name and size of the last axis of h: P, or H without projection
    c_axis: Axis

    @property
    def states(self) -> int:
        """L * D."""
        return len(self.suffixes) * len(self.suffixes[0])

    @property
    def output_axis(self) -> Axis:
        """Name and size of the last axis of the output."""
        return "D*" + self.h_axis[0], len(self.suffixes[0]) * (self.h_axis[1] or 0)


class LSTMGradients(NamedTuple):
    """Gradients of a loss, each shaped like what it belongs to.

    ``input`` is a PackedSequence where the input was one. ``parameters`` are sums over time and batch.
    """

    input: Any
    h_0: Array
    c_0: Array
    parameters: Parameters


class LSTMTape:
    """One recorded forward pass of an ``LSTM``, made by ``LSTM.record``.

    Attributes
    ----------
    output, h_n, c_n
        As a plain call returns them. On NumPy they refuse to be written to, since ``backward`` reads the output;
        on CuPy, which has no read-only arrays, ``output`` is a copy of what ``backward`` reads.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> lstm = nplstm.LSTM(2, 3, rng=0)
    >>> tape = lstm.record(np.ones((4, 1, 2), dtype=np.float32))
    >>> grads = tape.backward(None, (np.ones((1, 1, 3), dtype=np.float32), None))  # a loss that reads h_n
    >>> grads.h_0.shape
    (1, 1, 3)
    """

    def __init__(self, wiring: Wiring, layout: Layout, result: StackOutput, shared: list[bool]) -> None:
        backend = layout.backend
        # backward reads the output; unpacking it may or may not have made a new array
        self.output: Any = layout.unpack(backend.guard(result.output))
        if not isinstance(self.output, PackedSequence):
            self.output = backend.freeze(self.output)
        self.h_n = backend.freeze(layout.unpack_state(result.h_n))
        self.c_n = backend.freeze(layout.unpack_state(result.c_n))
        self._wiring = wiring
        self._layout = layout
        self._tape = cast("StackTape", result.tape)
        self._shared = shared  # whether h_0, and c_0, were one vector for all

    def backward(
        self,
        grad_output: Any = None,
        grad_state: tuple[Array | None, Array | None] | None = None,
    ) -> LSTMGradients:
        """Backpropagate a loss through every step and layer (BPTT).

        May be called again, with the same or other arguments: the tape is not changed, and each call returns
        gradients of its own.

        Parameters
        ----------
        grad_output : Array or PackedSequence, shaped like ``output``, optional
            d loss / d output; zero where left out. What it holds past a sequence's end has no effect.
        grad_state : (grad_h_n, grad_c_n), optional
            d loss / d (h_n, c_n), shaped like them; zero where left out or None.

        Returns
        -------
        LSTMGradients
            ``input``, shaped like the input; ``h_0`` and ``c_0``, shaped like those of ``hx``, or like the
            final states where ``hx`` was left out; ``parameters``, by torch's names.

        Raises
        ------
        ShapeError, DTypeError, BackendError
            As the forward pass, for the gradients given.
        """
        wiring, layout = self._wiring, self._layout
        dtype = self.h_n.dtype
        grad_h_n, grad_c_n = check_pair("grad_state", ("grad_h_n", "grad_c_n"), grad_state)
        data = layout.data_of("grad_output", grad_output)
        arrays = given(grad_output=data, grad_h_n=grad_h_n, grad_c_n=grad_c_n)
        check_arrays("the LSTM", layout.backend, dtype, **arrays)
        grads = stack_backward(
            None if grad_output is None else layout.pack("grad_output", grad_output, wiring.output_axis),
            layout.pack_state("grad_h_n", grad_h_n, wiring.states, wiring.h_axis, dtype, shareable=False),
            layout.pack_state("grad_c_n", grad_c_n, wiring.states, wiring.c_axis, dtype, shareable=False),
            self._tape,
        )
        named: dict[str, Array] = {}
        for suffixes, directions in zip(wiring.suffixes, grads.params, strict=True):
            for suffix, params in zip(suffixes, directions, strict=True):
                named |= params.named(suffix)
        return LSTMGradients(
            input=layout.unpack(grads.x),
            h_0=layout.unpack_state_gradient(grads.h_0, shared=self._shared[0]),
            c_0=layout.unpack_state_gradient(grads.c_0, shared=self._shared[1]),
            parameters=Parameters(named, copy=False),
        )
