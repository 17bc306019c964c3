"""What a stack of recurrent layers can be asked: a call, a recording, a stream, which engine runs it."""

from abc import abstractmethod
from typing import Any

from nplstm._shapes import check_flag, check_size
from nplstm.batch.choose_layout import CallOptions
from nplstm.core.hidden_transform import has_backward
from nplstm.core.masks import needed_generator
from nplstm.core.module import Module
from nplstm.engines import EngineChoice, explain_engine
from nplstm.errors import ArgumentError
from nplstm.layers.forward import Layer, request_of, run
from nplstm.layers.short import run_short
from nplstm.layers.stream import Stream, check_streams
from nplstm.layers.tape import LSTMTape

__all__ = ["Recurrent"]


class Recurrent(Module):
    """The base of ``LSTM``: all that can be done with it once it is made."""

    @abstractmethod
    def _layer(self) -> Layer:
        """Return all that a pass needs to know."""

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
        """
        definition = self._layer()
        said = CallOptions(lengths, mask, masked_output, reset, reset_to)
        if said.nothing and context is None and (short := run_short(definition, input, hx)) is not None:
            return short
        result = run(definition, input, hx, said, context, rng=None, record=False)
        return result.shown(), result.final()

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
        """
        layer = self._layer()
        draws = dict(layer.cell.draws) if check_flag("training", training) else {}
        if training and layer.dropout > 0 and layer.structure.layers > 1:
            draws = {"dropout": layer.dropout} | draws
        generator = needed_generator(draws, rng)
        if layer.transform is not None and not has_backward(layer.transform):
            raise ArgumentError(
                f"hidden_transform: {type(layer.transform).__name__} has no backward: it is good for "
                f"plain calls, and cannot be recorded"
            )
        every = None if checkpoint_every is None else check_size("checkpoint_every", checkpoint_every)
        said = CallOptions(lengths, mask, masked_output, reset, reset_to)
        return LSTMTape(run(layer, input, hx, said, context, rng=generator, record=True, every=every))

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
        """
        definition = self._layer()
        check_streams(definition)
        batch = None if batch_size is None else check_size("batch_size", batch_size)
        return Stream(definition, batch, hx)

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
          not numpy: it runs the standard LSTM, and there is layer_norm
        """
        batch = check_size("batch_size", batch_size)
        asked = request_of(self._layer(), recurrent_given=recurrent_given, training=training, batch=batch)
        return explain_engine(asked)[1]
