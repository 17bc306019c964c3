"""The forward pass of ``LSTM`` and ``LSTMCell``: from the user's arrays to packed rows and the stack of layers."""

from typing import Any, NamedTuple, cast

from nplstm._shapes import Axis, check_triple
from nplstm._typing import Array, DTypeLike
from nplstm.backends import NUMPY, check_arrays, holds
from nplstm.backends._cuda import CudaBackend
from nplstm.batch.choose_layout import CallOptions, choose_layout
from nplstm.batch.layout import Layout
from nplstm.batch.packing import PackedSequence
from nplstm.core.bound_transform import BoundTransform, Context
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.masks import draw_masks, inference_masks
from nplstm.core.module import Module
from nplstm.core.ops.dropout import dropout_mask
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State, StepInputs
from nplstm.engines import Engine, Request, StackCall, allowed_engines, allowed_precision, find_engine
from nplstm.engines.checkpoint import Checkpointed
from nplstm.errors import ArgumentError
from nplstm.layers.context import ContextReader
from nplstm.layers.options import Options, gate_misfit
from nplstm.layers.output import output_forward
from nplstm.layers.recurrent_input import check_recurrent_input, gives_recurrent_input
from nplstm.layers.stack import DropoutMasks, StackTape, stack_forward
from nplstm.layers.states import Layers, each_layer, is_vector, new_states, read_state, state_arrays, user_state

__all__ = ["Pass", "RecurrentLayer"]

_NO_STATES = None, None, None
_NO_VECTORS = False, False, False

_ENGINES_KEPT = 16
"""Answers that are kept for a layer: calls of many sizes are not to fill the memory."""


class _Prepared(NamedTuple):
    """What a layer's calls have in common for as long as it has the same parameters."""

    weights: list[list[LayerWeights]]  # by layer, then by direction
    inference_inputs: list[list[StepInputs]]  # of calls that draw nothing, without a transform
    engines: dict[tuple[Any, ...], Engine]  # that have been found


class Pass(NamedTuple):
    """One pass through a stack of layers, before its results are in the user's form."""

    options: Options
    layout: Layout
    context: ContextReader | None
    vectors: tuple[bool, ...]  # of a recording, whether h_0, c_0 and s_0 were one vector for all
    recurrent: bool  # whether the recurrent input r_0 was given in the place of h_0
    initial_h: Array  # (D, M, P)  of the last layer
    joined: Array  # (N, D * P)  the output of the last layer, directions side by side
    tape: StackTape | None

    def output(self) -> Any:
        """Return the output in the user's form."""
        return output_forward(self.joined, self.initial_h, self.options, self.layout)

    def states(self, final: State) -> tuple[Any, ...]:
        """Return (h_n, c_n), and s_n where the hidden transform has a state, in the user's form."""
        options, layout = self.options, self.layout
        h, c, s = final
        members: Any = (h, c) if s is None else final
        if layout.reorders:
            members = [each_layer(layout.final, member, options.wiring.reverse) for member in members]
        return tuple([user_state(member, options, layout) for member in members])


