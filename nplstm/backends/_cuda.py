"""Interface between the CUDA engines and an array library; CuPy's implementation is in ``_cupy_cuda``.

A kernel takes one structure by value, whose addresses come from ``Cuda.address``: no arguments are copied to the
device before a launch, so a launch never waits.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends._base import Backend

__all__ = ["Cuda", "CudaBackend", "Device", "HostWord", "Kernel"]


class Device(NamedTuple):
    """Properties of a device that a plan for a launch depends on."""

    name: str
    capability: tuple[int, int]  # 9, 0 for Hopper
    multiprocessors: int
    block_memory: int  # bytes of shared memory that one block may have
    number: int = 0  # its CUDA device number


class HostWord(NamedTuple):
    """A 32-bit word in pinned host memory that a kernel can write to."""

    value: Any  # a NumPy array, shape (1,), uint32: reading it waits for nothing
    address: int


class Kernel(ABC):
    """A compiled kernel on one device."""

    @abstractmethod
    def launch(
        self, grid: tuple[int, int], threads: int, arguments: Any, *, block_memory: int = 0, together: bool = False
    ) -> None:
        """Launch on the current stream.

        Parameters
        ----------
        grid : tuple of two ints
            Blocks.
        threads : int
            In a block.
        arguments : numpy.ndarray, shape (1,), of a structured type
            The kernel's one parameter.
        block_memory : int
            Bytes of shared memory for each block.
        together : bool
            All blocks have to run at once: it is an error if the device cannot hold them.
        """

    @abstractmethod
    def resident(self, threads: int, block_memory: int) -> int:
        """Return how many blocks of that kind a multiprocessor holds at once."""


class Cuda(ABC):
    """Operations of a CUDA device that the engines use."""

    @abstractmethod
    def device(self) -> Device:
        """Describe the current device."""

    @abstractmethod
    def kernel(self, code: str, name: str, options: tuple[str, ...]) -> Kernel:
        """Compile a kernel for the current device, once."""

    @abstractmethod
    def address(self, array: Array) -> int:
        """Return the address of an array's first element."""

    @abstractmethod
    def stream(self) -> tuple[int, int]:
        """Return the numbers of the current device and stream, unique among all."""

    @abstractmethod
    def host_word(self) -> HostWord:
        """Allocate a word that kernels can write to, with value 0."""

    @abstractmethod
    def matmul(self, a: Array, b: Array, *, tf32: bool, out: Array | None = None) -> Array:
        """Return the library's product of two matrices; only ``tf32`` lets it round those of float32."""

    @abstractmethod
    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        """Capture the launches of ``launches`` as a graph; return a function that replays it as one launch."""


class CudaBackend(Backend):
    """An array library whose arrays are on a CUDA device."""

    @property
    @abstractmethod
    def cuda(self) -> Cuda:
        """The device."""
