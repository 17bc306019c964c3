"""``LSTM``: whole sequences through a stack of layers."""

import warnings
from typing import Any

from nplstm._shapes import check_flag, check_number, check_pair, check_size, given
from nplstm._typing import Array, DTypeLike
from nplstm.backends import check_arrays
from nplstm.errors import ArgumentError
from nplstm.layers.layout import Layout, find_layout
from nplstm.layers.stack import StackOutput, StackParams, stack_forward
from nplstm.layers.tape import LSTMTape, Wiring
from nplstm.module import Module
from nplstm.ops.dropout import dropout_mask
from nplstm.packing import PackedSequence
from nplstm.params import LSTMParams

__all__ = ["LSTM"]


class LSTM(Module):
    """A stack of long short-term memory layers: ``torch.nn.LSTM`` on NumPy and CuPy.

    Each layer computes, for each step t of each sequence::

        i_t = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)
        f_t = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf)
        g_t =    tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
        o_t = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho)
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)                 (with proj_size: h_t = W_hr (o_t * tanh(c_t)))

    The names, shapes and gate order (i, f, g, o) of the parameters are torch's: for layer k, ``weight_ih_l{k}``
    (4H, I), from the second layer on (4H, D * P); ``weight_hh_l{k}`` (4H, P); ``bias_ih_l{k}`` and
    ``bias_hh_l{k}`` (4H,); with ``proj_size`` ``weight_hr_l{k}`` (P, H); and the same with ``_reverse`` for the
    second direction. All start from U(-1/sqrt(H), 1/sqrt(H)).

    Parameters
    ----------
    input_size : int
        I, the width of the input.
    hidden_size : int
        H, the number of cells of a layer.
    num_layers : int
        L.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether input and output are (B, T, ...) instead of (T, B, ...). States are (L * D, B, ...) either way.
    dropout : float in [0, 1]
        Probability of zeroing an output between layers. Acts in ``record`` only, never in a plain call.
    bidirectional : bool
        Whether a second direction (D = 2) reads the sequence from its end.
    proj_size : int
        P, the width of h, less than H; 0 for no projection (P = H).
    backend : {"numpy", "cupy"}
        Where the parameters live.
    dtype : {"float32", "float64"}; on CuPy also "float16"
        Element type of parameters, inputs and outputs.
    rng : int, numpy.random.Generator or None
        Where the initial parameters come from; None for fresh entropy.

    Raises
    ------
    ArgumentError
        For an option without meaning: a size below 1, dropout outside [0, 1], proj_size >= hidden_size.
    DTypeError
        If the backend has no such element type.
    BackendUnavailableError
        If CuPy is not installed, or finds no GPU.

    References
    ----------
    Hochreiter & Schmidhuber, "Long short-term memory", 1997; Gers et al., "Learning to forget", 2000 (the
    forget gate); Sak et al., arXiv:1402.1128, 2014 (the projection).

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> lstm = nplstm.LSTM(10, 20, num_layers=2, bidirectional=True, rng=0)
    >>> x = np.ones((5, 3, 10), dtype=np.float32)  # T=5 steps of B=3 sequences
    >>> output, (h_n, c_n) = lstm(x)
    >>> output.shape, h_n.shape, c_n.shape
    ((5, 3, 40), (4, 3, 20), (4, 3, 20))

    Training: record the forward pass, then ask its tape for gradients.

    >>> tape = lstm.record(x)
    >>> grads = tape.backward(np.ones_like(tape.output))
    >>> grads.input.shape, grads.parameters["weight_ih_l0"].shape
    ((5, 3, 10), (80, 10))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        backend: str = "numpy",
        dtype: DTypeLike = "float32",
        rng: Any = None,
    ) -> None:
        super().__init__(backend=backend, dtype=dtype)
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.bias = check_flag("bias", bias)
        self.batch_first = check_flag("batch_first", batch_first)
        self.dropout = check_number("dropout", dropout, minimum=0.0, maximum=1.0)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.proj_size = check_size("proj_size", proj_size, minimum=0)
        if self.proj_size >= self.hidden_size:
            raise ArgumentError(
                f"proj_size: expected less than hidden_size={self.hidden_size} (0 for none), got {proj_size}"
            )
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout={self.dropout} acts between layers, and num_layers=1 has no such place",
                stacklevel=2,
            )
        directions = ("", "_reverse") if self.bidirectional else ("",)
        self._wiring = Wiring(
            suffixes=[[f"_l{layer}{d}" for d in directions] for layer in range(self.num_layers)],
            h_axis=("P", self.proj_size) if self.proj_size else ("H", self.hidden_size),
            c_axis=("H", self.hidden_size),
        )
        self.reset_parameters(rng)

    def __repr__(self) -> str:
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        usual["proj_size"] = 0
        given = [f", {name}={getattr(self, name)!r}" for name in usual if getattr(self, name) != usual[name]]
        return f"LSTM({self.input_size}, {self.hidden_size}{''.join(given)}{self._placement()})"

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw all parameters anew from U(-1/sqrt(H), 1/sqrt(H)), with a seed or a NumPy generator."""
        shapes = {name: shape for layer in range(self.num_layers) for name, shape in self._shapes(layer)}
        self._draw_parameters(shapes, self.hidden_size**-0.5, rng)

    def _shapes(self, layer: int) -> list[tuple[str, tuple[int, ...]]]:
        H, P = self.hidden_size, self.proj_size or self.hidden_size
        suffixes = self._wiring.suffixes[layer]
        width = self.input_size if layer == 0 else len(suffixes) * P
        shapes: list[tuple[str, tuple[int, ...]]] = []
        for suffix in suffixes:
            shapes += [("weight_ih" + suffix, (4 * H, width)), ("weight_hh" + suffix, (4 * H, P))]
            if self.bias:
                shapes += [("bias_ih" + suffix, (4 * H,)), ("bias_hh" + suffix, (4 * H,))]
            if self.proj_size:
                shapes += [("weight_hr" + suffix, (P, H))]
        return shapes

    def _stack_params(self) -> StackParams:
        return [
            tuple(LSTMParams.from_named(self._parameters, suffix) for suffix in layer)
            for layer in self._wiring.suffixes
        ]

    def __call__(
        self, input: Any, hx: tuple[Array | None, Array | None] | None = None, *, lengths: Any = None
    ) -> tuple[Any, tuple[Array, Array]]:
        """Run the layers; nothing is stored, and there is no dropout.

        Parameters
        ----------
        input : Array, shape (T, B, I), or (B, T, I) with ``batch_first``, or (T, I); or PackedSequence
            T is at least 1; B may be 0.
        hx : (h_0, c_0), optional
            Initial states, shapes (L * D, B, P) and (L * D, B, H), without B for an unbatched input; or (P,)
            and (H,), one vector for all. Zeros where left out or None. State ``layer * D + direction`` is first.
        lengths : sequence of B integers in [0, T], optional
            For a padded batch, each sequence's own length, in any order. What lies past a sequence's end is not
            read, the output there is zero, and its final state is the one at its own end: for length 0, the
            initial state.

        Returns
        -------
        output : Array, shape (T, B, D * P), or (B, T, D * P), or (T, D * P); or PackedSequence
            h_t of the last layer, both directions side by side.
        (h_n, c_n) : Arrays, shapes (L * D, B, P) and (L * D, B, H); unbatched, without B
            Final states. For the reverse direction that is the state at the sequence's start.

        Raises
        ------
        ShapeError
            Names the argument, the axes expected and the shape that came.
        DTypeError
            If an array's element type is not the layer's, or lengths are not integers.
        BackendError
            If an array is not on the layer's backend.
        ArgumentError
            If a length is outside [0, T], or lengths are given for a PackedSequence or an unbatched input.
        """
        layout, result = self._run(input, hx, lengths, mask_rng=None, record=False)
        return layout.unpack(result.output), (
            layout.unpack_state(result.h_n),
            layout.unpack_state(result.c_n),
        )

    def record(
        self,
        input: Any,
        hx: tuple[Array | None, Array | None] | None = None,
        *,
        lengths: Any = None,
        rng: Any = None,
        training: bool = True,
    ) -> "LSTMTape":
        """Run the layers and keep what ``backward`` needs. Dropout acts here.

        Parameters
        ----------
        input, hx, lengths
            As for a plain call. The input is copied: the caller may reuse its memory.
        rng : numpy.random.Generator (on CuPy also cupy.random.Generator)
            Where the dropout masks come from; needed where dropout acts. A fresh mask is drawn at each call.
        training : bool
            False records without dropout.

        Returns
        -------
        LSTMTape
            With ``output``, ``h_n``, ``c_n`` and ``backward``; independent of all other tapes and of what
            happens to the layer later.

        Raises
        ------
        ArgumentError
            If dropout acts and there is no generator; and whatever a plain call raises.
        """
        acts = check_flag("training", training) and self.dropout > 0 and self.num_layers > 1
        if acts and rng is None:
            raise ArgumentError(
                f"rng: dropout={self.dropout} draws masks: pass a generator, "
                f"rng=numpy.random.default_rng(seed), or training=False"
            )
        layout, result = self._run(input, hx, lengths, mask_rng=rng if acts else None, record=True)
        shared = [state is not None and state.ndim == 1 for state in hx or (None, None)]
        return LSTMTape(self._wiring, layout, result, shared)

    def _run(
        self, input: Any, hx: Any, lengths: Any, *, mask_rng: Any, record: bool
    ) -> tuple[Layout, StackOutput]:
        """Bring the input into the packed layout and run the stack, with dropout if there is a generator."""
        wiring, backend, dtype = self._wiring, self._backend, self._dtype
        h_0, c_0 = check_pair("hx", ("h_0", "c_0"), hx)
        data = input.data if isinstance(input, PackedSequence) else input
        weight = self._parameters["weight_ih_l0"]
        check_arrays("the LSTM", backend, dtype, input=data, weight_ih_l0=weight, **given(h_0=h_0, c_0=c_0))
        layout = find_layout(
            input, lengths, input_size=self.input_size, batch_first=self.batch_first, backend=backend
        )
        rows = layout.pack("input", input, ("I", self.input_size), keep=record)
        masks = [self._mask(mask_rng, len(rows)) for _ in wiring.suffixes[1:]]
        result = stack_forward(
            rows,
            layout.pack_state("h_0", h_0, wiring.states, wiring.h_axis, dtype, shareable=True),
            layout.pack_state("c_0", c_0, wiring.states, wiring.c_axis, dtype, shareable=True),
            self._stack_params(),
            layout.steps,
            masks=masks,
            record=record,
        )
        return layout, result

    def _mask(self, rng: Any, rows: int) -> Array | None:
        if rng is None:
            return None
        shape = (rows, self._wiring.output_axis[1] or 0)
        return dropout_mask(self._backend, rng, shape, self._dtype, self.dropout)
