"""``LSTM``: whole sequences through a stack of layers."""

import warnings
from typing import Any

from nplstm._shapes import check_flag, check_number, check_size
from nplstm._typing import DTypeLike
from nplstm.core.cell_spec import CellSpec
from nplstm.core.hidden_transform import check_transform
from nplstm.layers.forward import Layer
from nplstm.layers.options import DEFAULTS, build_structure, check_combinations
from nplstm.layers.recurrent import Recurrent
from nplstm.layers.spec import check_spec, gate_misfit

__all__ = ["LSTM"]


class LSTM(Recurrent):
    """A stack of long short-term memory layers: ``torch.nn.LSTM`` on NumPy and CuPy.

    Each layer computes, for each step t of each sequence::

        i_t = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)
        f_t = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf)
        g_t =    tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
        o_t = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho)
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)                 (with proj_size: h_t = W_hr (o_t * tanh(c_t)))

    The names, shapes and gate order (i, f, g, o) of the parameters are torch's: for layer k,
    ``weight_ih_l{k}`` (4H, I), from the second layer on (4H, D * P); ``weight_hh_l{k}`` (4H, P);
    ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (4H,); with ``proj_size`` ``weight_hr_l{k}`` (P, H); and the same
    with ``_reverse`` for the second direction. All start from U(-1/sqrt(H), 1/sqrt(H)). What ``cell`` and
    ``hidden_transform`` add is told there.

    Parameters
    ----------
    input_size : int
        I, the width of the input.
    hidden_size : int, or tuple of num_layers ints
        H, the number of cells of a layer; a tuple gives each layer its own, and states are tuples then.
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
    cell : CellSpec, optional
        Which member of the family: peepholes, coupled gates, activations, clipping, layer normalisation,
        recurrent and input dropout, zoneout, weight dropout, initialisers. By default the equations above.
    recurrent_size : int, optional
        R, the width of what ``weight_hh`` (4H, R) reads; by default P, or what ``hidden_transform`` makes.
        With another R and no transform the layer runs one step at a time: the caller makes r_t and gives it in
        the place of h_0.
    hidden_transform : HiddenTransform, optional
        Makes the recurrent input of h between steps; see ``HiddenTransform``.
    stacking : {"concat", "independent"}
        Whether a layer reads both directions of the layer below (torch), or two columns never mix; their
        states stand in the order of all forward layers, then all backward ones.
    merge : {"concat", "sum", "mean", "product", "none"}
        What becomes of the last layer's two directions; "none" returns both.
    residual : bool, or tuple of layers
        Whether layers add their input, as it is before dropout, to their output: all but the first, or those
        named. The last layer does so before its directions are merged.
    reverse : bool
        Run the one direction there is from each sequence's end to its start.
    output_order : {"time", "processing"}
        With ``reverse``: whether the output stands where its input stands, or begins with the step that was
        processed first (Keras's ``go_backwards``).
    backend : {"numpy", "cupy"}
        Where the parameters live.
    dtype : {"float32", "float64"}; on CuPy also "float16"
        Element type of parameters, inputs and outputs.
    rng : int, numpy.random.Generator or None
        Where the initial parameters come from; None for fresh entropy.

    Raises
    ------
    ArgumentError
        For an option without meaning: a size below 1, dropout outside [0, 1], proj_size >= hidden_size; and
        for options that have none together.
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
        hidden_size: int | tuple[int, ...],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        cell: CellSpec | None = None,
        recurrent_size: int | None = None,
        hidden_transform: Any = None,
        stacking: str = "concat",
        merge: str = "concat",
        residual: bool | tuple[int, ...] = False,
        reverse: bool = False,
        output_order: str = "time",
        backend: str = "numpy",
        dtype: DTypeLike = "float32",
        rng: Any = None,
    ) -> None:
        super().__init__(backend=backend, dtype=dtype)
        self.bias = check_flag("bias", bias)
        self.cell = check_spec(cell, bias=self.bias)
        self.batch_first = check_flag("batch_first", batch_first)
        self.dropout = check_number("dropout", dropout, minimum=0.0, maximum=1.0)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.proj_size = check_size("proj_size", proj_size, minimum=0)
        if hidden_transform is not None:
            check_transform(hidden_transform)
        self.hidden_transform = hidden_transform
        self._structure = build_structure(
            input_size,
            hidden_size,
            num_layers,
            bidirectional=self.bidirectional,
            proj_size=self.proj_size,
            recurrent_size=recurrent_size,
            transform=hidden_transform,
            stacking=stacking,
            merge=merge,
            residual=residual,
            reverse=reverse,
        )
        structure = self._structure
        self.input_size, self.num_layers = structure.input_size, structure.layers
        self.hidden_size: Any = structure.hidden_sizes if structure.by_layer else structure.hidden_sizes[0]
        self.recurrent_size: Any = (
            structure.recurrent_sizes if structure.by_layer else structure.recurrent_sizes[0]
        )
        # what has to be given again to make the same layer; None where it follows from the other options
        implied = recurrent_size is None or (hidden_transform is None and not structure.steps_outside)
        self.recurrent_given = None if implied else structure.recurrent_sizes[0]
        self.stacking, self.merge, self.reverse = stacking, merge, structure.wiring.directions == (True,)
        self.residual = tuple(sorted(structure.wiring.residual)) or False
        self.output_order = output_order
        check_combinations(structure, self.cell, output_order)
        if residual is True and self.num_layers == 1:
            warnings.warn("residual=True leaves out the first layer, and num_layers=1 has no other", stacklevel=2)
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout={self.dropout} acts between layers, and num_layers=1 has no such place",
                stacklevel=2,
            )
        self.reset_parameters(rng)

    def _layer(self) -> Layer:
        """Return all that a pass needs to know."""
        flipped = self.output_order == "processing"
        options = (self.cell, self.hidden_transform, self.dropout, self.batch_first, flipped)
        return Layer(self._structure, self._parameters, *options, self._backend, self._dtype)

    def __repr__(self) -> str:
        given = [f", {name}={getattr(self, name)!r}" for name in DEFAULTS if getattr(self, name) != DEFAULTS[name]]
        if self.recurrent_given is not None:
            given.append(f", recurrent_size={self.recurrent_given}")
        return f"LSTM({self.input_size}, {self.hidden_size}{''.join(given)}{self._placement()})"

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw all parameters anew, as ``cell`` says, with a seed or a NumPy generator."""
        structure = self._structure
        starts = {
            name: start
            for layer in range(structure.layers)
            for d in range(structure.directions)
            for name, start in structure.starts(layer, d, self.cell, self.hidden_transform, bias=self.bias).items()
        }
        self._draw_parameters(starts, rng)

    def _misfit(self, name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
        return gate_misfit(self.cell, name, expected, got) or super()._misfit(name, expected, got)
