"""``LSTMCell``: one step at a time, as ``torch.nn.LSTMCell``."""

from typing import Any, NamedTuple

from nplstm._shapes import Axis, check_flag, check_shape
from nplstm._typing import Array, DTypeLike
from nplstm.backends import check_arrays
from nplstm.batch.choose_layout import NO_OPTIONS
from nplstm.core.cell_spec import CellSpec
from nplstm.core.masks import needed_generator
from nplstm.core.params import Parameters
from nplstm.core.step import State
from nplstm.errors import ShapeError
from nplstm.layers.check_options import cell_options
from nplstm.layers.forward import Pass, RecurrentLayer
from nplstm.layers.options import OptionAttribute, Options
from nplstm.layers.tape import LSTMTape

__all__ = ["LSTMCell", "LSTMCellGradients", "LSTMCellTape"]


class LSTMCellGradients(NamedTuple):
    """Gradients of a loss, each shaped like what it belongs to."""

    input: Array
    h_0: Array
    c_0: Array
    parameters: Parameters


class LSTMCell(RecurrentLayer):
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

    _arguments = "input_size", "hidden_size", "bias", "cell", "recurrent_size"

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
        options = cell_options(input_size, hidden_size, bias=bias, cell=cell, recurrent_size=recurrent_size)
        super().__init__(options, backend=backend, dtype=dtype, rng=rng)

    input_size = OptionAttribute(lambda o: o.input_size, "I, the width of the input.")
    hidden_size = OptionAttribute(lambda o: o.hidden_sizes[0], "H, the number of cells.")
    recurrent_size = OptionAttribute(lambda o: o.recurrent_sizes[0], "R, the width of what ``weight_hh`` reads.")
    bias = OptionAttribute(lambda o: o.bias, "Whether there are biases.")
    cell = OptionAttribute(lambda o: o.cell, "Which member of the family.")

    def _options_of(self, state: dict[str, Any]) -> Options:
        return cell_options(**{name: state[name] for name in self._arguments})

    def __repr__(self) -> str:
        shown = "" if self.bias else ", bias=False"
        shown += "" if self.cell == CellSpec() else f", cell={self.cell!r}"
        shown += "" if self.recurrent_size == self.hidden_size else f", recurrent_size={self.recurrent_size}"
        return f"LSTMCell({self.input_size}, {self.hidden_size}{shown}{self._placement()})"

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

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> h, c = nplstm.LSTMCell(2, 3, rng=0)(np.ones((5, 2), dtype=np.float32))
        >>> h.shape, c.shape
        ((5, 3), (5, 3))
        """
        done, final = self._step(input, hx)
        return done.states(final)  # pyright: ignore[reportReturnType]

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

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> cell = nplstm.LSTMCell(2, 3, cell=nplstm.CellSpec(zoneout_h=0.1), rng=0)
        >>> tape = cell.record(np.ones((5, 2), dtype=np.float32), rng=np.random.default_rng(0))
        >>> tape.h.shape
        (5, 3)
        """
        generator = needed_generator(self._options.draws if check_flag("training", training) else {}, rng)
        return LSTMCellTape(LSTMTape(*self._step(input, hx, rng=generator, record=True)))

    def _step(self, input: Any, hx: Any, *, rng: Any = None, record: bool = False) -> tuple[Pass, State]:
        """Take a call of one step."""
        check_arrays(self._options.owner, self._backend, self._dtype, input=input)
        if input.ndim not in {1, 2}:
            raise ShapeError(f"input: expected shape (B, I={self.input_size}) or (I,), got {input.shape}")
        if input.shape[-1] != self._options.input_size:
            batch: list[Axis] = [("B", None)] if input.ndim == 2 else []
            check_shape("input", input.shape, [*batch, ("I", self.input_size)])
        return self._forward(input[None], hx, NO_OPTIONS, rng=rng, record=record)


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

    def __init__(self, tape: LSTMTape) -> None:
        self._tape = tape
        self.h, self.c = tape.h_n, tape.c_n

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

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> tape = nplstm.LSTMCell(2, 3, rng=0).record(np.ones((5, 2), dtype=np.float32))
        >>> grads = tape.backward(np.ones_like(tape.h))
        >>> grads.h_0.shape, grads.parameters["weight_ih"].shape
        ((5, 3), (12, 2))
        """
        grads = self._tape.backward(None, (grad_h, grad_c))
        return LSTMCellGradients(grads.input[0], grads.h_0, grads.c_0, grads.parameters)
