"""A CUDA device on the CPU, for the tests of kernels: they run as they are, and what they may not do is an error."""

from .build import compiler
from .emulator import CudaOnCpu, KernelFault

__all__ = ["CudaOnCpu", "KernelFault", "compiler"]
