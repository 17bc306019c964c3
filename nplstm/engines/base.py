"""Base classes of engines: an engine runs a layer, or a stack, over whole sequences, forward and backward.

The reference engine is the time loop of ``core/time_loop.py`` and runs everything. The others are faster at what
they support, and are tested against it. Dropout between layers and the user's layouts are handled outside of
engines.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.backends._cuda import Cuda
from nplstm.core.cell_spec import CellSpec
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State, StepInputs
from nplstm.core.time_loop import SequenceGradients

__all__ = ["Engine", "LayerCall", "Request", "StackCall", "Stepper"]


class Request(NamedTuple):
    """Properties of a call or stream on which it depends whether an engine supports it."""

    backend: str
    cell: CellSpec
    transform: Any = None
    proj_size: int = 0
    recurrent_given: bool = False  # whether the recurrent input r_0 is given in the place of h_0
    training: bool = False  # whether masks are drawn
    single_step: bool = False  # whether it is an LSTMCell's
    stream: bool = False  # whether it is a stream: one step a call, in buffers that are made once
    streams_residual: bool = False  # whether layers of a stream add their input to their output
    dtype: str = "float32"
    hidden: tuple[int, ...] = ()  # H of each layer
    directions: int = 1
    column: bool = False  # one direction, and each layer reads the unchanged output of the one below
    batch: int = 1
    precision: str = "float32"  # to which products of float32 arrays may be rounded
    cuda: Cuda | None = None  # device of the arrays, if nplstm's own kernels can run on it
    others: tuple[str, ...] = ()  # names of the engines that are tried next

    @property
    def variant(self) -> dict[str, str]:
        """The options that the standard LSTM does not have: name to text for messages, such as ``proj_size=3``."""
        cell = self.cell
        acting = [name for name in cell.draws if self.training or name.startswith("zoneout")]
        found = {name: f"{name}={getattr(cell, name)!r}" for name in (*cell.composing, *acting)}
        if "activations" in found:
            found["activations"] = f"activations={tuple(a.name for a in cell.activations)}"
        if self.transform is not None:
            found["hidden_transform"] = f"hidden_transform={type(self.transform).__name__}"
        if self.proj_size:
            found["proj_size"] = f"proj_size={self.proj_size}"
        if self.streams_residual:
            found["residual"] = "residual layers in a stream"
        if self.recurrent_given:
            found["recurrent_given"] = "a recurrent input in the place of h_0"
        return found


class LayerCall(NamedTuple):
    """One layer, all its directions, over a batch of sequences."""

    x: list[Array]  # (N, I) for each direction
    weights: list[LayerWeights]  # for each direction
    inputs: list[StepInputs]  # for each direction
    initial: State  # (D, B, P), (D, B, H); must not be modified
    final: State  # same shapes; receives the state after each sequence's last step
    out: list[Array]  # (N, P) for each direction: receives h_t; may be slices of a wider array
    reverse: tuple[bool, ...]  # for each direction, whether it runs from the end

    def direction(self, d: int) -> "LayerCall":
        """Return the call of one direction."""
        own = slice(d, d + 1)
        initial, final = state_of(self.initial, own), state_of(self.final, own)
        return LayerCall(
            self.x[own], self.weights[own], self.inputs[own], initial, final, self.out[own], self.reverse[own]
        )


class StackCall(NamedTuple):
    """All layers of a stack over a batch of sequences.

    Members of states are arrays (L, D, B, width), or lists of (D, B, width) where layers differ in size.
    """

    weights: list[list[LayerWeights]]  # by layer, then by direction
    inputs: list[list[StepInputs]]
    initial: State
    final: State
    reverse: tuple[bool, ...]

    def layer(self, number: int, x: list[Array], joined: Array) -> LayerCall:
        """Return the call of one layer; its directions write side by side into ``joined`` (N, D * P)."""
        initial, final = state_of(self.initial, number), state_of(self.final, number)
        out = split_directions(joined, len(self.reverse))
        return LayerCall(x, self.weights[number], self.inputs[number], initial, final, out, self.reverse)

    def column(self, x: Array) -> list[LayerCall]:
        """Return one call for each layer, in one direction: ``x`` of a layer is ``out`` of the one below."""
        calls: list[LayerCall] = []
        for number in range(len(self.weights)):
            calls.append(self.layer(number, [x], self.new_output(number, x)))
            x = calls[-1].out[0]
        return calls

    def new_output(self, number: int, x: Array) -> Array:
        """Make room for the output of a layer, (N, D * P), beside ``x`` (N, ...)."""
        width = len(self.reverse) * self.final.h[number].shape[2]
        return namespace(x).empty((len(x), width), dtype=x.dtype)


def state_of(state: State, place: Any) -> State:
    """Index each member of a state along its first axis: the states of a layer, or of a direction."""
    return State(state.h[place], state.c[place], None if state.s is None else state.s[place])


def split_directions(joined: Array, directions: int) -> list[Array]:
    """Return each direction's part (N, P) of (N, D * P)."""
    if directions == 1:
        return [joined]
    width = joined.shape[1] // 2
    return [joined[:, :width], joined[:, width:]]


