"""A CUDA device on the CPU, for the tests of kernels: they run as they are, and what they may not do is an error.

A kernel's file is compiled as C++ behind ``language.h``, what CUDA's C++ has by itself, and ``device.cuh``, in
place of the real one. Each thread is a fiber (``fiber.h``); ``runtime.cpp`` lets them run one at a time
(``turns.h``) and brings them together at barriers and at what a warp does at once. ``checks.h`` sees each access
to memory: is it in bounds, was anything written there, and is it ordered after all that it has to be ordered after
(``races.h``)?

What is ordered is found from the synchronisation that a run had, not from its timing. But which announcement a
look at a flag sees is a matter of timing, so kernels whose blocks wait for one another should run under some
seeds.

Not seen: accesses that go around the functions of ``device.cuh``, and how fast anything is.
"""

from .build import compiler
from .emulator import CudaOnCpu, KernelFault

__all__ = ["CudaOnCpu", "KernelFault", "compiler"]
