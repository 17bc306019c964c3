"""What an engine is: one layer over whole sequences, forward and back through time.

The plain engine is the time loop of ``sequence.py`` and runs everything; the others are faster at what they claim,
and are tested against it. Stacking, dropout between layers and the user's layouts are not their business.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends._cuda import Cuda
from nplstm.core.cell_spec import CellSpec
from nplstm.core.packed import PackedSteps
from nplstm.core.step import Recurrence, State
from nplstm.core.time_loop import SequenceGradients

__all__ = ["Engine", "Lane", "Request", "ShortCall", "Stepper"]


class Request(NamedTuple):
    """What is to be run, as far as it decides who can."""

    backend: str
    cell: CellSpec
    transform: Any = None
    proj_size: int = 0
    recurrent_given: bool = False  # whether r_0 stands in the place of h_0
    training: bool = False  # whether masks are drawn
    stream: bool = False  # one step a call
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
    def variant(self) -> list[str]:
        """The options that make it another LSTM than the standard one."""
        cell = self.cell
        acting = {n: p for n, p in cell.draws.items() if self.training or n.startswith("zoneout")}
        found = [*cell.composing, *acting]
        found += ["hidden_transform"] * (self.transform is not None)
        found += ["proj_size"] * (self.proj_size > 0)
        found += ["residual in a stream"] * self.streams_residual
        found += ["a recurrent input in the place of h_0"] * self.recurrent_given
        return found


class Lane(NamedTuple):
    """One layer in one direction, and what it runs on."""

    x: Array  # (N, I)
    initial: State
    recurrence: Recurrence
    out: Array  # (N, P)  receives h_t; may be a slice of a wider array
    reverse: bool


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


class ShortCall(ABC):
    """A stack for plain calls, with as little around the computation as can be."""

    @abstractmethod
    def takes(self, steps: int, batch: int) -> bool:
        """Tell whether a call of this size is one."""

    @abstractmethod
    def __call__(self, x: Array, h_0: Array | None, c_0: Array | None) -> tuple[Array, Array, Array]:
        """Return the output and the final states of ``x`` (T, B, I); ``h_0`` and ``c_0`` (L * D, B, H)."""


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
    def forward(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
        """Run the directions of a layer; return for each its final state and, if recorded, its tape."""

    def runs_together(self, x: Array, widths: list[int], steps: PackedSteps) -> bool:
        """Tell whether ``forward_stack`` is faster for layers of these widths than one after the other."""
        return False

    def forward_stack(self, lanes: list[Lane], steps: PackedSteps, *, record: bool) -> list[tuple[State, Any]]:
        """Run layers of which each reads the output of the one below: its ``x`` is that array."""
        return [self.forward([lane], steps, record=record)[0] for lane in lanes]

    @abstractmethod
    def backward(
        self, grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[Any]
    ) -> list[SequenceGradients]:
        """Return the gradients of each lane, given those of its outputs and of its final state."""

    def backward_stack(
        self, grad_output: Array | None, grad_final: list[State], tapes: list[Any]
    ) -> list[SequenceGradients]:
        """Return the gradients of layers that each read the output of the one below; of x in the lowest alone."""
        results: list[SequenceGradients] = []
        for final, tape in zip(grad_final[::-1], tapes[::-1], strict=True):
            results += self.backward(None if grad_output is None else [grad_output], [final], [tape])
            grad_output = results[-1].x
        return results[::-1]

    @abstractmethod
    def stepper(self, recurrences: list[Recurrence], batch: int, residual: frozenset[int]) -> Stepper:
        """Return what runs the layers one step at a time, from a state of zeros."""

    def short_call(self, recurrences: list[list[Recurrence]], directions: tuple[bool, ...]) -> ShortCall | None:
        """Return what makes short calls of layers of one size, each reading all directions of that below."""
        return None