class Stepper(ABC):
    """A stack that runs one step at a time, in preallocated buffers.

    Attributes
    ----------
    x : Array, shape (B, I)
        Input of the next step; the caller writes to it.
    y : Array, shape (B, P)
        Output of the last step.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self.x = x
        self.y = y

    @abstractmethod
    def step(self) -> None:
        """Take one step."""

    @property
    @abstractmethod
    def h(self) -> list[Array]:
        """By layer, (B, P); may be written to between steps."""

    @property
    @abstractmethod
    def c(self) -> list[Array]:
        """By layer, (B, H); may be written to between steps."""


class Engine(ABC):
    """One implementation of the LSTM."""

    name: str

    verified: bool = True
    """Whether it has been tested on its hardware. If not, it is used only where the user names it."""

    def __reduce__(self) -> tuple[Any, ...]:
        # there is one object for each engine: a tape that is unpickled finds it by name
        from nplstm.engines.choose import engine_named

        return engine_named, (self.name,)

    def supports_backend(self, backend: str) -> bool:
        """Tell whether it can compute with arrays of that backend."""
        return backend == "numpy"

    @abstractmethod
    def unsupported_reason(self, request: Request) -> str:
        """Return the reason why this engine does not support the request; empty if it does."""

    def notes(self, request: Request) -> list[str]:
        """Return remarks on how it runs the request, for ``EngineChoice.notes``."""
        return []

    @abstractmethod
    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> Any:
        """Run a layer; with ``record`` return its tape."""

    def forward_stack(
        self, stack: StackCall, x: Array, steps: PackedSteps, *, record: bool
    ) -> tuple[Array, list[Any]] | None:
        """Run layers on ``x`` (N, I) that each read the whole, unchanged output of the one below.

        Returns
        -------
        tuple or None
            The output of the last layer, (N, D * P), and with ``record`` the tapes for ``backward_stack``: one for
            each layer, or fewer if that never returns None for them. None where the layers are faster one after
            the other.
        """
        return None

    @abstractmethod
    def backward(self, grad_out: list[Array] | None, grad: State, tape: Any) -> list[SequenceGradients]:
        """Return the gradients of each direction.

        Parameters
        ----------
        grad_out : list of Arrays (N, P), optional
            Of each direction's output.
        grad : State of Arrays, shapes (D, B, P) and (D, B, H)
            Of the final state; overwritten with that of the initial one.
        tape
            What ``forward`` returned.
        """

    def backward_stack(
        self, grad_out: list[Array] | None, grad: State, tapes: list[Any]
    ) -> list[list[SequenceGradients]] | None:
        """Return the gradients of layers that each read the whole, unchanged output of the one below.

        Parameters
        ----------
        grad_out : list of Arrays (N, P), optional
            Of each direction's output of the last layer.
        grad : State
            Of the final states of all layers, as ``StackCall`` has states; overwritten with that of the initial
            ones.
        tapes
            What ``forward_stack`` returned, or what ``forward`` did for each layer.

        Returns
        -------
        list or None
            By layer, then by direction; gradients of x are valid for the lowest layer only. None where the layers
            have to be, or are faster, run one after the other: then nothing was overwritten.
        """
        return None

    @abstractmethod
    def stepper(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> Stepper:
        """Return a stepper of the layers, with a state of zeros."""


def unsupported_options(names: list[str], supported: str) -> str:
    """Return the text that names a layer's unsupported options; empty if there are none."""
    return f"supports only {supported}; this layer has {', '.join(names)}" if names else ""
