"""``LSTMCell``: one step at a time, as ``torch.nn.LSTMCell``."""

from typing import Any, NamedTuple

from nplstm._shapes import check_flag, check_pair, check_shape, check_size, given
from nplstm._typing import Array, DTypeLike
from nplstm.backends import Backend, check_arrays
from nplstm.core.cell_spec import CellSpec
from nplstm.core.masks import draw_masks, inference_masks, needed_generator
from nplstm.core.module import Module
from nplstm.core.packed import PackedSteps
from nplstm.core.params import Parameters
from nplstm.core.step import Recurrence, State
from nplstm.core.time_loop import SequenceTape, sequence_backward, sequence_forward
from nplstm.errors import ArgumentError, ShapeError
from nplstm.layers.options import parameter_specs
from nplstm.layers.spec import check_spec, gate_misfit

__all__ = ["LSTMCell", "LSTMCellGradients", "LSTMCellTape"]


class LSTMCellGradients(NamedTuple):
    """Gradients of a loss, each shaped like what it belongs to."""

    input: Array
    h_0: Array
    c_0: Array
    parameters: Parameters


class LSTMCell(Module):
    """One step of an LSTM: ``torch.nn.LSTMCell`` on NumPy and CuPy.

    The equations are those of ``LSTM`` without projection. Parameters, in gate order i, f, g, o:
    ``weight_ih`` (4H, I), ``weight_hh`` (4H, H), ``bias_ih`` and ``bias_hh`` (4H,), all from
    U(-1/sqrt(H), 1/sqrt(H)). What ``cell`` adds is told in ``CellSpec``.

    Parameters
    ----------
    input_size : int
        I, the width of the input.
    hidden_size : int
        H, the number of cells.
    bias : bool
        Whether there are biases.
    cell : CellSpec, optional
        Which member of the family. Dropout and zoneout act in ``record``; each call draws anew.
    recurrent_size : int, optional
        R, the width of what ``weight_hh`` (4H, R) reads; by default H. With another the caller makes r of h
        between calls, and gives it in the place of h.
    backend : {"numpy", "cupy"}
        Where the parameters live.
    dtype : {"float32", "float64"}; on CuPy also "float16"
        Element type of parameters, inputs and states.
    rng : int, numpy.random.Generator or None
        Where the initial parameters come from; None for fresh entropy.

    Raises
    ------
    ArgumentError, DTypeError, BackendUnavailableError
        As ``LSTM``.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> cell = nplstm.LSTMCell(10, 20, rng=0)
    >>> x = np.ones((6, 3, 10), dtype=np.float32)  # 6 steps of 3 sequences
    >>> state = None
    >>> for x_t in x:
    ...     state = cell(x_t, state)
    >>> h, c = state
    >>> h.shape, c.shape
    ((3, 20), (3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        cell: CellSpec | None = None,
        recurrent_size: int | None = None,
        backend: str = "numpy",
        dtype: DTypeLike = "float32",
        rng: Any = None,
    ) -> None:
        super().__init__(backend=backend, dtype=dtype)
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.bias = check_flag("bias", bias)
        self.cell = check_spec(cell, bias=self.bias)
        self.recurrent_size = (
            self.hidden_size if recurrent_size is None else check_size("recurrent_size", recurrent_size)
        )
        if self.cell.zoneout_h > 0 and self.recurrent_size != self.hidden_size:
            raise ArgumentError(
                f"zoneout_h={self.cell.zoneout_h} keeps h, which the cell does not get with "
                f"recurrent_size={self.recurrent_size} and hidden_size={self.hidden_size}"
            )
        self.reset_parameters(rng)

    def __repr__(self) -> str:
        given = "" if self.bias else ", bias=False"
        given += "" if self.cell == CellSpec() else f", cell={self.cell!r}"
        given += "" if self.recurrent_size == self.hidden_size else f", recurrent_size={self.recurrent_size}"
        return f"LSTMCell({self.input_size}, {self.hidden_size}{given}{self._placement()})"

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw all parameters anew, as ``cell`` says, with a seed or a NumPy generator."""
        H, R = self.hidden_size, self.recurrent_size
        self._draw_parameters(parameter_specs(self.cell, "", self.input_size, H, R, bias=self.bias), rng)

    def _misfit(self, name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
        return gate_misfit(self.cell, name, expected, got) or super()._misfit(name, expected, got)

    def __call__(self, input: Array, hx: tuple[Array | None, Array | None] | None = None) -> tuple[Array, Array]:
        """Take one step; nothing is stored.

        Parameters
        ----------
        input : Array, shape (B, I) or (I,)
            The input of this step.
        hx : (h, c), optional
            The state, shapes (B, H), or (H,): one vector for all. Zeros where left out or None. With another
            ``recurrent_size``, the recurrent input (B, R) in the place of h.

        Returns
        -------
        h, c : Array, shapes (B, H), or (H,) for an input (I,)
            The new state.

        Raises
        ------
        ShapeError, DTypeError, BackendError
            Name the argument, what was expected and what came.
        """
        state, _ = self._run(input, hx, rng=None, record=False)
        return (state.h, state.c) if input.ndim == 2 else (state.h[0], state.c[0])

    def record(
        self,
        input: Array,
        hx: tuple[Array | None, Array | None] | None = None,
        *,
        rng: Any = None,
        training: bool = True,
    ) -> "LSTMCellTape":
        """Take one step and keep what ``backward`` needs; arguments as for a plain call.

        Parameters
        ----------
        input, hx
            As for a plain call.
        rng : numpy.random.Generator (on CuPy also cupy.random.Generator)
            Where masks come from; needed where ``cell`` asks for any.
        training : bool
            False records what a plain call computes.

        Returns
        -------
        LSTMCellTape
            With ``h``, ``c`` and ``backward``.

        Raises
        ------
        ArgumentError
            If something has to be drawn and there is no generator; and whatever a plain call raises.
        """
        draws = self.cell.draws if check_flag("training", training) else {}
        state, tape = self._run(input, hx, rng=needed_generator(draws, rng), record=True)
        assert tape is not None
        ndims = tuple(input.ndim if state is None else state.ndim for state in hx or (None, None))
        return LSTMCellTape(self._backend, state, tape, (input.ndim, *ndims))

    def _run(self, input: Array, hx: Any, *, rng: Any, record: bool) -> tuple[State, SequenceTape | None]:
        """Run the time loop over one step."""
        h_0, c_0 = check_pair("hx", ("h", "c"), hx)
        weight = self._parameters["weight_ih"]
        arrays = given(h=h_0, c=c_0)
        check_arrays("the LSTMCell", self._backend, self._dtype, input=input, weight_ih=weight, **arrays)
        if input.ndim not in {1, 2}:
            raise ShapeError(f"input: expected shape (B, I={self.input_size}) or (I,), got {input.shape}")
        batch = [("B", None)] if input.ndim == 2 else []
        check_shape("input", input.shape, [*batch, ("I", self.input_size)])
        rows = input if input.ndim == 2 else input[None]
        B, H, R = len(rows), self.hidden_size, self.recurrent_size
        steps, params = PackedSteps.equal(1, B), self._parameters.grouped("")
        h = _full_state(self._backend, "h", h_0, (B, R), input, "H" if R == H else "R")
        c = _full_state(self._backend, "c", c_0, (B, H), input)
        masks = inference_masks(self.cell)
        if rng is not None:
            masks = draw_masks(self.cell, rng, params, steps, H, backend=self._backend, dtype=self._dtype)
        out = self._backend.xp.empty((B, H), dtype=self._dtype)
        r_0 = h if R != H else None
        initial = State(self._backend.xp.zeros((B, H), dtype=self._dtype) if R != H else h, c)
        recurrence = Recurrence(params, self.cell, masks, None, r_0)
        return sequence_forward(
            rows.copy() if record else rows, initial, recurrence, steps, out=out, record=record
        )


class LSTMCellTape:
    """One recorded step of an ``LSTMCell``, made by ``LSTMCell.record``.

    Attributes
    ----------
    h, c : Array
        The new state, as a plain call returns it; refuses to be written to (on NumPy).

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> cell = nplstm.LSTMCell(2, 3, rng=0)
    >>> tape = cell.record(np.ones((5, 2), dtype=np.float32))
    >>> grads = tape.backward(grad_h=np.ones_like(tape.h))
    >>> grads.input.shape, grads.c_0.shape
    ((5, 2), (5, 3))
    """

    def __init__(self, backend: Backend, state: State, tape: SequenceTape, ndims: tuple[int, ...]) -> None:
        self._backend = backend
        self._tape = tape
        self._shape: tuple[int, int] = (len(state.h), state.h.shape[1])
        self._ndims = ndims  # of the input, of h and of c, as the user gave them
        h, c = (state.h, state.c) if ndims[0] == 2 else (state.h[0], state.c[0])
        self.h, self.c = backend.freeze(h), backend.freeze(c)

    def backward(self, grad_h: Array | None = None, grad_c: Array | None = None) -> LSTMCellGradients:
        """Backpropagate a loss through the step; may be called again.

        Parameters
        ----------
        grad_h, grad_c : Array, shaped like ``h`` and ``c``, optional
            d loss / d h and d loss / d c; zero where left out.

        Returns
        -------
        LSTMCellGradients
            ``input``, ``h_0`` and ``c_0`` shaped like the arguments; ``parameters`` by torch's names.

        Raises
        ------
        ShapeError, DTypeError, BackendError
            Name the argument, what was expected and what came.
        """
        check_arrays("the LSTMCell", self._backend, self.h.dtype, **given(grad_h=grad_h, grad_c=grad_c))
        shape = self._shape
        for argument, grad in (("grad_h", grad_h), ("grad_c", grad_c)):
            if grad is not None:
                batch = [("B", shape[0])] if self._ndims[0] == 2 else []
                check_shape(argument, grad.shape, [*batch, ("H", shape[1])])
        grads = sequence_backward(
            None,
            State(
                _full_state(self._backend, "grad_h", grad_h, shape, self.h),
                _full_state(self._backend, "grad_c", grad_c, shape, self.h),
            ),
            self._tape,
        )
        first = grads.state.h if grads.r_0 is None else grads.r_0
        x, h_0, c_0 = (
            grad if ndim == 2 else grad.sum(axis=0)  # a vector served all sequences
            for grad, ndim in zip((grads.x, first, grads.state.c), self._ndims, strict=True)
        )
        return LSTMCellGradients(x, h_0, c_0, Parameters(grads.params.named(), copy=False))


def _full_state(
    backend: Backend, argument: str, state: Array | None, shape: tuple[int, int], x: Array, axis: str = "H"
) -> Array:
    """Return a state as a new (B, width) array: zeros for None, a vector (width,) for all sequences."""
    if state is None:
        return backend.xp.zeros(shape, dtype=x.dtype)
    batched = x.ndim == 2 and state.ndim == 2
    check_shape(argument, state.shape, [("B", shape[0]), (axis, shape[1])] if batched else [(axis, shape[1])])
    return backend.xp.broadcast_to(state, shape).copy()
