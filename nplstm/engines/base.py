"""What an engine is: one layer over whole sequences, forward and back through time.

The plain engine is the time loop of ``sequence.py`` and runs everything; the others are faster at what they claim,
and are tested against it. Stacking, dropout between layers and the user's layouts are not their business.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

from nplstm._typing import Array, DType
from nplstm.cells.spec import CellSpec
from nplstm.recurrence import Recurrence, State
from nplstm.sequence import SequenceGradients
from nplstm.steps import Steps

__all__ = ["Engine", "Lane", "LaneTape", "Request"]


class Request(NamedTuple):
    """What is to be run, as far as it decides who can."""

    backend: str
    dtype: DType
    cell: CellSpec
    transform: Any = None
    proj_size: int = 0
    recurrent_given: bool = False  # whether r_0 stands in the place of h_0
    training: bool = False  # whether masks are drawn
    checkpointed: bool = False

    @property
    def variant(self) -> str:
        """The options that make it another LSTM than the standard one; empty if there are none."""
        cell = self.cell
        acting = {n: p for n, p in cell.draws.items() if self.training or n.startswith("zoneout")}
        found = [*cell.composing, *acting]
        found += ["hidden_transform"] * (self.transform is not None)
        found += ["proj_size"] * (self.proj_size > 0)
        found += ["a recurrent input in the place of h_0"] * self.recurrent_given
        return ", ".join(found)


class Lane(NamedTuple):
    """One layer in one direction, and what it runs on."""

    x: Array  # (N, I)
    initial: State
    recurrence: Recurrence
    out: Array  # (N, P)  receives h_t; may be a slice of a wider array
    reverse: bool


class LaneTape(Protocol):
    """What an engine keeps of a lane: a NamedTuple whose arrays can be counted."""


class Engine(ABC):
    """One way to compute."""

    name: str

    @abstractmethod
    def refusal(self, request: Request) -> str:
        """Say why this engine does not run the request; empty if it does."""

    @abstractmethod
    def forward(
        self, lanes: list[Lane], steps: Steps, *, record: bool, every: int | None = None
    ) -> list[tuple[State, Any]]:
        """Run the directions of a layer; return for each its final state and, if recorded, its tape.

        With ``every`` the tape keeps the states of every so many steps, and computes the rest again on the way back.
        """

    @abstractmethod
    def backward(
        self, grad_outputs: list[Array] | None, grad_final: list[State], tapes: list[Any]
    ) -> list[SequenceGradients]:
        """Return the gradients of each lane, given those of its outputs and of its final state."""
