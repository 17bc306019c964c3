"""``LSTMCell``: one step at a time, as ``torch.nn.LSTMCell``."""

from typing import Any, NamedTuple

from nplstm._shapes import check_flag, check_pair, check_shape, check_size, given
from nplstm._typing import Array, DTypeLike
from nplstm.backends import Backend, check_arrays
from nplstm.errors import ShapeError
from nplstm.module import Module
from nplstm.params import LSTMParams, Parameters
from nplstm.sequence import SequenceTape, sequence_backward, sequence_forward
from nplstm.steps import Steps

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
    U(-1/sqrt(H), 1/sqrt(H)).

    Parameters
    ----------
    input_size : int
        I, the width of the input.
    hidden_size : int
        H, the number of cells.
    bias : bool
        Whether there are biases.
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
        backend: str = "numpy",
        dtype: DTypeLike = "float32",
        rng: Any = None,
    ) -> None:
        super().__init__(backend=backend, dtype=dtype)
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.bias = check_flag("bias", bias)
        self.reset_parameters(rng)

    def __repr__(self) -> str:
        bias = "" if self.bias else ", bias=False"
        return f"LSTMCell({self.input_size}, {self.hidden_size}{bias}{self._placement()})"

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw all parameters anew from U(-1/sqrt(H), 1/sqrt(H)), with a seed or a NumPy generator."""
        rows = 4 * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self.input_size),
            "weight_hh": (rows, self.hidden_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        self._draw_parameters(shapes, self.hidden_size**-0.5, rng)

    def __call__(self, input: Array, hx: tuple[Array | None, Array | None] | None = None) -> tuple[Array, Array]:
        """Take one step; nothing is stored.

        Parameters
        ----------
        input : Array, shape (B, I) or (I,)
            The input of this step.
        hx : (h, c), optional
            The state, shapes (B, H), or (H,): one vector for all. Zeros where left out or None.

        Returns
        -------
        h, c : Array, shapes (B, H), or (H,) for an input (I,)
            The new state.

        Raises
        ------
        ShapeError, DTypeError, BackendError
            Name the argument, what was expected and what came.
        """
        h, c, _ = self._run(input, hx, record=False)
        return (h, c) if input.ndim == 2 else (h[0], c[0])

    def record(self, input: Array, hx: tuple[Array | None, Array | None] | None = None) -> "LSTMCellTape":
        """Take one step and keep what ``backward`` needs; arguments as for a plain call.

        Returns
        -------
        LSTMCellTape
            With ``h``, ``c`` and ``backward``.
        """
        h, c, tape = self._run(input, hx, record=True)
        assert tape is not None
        ndims = tuple(input.ndim if state is None else state.ndim for state in hx or (None, None))
        return LSTMCellTape(self._backend, h, c, tape, (input.ndim, *ndims))

    def _run(self, input: Array, hx: Any, *, record: bool) -> tuple[Array, Array, SequenceTape | None]:
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
        B, H = len(rows), self.hidden_size
        return sequence_forward(
            rows.copy() if record else rows,
            _full_state(self._backend, "h", h_0, (B, H), input),
            _full_state(self._backend, "c", c_0, (B, H), input),
            LSTMParams.from_named(self._parameters),
            Steps.equal(1, B),
            out=self._backend.xp.empty((B, H), dtype=self._dtype),
            record=record,
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

    def __init__(self, backend: Backend, h: Array, c: Array, tape: SequenceTape, ndims: tuple[int, ...]) -> None:
        self._backend = backend
        self._tape = tape
        self._ndims = ndims  # of the input, of h and of c, as the user gave them
        state = (h, c) if ndims[0] == 2 else (h[0], c[0])
        self.h, self.c = backend.freeze(state[0]), backend.freeze(state[1])

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
        shape = self._tape.h.shape
        for argument, grad in (("grad_h", grad_h), ("grad_c", grad_c)):
            if grad is not None:
                batch = [("B", shape[0])] if self._ndims[0] == 2 else []
                check_shape(argument, grad.shape, [*batch, ("H", shape[1])])
        grads = sequence_backward(
            None,
            _full_state(self._backend, "grad_h", grad_h, shape, self.h),
            _full_state(self._backend, "grad_c", grad_c, shape, self.h),
            self._tape,
        )
        x, h_0, c_0 = (
            grad if ndim == 2 else grad.sum(axis=0)  # a vector served all sequences
            for grad, ndim in zip((grads.x, grads.h_0, grads.c_0), self._ndims, strict=True)
        )
        return LSTMCellGradients(x, h_0, c_0, Parameters(grads.params.named(), copy=False))


def _full_state(backend: Backend, argument: str, state: Array | None, shape: tuple[int, int], x: Array) -> Array:
    """Return a state as a new (B, H) array: zeros for None, a vector (H,) for all sequences."""
    if state is None:
        return backend.xp.zeros(shape, dtype=x.dtype)
    batched = x.ndim == 2 and state.ndim == 2
    check_shape(argument, state.shape, [("B", shape[0]), ("H", shape[1])] if batched else [("H", shape[1])])
    return backend.xp.broadcast_to(state, shape).copy()
