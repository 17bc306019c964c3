"""``LSTM``: whole sequences through a stack of layers."""

import warnings
from dataclasses import replace
from typing import Any

from nplstm._shapes import check_flag, check_number, check_size
from nplstm._typing import DTypeLike
from nplstm.batch.choose_layout import call_options
from nplstm.core.cell_spec import CellSpec
from nplstm.core.hidden_transform import has_backward
from nplstm.core.masks import needed_generator
from nplstm.engines import EngineChoice, explain_engine
from nplstm.errors import ArgumentError
from nplstm.layers.check_options import lstm_options
from nplstm.layers.forward import RecurrentLayer
from nplstm.layers.options import DEFAULTS, OptionAttribute, Options
from nplstm.layers.stream import Stream, check_streams
from nplstm.layers.tape import LSTMTape

__all__ = ["LSTM"]


class LSTM(RecurrentLayer):
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

    _arguments = "input_size", "hidden_size", *DEFAULTS

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
        options = lstm_options(
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
            cell=cell,
            recurrent_size=recurrent_size,
            hidden_transform=hidden_transform,
            stacking=stacking,
            merge=merge,
            residual=residual,
            reverse=reverse,
            output_order=output_order,
        )
        # what has to be given again to make the same layer; None where it follows from the other options
        implied = recurrent_size is None or (hidden_transform is None and not options.steps_outside)
        self.recurrent_given = None if implied else options.recurrent_sizes[0]
        super().__init__(options, backend=backend, dtype=dtype, rng=rng)
        if residual is True and options.layers == 1:
            warnings.warn("residual=True leaves out the first layer, and num_layers=1 has no other", stacklevel=2)
        if options.dropout > 0 and options.layers == 1:
            warnings.warn(
                f"dropout={options.dropout} acts between layers, and num_layers=1 has no such place",
                stacklevel=2,
            )

    def _options_of(self, state: dict[str, Any]) -> Options:
        arguments = {name: state[name] for name in self._arguments}
        return lstm_options(**arguments, recurrent_size=state["recurrent_given"])

    def __repr__(self) -> str:
        shown = [f", {name}={getattr(self, name)!r}" for name in DEFAULTS if getattr(self, name) != DEFAULTS[name]]
        if self.recurrent_given is not None:
            shown.append(f", recurrent_size={self.recurrent_given}")
        return f"LSTM({self.input_size}, {self.hidden_size}{''.join(shown)}{self._placement()})"

    def __call__(
        self,
        input: Any,
        hx: tuple[Any, ...] | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        masked_output: str = "repeat",
        reset: Any = None,
        reset_to: str = "zero",
        context: Any = None,
    ) -> tuple[Any, tuple[Any, ...]]:
        """Run the layers; nothing is stored, and nothing is drawn.

        There is no dropout, and zoneout blends by its probability.

        Parameters
        ----------
        input : Array, shape (T, B, I), or (B, T, I) with ``batch_first``, or (T, I); or PackedSequence
            T is at least 1; B may be 0.
        hx : (h_0, c_0), optional
            Initial states, shapes (L * D, B, P) and (L * D, B, H), without B for an unbatched input; or (P,)
            and (H,), one vector for all. Zeros where left out or None. State ``layer * D + direction`` is
            first; with ``stacking="independent"`` state ``direction * L + layer``. With a tuple for
            ``hidden_size``, tuples of L arrays (D, B, H_l). In the place of h_0 the recurrent input may be
            given, R wide: what the first step reads, as it is. A hidden transform's own state may be the third
            member.
        lengths : sequence of B integers in [0, T], optional
            For a padded batch, each sequence's own length, in any order. What lies past a sequence's end is not
            read, the output there is zero, and its final state is the one at its own end: for length 0, the
            initial state.
        mask : booleans on the host, shape (T, B), or (B, T) with ``batch_first``, or (T,), optional
            False at steps that are left out, anywhere: nothing is read there, and the state is carried over.
        masked_output : {"repeat", "zero"}
            What the output is at these: the output before, in the order of processing, and at the start the
            initial h (Keras); or zero.
        reset : booleans on the host, shaped like ``mask``, optional
            True where a new episode begins: the state is put back before that step. For the reverse direction
            the boundary is the same: its state is put back after that step, before the one before it.
        reset_to : {"zero", "initial"}
            Whether the state is put back to zero or to its initial value.
        context : mapping of name to Array, or Array
            What the hidden transform reads.

        Returns
        -------
        output : Array, shape (T, B, D * P), or (B, T, D * P), or (T, D * P); or PackedSequence
            h_t of the last layer, both directions side by side or as ``merge`` says.
        (h_n, c_n) : Arrays, shapes (L * D, B, P) and (L * D, B, H); unbatched, without B
            Final states. For the reverse direction that is the state at the sequence's start. A hidden
            transform's own state follows as the third member.

        Raises
        ------
        ShapeError
            Names the argument, the axes expected and the shape that came.
        DTypeError
            If an array's element type is not the layer's, or lengths are not integers.
        BackendError
            If an array is not on the layer's backend.
        ArgumentError
            If a length is outside [0, T], or two arguments have no meaning together.
        DeviceError
            If a kernel on a GPU has no room to run, or one before it gave up.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> lstm, x = nplstm.LSTM(2, 3, rng=0), np.ones((4, 2, 2), dtype=np.float32)
        >>> output, (h_n, c_n) = lstm(x, lengths=[4, 1])
        >>> output.shape, h_n.shape
        ((4, 2, 3), (1, 2, 3))
        >>> following, state = lstm(x, (h_n, c_n))  # continue from the final states
        """
        call = call_options(lengths, mask, masked_output, reset, reset_to)
        done, final = self._forward(input, hx, call, context)
        return done.output(), done.states(final)

    def record(
        self,
        input: Any,
        hx: tuple[Any, ...] | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        masked_output: str = "repeat",
        reset: Any = None,
        reset_to: str = "zero",
        context: Any = None,
        rng: Any = None,
        training: bool = True,
        checkpoint_every: int | None = None,
    ) -> LSTMTape:
        """Run the layers and keep what ``backward`` needs. Dropout and zoneout act here.

        Parameters
        ----------
        input, hx, lengths, mask, masked_output, reset, reset_to, context
            As for a plain call. What is given is copied: the caller may reuse its memory.
        rng : numpy.random.Generator (on CuPy also cupy.random.Generator)
            Where the masks come from; needed where there are any. Fresh ones are drawn at each call.
        training : bool
            False records what a plain call computes.
        checkpoint_every : int, optional
            Keep the states of every so many steps alone, and compute the rest again in ``backward``: less memory
            for a second forward pass. About the square root of T keeps least. Gradients are summed up over time in
            another order: they differ from those without it by a few roundings (measured: 1e-14 of the largest in
            float64), and on the compiled engine the results of the forward pass do not.

        Returns
        -------
        LSTMTape
            With ``output``, ``h_n``, ``c_n`` and ``backward``; independent of all other tapes and of what
            happens to the layer later.

        Raises
        ------
        ArgumentError
            If something has to be drawn and there is no generator, if the hidden transform has no backward, and
            whatever a plain call raises.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> lstm = nplstm.LSTM(2, 3, num_layers=2, dropout=0.5, rng=0)
        >>> tape = lstm.record(np.ones((4, 1, 2), dtype=np.float32), rng=np.random.default_rng(0))
        >>> tape.output.shape
        (4, 1, 3)
        >>> sorted(tape.backward(np.ones_like(tape.output)).parameters)[:2]
        ['bias_hh_l0', 'bias_hh_l1']
        """
        options = self._options
        generator = needed_generator(options.draws if check_flag("training", training) else {}, rng)
        if options.transform is not None and not has_backward(options.transform):
            raise ArgumentError(
                f"hidden_transform: {type(options.transform).__name__} has no backward: it is good for "
                f"plain calls, and cannot be recorded"
            )
        every = None if checkpoint_every is None else check_size("checkpoint_every", checkpoint_every)
        call = call_options(lengths, mask, masked_output, reset, reset_to)
        return LSTMTape(*self._forward(input, hx, call, context, rng=generator, record=True, every=every))

    def stream(self, batch_size: int | None = None, hx: Any = None) -> Stream:
        """Return the layer in real time: one step a call, with the state kept.

        Parameters
        ----------
        batch_size : int, optional
            B, the sequences side by side; None for one without a batch axis.
        hx : (h_0, c_0), optional
            The state to begin with, as for a call with this batch size.

        Raises
        ------
        ArgumentError
            For a layer that needs more than the steps before: ``bidirectional``, ``reverse``; and for a
            ``hidden_transform``, whose context would be another at each step.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> stream = nplstm.LSTM(2, 3, rng=0).stream()
        >>> stream.step(np.ones(2, dtype=np.float32)).shape
        (3,)
        """
        options = self._options
        check_streams(options)
        batch = None if batch_size is None else check_size("batch_size", batch_size)
        request = self._request(batch=batch or 1)._replace(
            stream=True, streams_residual=bool(options.wiring.residual)
        )
        weights = [row[0] for row in self._weights()]
        return Stream(options, weights, request, self._backend, self._dtype, batch_size=batch, hx=hx)

    def engine_for(
        self, batch_size: int = 1, *, training: bool = False, recurrent_given: bool = False
    ) -> EngineChoice:
        """Say which engine runs a call, and why no faster one does.

        Parameters
        ----------
        batch_size : int
            B, on which the choice depends on a GPU; with resets, the number of segments.
        training : bool
            Ask about ``record`` in training, where masks are drawn.
        recurrent_given : bool
            Ask about a call with the recurrent input in the place of h_0.

        Returns
        -------
        EngineChoice
            With ``name``, ``notes`` on how it is run, and ``refused``: by name of a faster engine, the reason.
            Printed, all in words.

        Examples
        --------
        >>> import nplstm
        >>> lstm = nplstm.LSTM(2, 3, cell=nplstm.CellSpec(layer_norm="cell_output"))
        >>> with nplstm.use_engines("numpy", "plain"):
        ...     print(lstm.engine_for())
        plain
          not numpy: supports only the standard LSTM; this layer has layer_norm='cell_output'
        """
        batch = check_size("batch_size", batch_size)
        request = self._request(recurrent_given=recurrent_given, training=training, batch=batch)
        return explain_engine(request)[1]

    input_size = OptionAttribute(lambda o: o.input_size, "I, the width of the input.")
    hidden_size = OptionAttribute(lambda o: o.of_user(o.hidden_sizes), "H, or a tuple with that of each layer.")
    num_layers = OptionAttribute(lambda o: o.layers, "L.")
    bias = OptionAttribute(lambda o: o.bias, "Whether there are biases.")
    bidirectional = OptionAttribute(lambda o: o.directions == 2, "Whether there are two directions.")
    proj_size = OptionAttribute(lambda o: o.proj_size, "P, or 0 where there is no projection.")
    cell = OptionAttribute(lambda o: o.cell, "Which member of the family.")
    recurrent_size = OptionAttribute(
        lambda o: o.of_user(o.recurrent_sizes), "R, or a tuple with that of each layer."
    )
    hidden_transform = OptionAttribute(lambda o: o.transform, "What makes the recurrent input of h, or None.")
    stacking = OptionAttribute(lambda o: o.stacking, "How directions of different layers are connected.")
    merge = OptionAttribute(lambda o: o.merge, "What becomes of the last layer's two directions.")
    residual = OptionAttribute(lambda o: o.residual, "The layers that add their input to their output, or False.")
    reverse = OptionAttribute(
        lambda o: o.wiring.reverse == (True,), "Whether the one direction runs from the end."
    )
    output_order = OptionAttribute(lambda o: o.output_order, "The order of the output of a layer in reverse.")

    @property
    def batch_first(self) -> bool:
        """Whether input and output are (B, T, ...); may be set.

        Examples
        --------
        >>> import nplstm
        >>> lstm = nplstm.LSTM(2, 3)
        >>> lstm.batch_first = True
        >>> lstm
        LSTM(2, 3, batch_first=True)
        """
        return self._options.batch_first

    @batch_first.setter
    def batch_first(self, value: bool) -> None:
        self._options = replace(self._options, batch_first=check_flag("batch_first", value))

    @property
    def dropout(self) -> float:
        """Probability of zeroing an output between layers; may be set.

        Examples
        --------
        >>> import nplstm
        >>> lstm = nplstm.LSTM(2, 3, num_layers=2, dropout=0.5)
        >>> lstm.dropout = 0.1
        >>> lstm
        LSTM(2, 3, num_layers=2, dropout=0.1)
        """
        return self._options.dropout

    @dropout.setter
    def dropout(self, value: float) -> None:
        self._options = replace(self._options, dropout=check_number("dropout", value, minimum=0.0, maximum=1.0))
