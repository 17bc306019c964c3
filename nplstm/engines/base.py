"""What an engine is: one layer over whole sequences, its directions together, forward and back through time.

The reference engine is the time loop of ``core/time_loop.py`` and runs everything; the others are faster at what
they support, and are tested against it. Dropout between layers and the user's layouts are not their business.
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
    """What is to be run, as far as it decides which engine can."""

    backend: str
    cell: CellSpec
    transform: Any = None
    proj_size: int = 0
    recurrent_given: bool = False  # whether r_0 stands in the place of h_0
    training: bool = False  # whether masks are drawn
    single_step: bool = False  # of an LSTMCell
    stream: bool = False  # one step a call, in buffers that are made once
    streams_residual: bool = False  # and layers add their input to their output
    dtype: str = "float32"
    hidden: tuple[int, ...] = ()  # H of each layer
    directions: int = 1
    column: bool = False  # whether each layer reads the output of the one below as it is, in one direction
    batch: int = 1
    precision: str = "float32"  # what the products of float32 arrays may be rounded to
    cuda: Cuda | None = None  # the device of the arrays, where kernels of our own reach them
    others: tuple[str, ...] = ()  # the engines that would be asked next

    @property
    def variant(self) -> dict[str, str]:
        """The options that make it another LSTM than the standard one, and each as a person would say it."""
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
    initial: State  # (D, B, P), (D, B, H); not to be modified
    final: State  # likewise: receives the state after each sequence's last step
    out: list[Array]  # (N, P) for each direction: receives h_t; may be slices of a wider array
    reverse: tuple[bool, ...]  # for each direction, whether it runs from the end

    def direction(self, d: int) -> "LayerCall":
        """Return one direction alone."""
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
        """Return the call of one layer, with its output side by side in ``joined`` (N, D * P)."""
        initial, final = state_of(self.initial, number), state_of(self.final, number)
        out = split_directions(joined, len(self.reverse))
        return LayerCall(x, self.weights[number], self.inputs[number], initial, final, out, self.reverse)

    def column(self, x: Array, out: Array) -> list[LayerCall]:
        """Return calls in one direction, of which each reads the output of the one below: its ``x``."""
        calls: list[LayerCall] = []
        for number in range(len(self.weights)):
            last = number + 1 == len(self.weights)
            own = out if last else namespace(x).empty((len(x), self.width(number)), dtype=x.dtype)
            calls.append(self.layer(number, [x], own))
            x = own
        return calls

    def width(self, number: int) -> int:
        """D * P of a layer."""
        return len(self.reverse) * self.final.h[number].shape[2]


def state_of(state: State, place: Any) -> State:
    """Return what stands at a place of the first axis of each member: a layer's states, or a direction's."""
    return State(state.h[place], state.c[place], None if state.s is None else state.s[place])


def split_directions(joined: Array, directions: int) -> list[Array]:
    """Return each direction's part (N, P) of (N, D * P)."""
    if directions == 1:
        return [joined]
    width = joined.shape[1] // 2
    return [joined[:, :width], joined[:, width:]]


class Stepper(ABC):
    """A stack that runs one step at a time, in buffers that are made once.

    Attributes
    ----------
    x : Array, shape (B, I)
        Where the next step reads its input.
    y : Array, shape (B, P)
        Where it leaves its output.
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
    """One way to compute."""

    name: str

    verified: bool = True
    """Whether it has run on the hardware that it is for: if not, it runs what it is asked for by name alone."""

    def supports_backend(self, backend: str) -> bool:
        """Tell whether it is for arrays of that backend at all."""
        return backend == "numpy"

    @abstractmethod
    def unsupported_reason(self, request: Request) -> str:
        """Say why this engine does not run the request; empty if it does."""

    def notes(self, request: Request) -> list[str]:
        """Say what there is to say about how it runs the request."""
        return []

    @abstractmethod
    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> Any:
        """Run a layer; return its tape if it is recorded."""

    def forward_stack(
        self, stack: StackCall, x: Array, out: Array, steps: PackedSteps, *, record: bool
    ) -> list[Any] | None:
        """Run layers of which each reads the whole output of the one below as it is: from ``x`` (N, I) to ``out``.

        Returns
        -------
        list or None
            The tapes, by layer, where it is recorded. None where the layers are faster one after the other.
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
        self, grad_out: list[Array] | None, grads: list[State], tapes: list[Any]
    ) -> list[list[SequenceGradients]]:
        """Return the gradients of layers in one direction that each read the output of the one below, by layer.

        Those of x are good for the lowest alone. ``grads`` as for ``backward``, by layer.
        """
        results: list[list[SequenceGradients]] = []
        for grad, tape in zip(grads[::-1], tapes[::-1], strict=True):
            results.append(self.backward(grad_out, grad, tape))
            grad_out = [results[-1][0].x]
        return results[::-1]

    @abstractmethod
    def stepper(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> Stepper:
        """Return what runs the layers one step at a time, from a state of zeros."""


def unsupported_options(names: list[str], supported: str) -> str:
    """Say which of a layer's options are not supported, as a person would."""
    return f"supports only {supported}; this layer has {', '.join(names)}" if names else ""