class RecurrentLayer(Module):
    """Parameters, options and the forward pass: the base of ``LSTM`` and ``LSTMCell``."""

    _arguments: tuple[str, ...]
    """The arguments of the layer that are options, by which it is pickled."""

    def __init__(self, options: Options, *, backend: str, dtype: DTypeLike, rng: Any) -> None:
        super().__init__(backend=backend, dtype=dtype)
        self._options = options
        self.reset_parameters(rng)

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw all parameters anew, as ``cell`` says, with a seed or a NumPy generator.

        Examples
        --------
        >>> import nplstm
        >>> lstm, other = nplstm.LSTM(2, 3, rng=0), nplstm.LSTM(2, 3, rng=1)
        >>> other.reset_parameters(0)
        >>> bool((lstm.parameters["weight_hh_l0"] == other.parameters["weight_hh_l0"]).all())
        True
        """
        self._draw_parameters(self._options.parameter_specs(), rng)

    def _misfit(self, name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
        return gate_misfit(self._options.cell, name, expected, got) or super()._misfit(name, expected, got)

    def __getstate__(self) -> Any:
        # options by their names, not the objects that hold them: so a pickle outlives the version that made it
        own, slots = _own_and_slots(super().__getstate__())
        own = {name: value for name, value in own.items() if name != "_options"}
        own |= {name: getattr(self, name) for name in self._arguments}
        return (own, slots) if slots else own

    def __setstate__(self, state: Any) -> None:
        own, slots = _own_and_slots(state)
        self._options = self._options_of(own)
        # an older version has the sizes that the options imply, too
        left_out = (*self._arguments, "recurrent_size", "_structure")
        vars(self).update({name: value for name, value in own.items() if name not in left_out})
        for name, value in slots.items():
            setattr(self, name, value)

    def _options_of(self, state: dict[str, Any]) -> Options:
        """Return the options that a state holds by their names."""
        raise NotImplementedError

    def _weights(self) -> list[list[LayerWeights]]:
        """Return the weights by layer, then by direction."""
        return self._parameters.derived("layers", self._prepare).weights

    def _prepare(self) -> _Prepared:
        options, directions = self._options, range(self._options.directions)
        suffixes = [options.suffix(layer, d) for layer in range(options.layers) for d in directions]
        params = iter(self._parameters.grouped(suffixes))
        weights = [[LayerWeights(next(params), options.cell) for _ in directions] for _ in range(options.layers)]
        inputs = [[StepInputs(inference_masks(options.cell))] * options.directions] * options.layers
        return _Prepared(weights, inputs, {})

    def _request(self, *, recurrent_given: bool = False, training: bool = False, batch: int = 1) -> Request:
        """Say what is to be run."""
        options, backend = self._options, self._backend
        column = options.directions == 1 and not options.wiring.residual
        return Request(
            backend.name,
            options.cell,
            options.transform,
            options.proj_size,
            recurrent_given,
            training,
            single_step=options.single_step,
            dtype=str(self._dtype),
            hidden=options.hidden_sizes,
            directions=options.directions,
            column=column and not (training and options.dropout),
            batch=batch,
            precision=allowed_precision(),
            cuda=backend.cuda if isinstance(backend, CudaBackend) else None,
        )

    def _engine(
        self, found: dict[tuple[Any, ...], Engine], recurrent_given: bool, training: bool, batch: int
    ) -> Engine:
        """Return the engine; asked once, until the parameters are replaced."""
        key: tuple[Any, ...] = (allowed_engines(), recurrent_given, training)
        if self._backend is not NUMPY:  # on a GPU sizes decide as well
            key = (*key, batch, allowed_precision(), self._backend.current_device())
        engine = found.get(key)
        if engine is None:
            if len(found) >= _ENGINES_KEPT:
                found.clear()
            request = self._request(recurrent_given=recurrent_given, training=training, batch=batch)
            engine = found[key] = find_engine(request)
        return engine

    def _forward(
        self,
        input: Any,
        hx: Any,
        call: CallOptions,
        context: Any = None,
        *,
        rng: Any = None,
        record: bool = False,
        every: int | None = None,
    ) -> tuple[Pass, State]:
        """Bring the input into the packed layout and run the stack, with masks if there is a generator.

        Returns the pass, and the final states in the loop's order.
        """
        options, backend, dtype = self._options, self._backend, self._dtype
        states = _NO_STATES
        if hx is not None:
            states = check_triple("hx", options.state_names, hx, options.state_size > 0)
        reader = None
        if context is not None or options.transform is not None:
            reader = ContextReader(options.transform, context)
        self._check_arrays(input, states, reader)
        I, batch_first = options.input_size, options.batch_first
        layout = choose_layout(input, call, input_size=I, batch_first=batch_first, backend=backend)
        rows, steps = layout.pack("input", input, [("I", I)], keep=record), layout.steps
        recurrent = options.recurrent_input and gives_recurrent_input(states[0], options)
        if recurrent:
            check_recurrent_input(options, layout)
        initial, r_0 = self._initial(states, layout, recurrent=recurrent, copy=record)
        if recurrent and every is not None:
            raise ArgumentError(
                "checkpoint_every: the recurrent input was given in the place of h_0, and is not a state"
            )
        final = new_states(backend.xp.empty, options, steps.batch, dtype)
        dropout = None if rng is None else self._dropout_masks(rng, len(rows))
        weights, inputs, engines = self._parameters.derived("layers", self._prepare)
        if rng is not None or options.transform is not None or recurrent:
            contexts = {} if reader is None else reader.read(layout, keep=record)
            inputs = self._inputs(weights, steps, contexts, rng, r_0)
        engine = self._engine(engines, recurrent, rng is not None, steps.batch)
        if every is not None:
            engine = Checkpointed(engine, every)
        stack = StackCall(weights, inputs, initial, final, options.wiring.reverse)
        joined, tape = stack_forward(
            rows, stack, steps, engine, wiring=options.wiring, dropout=dropout, record=record
        )
        vectors = _NO_VECTORS
        if record and states is not _NO_STATES:
            vectors = tuple([is_vector(state) for state in states])
        return Pass(options, layout, reader, vectors, recurrent, initial.h[-1], joined, tape), final

    def _check_arrays(self, input: Any, states: tuple[Any, Any, Any], reader: ContextReader | None) -> None:
        """Raise unless all arrays of a call are on the layer's backend and device, and of its element type."""
        options, backend, dtype = self._options, self._backend, self._dtype
        if reader is None and backend is NUMPY and holds(backend, input, dtype):
            if states is _NO_STATES:
                return
            h_0, c_0, s_0 = states
            fits = s_0 is None and (h_0 is None or holds(backend, h_0, dtype))
            if fits and (c_0 is None or holds(backend, c_0, dtype)):
                return
        arrays = {"input": input.data if isinstance(input, PackedSequence) else input}
        arrays[options.first_weight] = self._parameters[options.first_weight]
        if states is not _NO_STATES:
            for argument, value in zip(options.state_names, states, strict=True):
                if value is not None:
                    arrays |= state_arrays(argument, value, options)
        if reader is not None:
            arrays |= reader.arrays()
        check_arrays(options.owner, backend, dtype, **arrays)

    def _initial(
        self, states: tuple[Any, Any, Any], layout: Layout, *, recurrent: bool, copy: bool
    ) -> tuple[State, Layers | None]:
        """Return the initial states in the loop's order, and r_0 where it was given in the place of h_0.

        With ``copy`` they share no memory with the user's.
        """
        options, names = self._options, self._options.state_names
        if states is _NO_STATES and not recurrent:
            return new_states(layout.backend.xp.zeros, options, layout.steps.batch, self._dtype), None

        def read(argument: str, value: Any, axes: list[Axis]) -> Any:
            return read_state(argument, value, axes, options, layout, self._dtype, copy=copy)

        h_0, c_0, s_0 = states
        axes = options.state_axes
        r_0 = read(names[0], h_0, options.recurrent_axes) if recurrent else None
        h = read(names[0], None if recurrent else h_0, axes[0])
        s = read(names[2], s_0, axes[2]) if options.state_size else None
        return State(h, read(names[1], c_0, axes[1]), s), r_0

    def _inputs(
        self,
        weights: list[list[LayerWeights]],
        steps: PackedSteps,
        contexts: dict[str, Context],
        rng: Any,
        r_0: Layers | None,
    ) -> list[list[StepInputs]]:
        """Return what the steps of each layer and direction get beside their weights."""
        options = self._options
        return [
            [
                self._step_inputs(weights[k][d], k, steps, contexts, rng, None if r_0 is None else r_0[k][d])
                for d in range(options.directions)
            ]
            for k in range(options.layers)
        ]

    def _step_inputs(
        self,
        weights: LayerWeights,
        layer: int,
        steps: PackedSteps,
        contexts: dict[str, Context],
        rng: Any,
        r_0: Array | None,
    ) -> StepInputs:
        """Draw the masks of one layer and direction, and bind its transform."""
        options, params, masks = self._options, weights.params, inference_masks(weights.spec)
        if rng is not None:
            H = options.hidden_sizes[layer]
            masks = draw_masks(weights.spec, rng, params, steps, H, backend=self._backend, dtype=self._dtype)
        transform = None
        if options.transform is not None:
            R = options.recurrent_sizes[layer]
            transform = BoundTransform(options.transform, params.transform or {}, contexts, R)
        return StepInputs(masks, transform, r_0)

    def _dropout_masks(self, rng: Any, rows: int) -> DropoutMasks | None:
        """Draw the dropout below each layer: for what both directions read, or for each column."""
        options = self._options
        if options.dropout == 0 or options.layers == 1:
            return None
        masks: DropoutMasks = [[None]]
        for layer in range(1, options.layers):
            shape = (rows, options.layer_input(layer))
            drawn: list[Array | None] = [
                dropout_mask(self._backend, rng, shape, self._dtype, options.dropout)
                for _ in range(options.wiring.inputs)
            ]
            masks.append(drawn)
        return masks


def _own_and_slots(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes of an object's state, and those in the slots of a subclass."""
    return cast("tuple[dict[str, Any], dict[str, Any]]", state) if isinstance(state, tuple) else (state, {})
