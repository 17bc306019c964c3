"""Emulator of a CUDA device on the CPU, for tests: runs kernels as they are, reports invalid accesses and races.

A kernel's file is compiled as C++ after ``language.h``, which has CUDA's built-in names, and with this folder's
``device.cuh`` instead of the real one. Each thread is a fiber (``fiber.h``); ``runtime.cpp`` runs them one at a
time (``turns.h``) and synchronises them at barriers and warp-wide operations. ``checks.h`` checks each access to
memory: is it in bounds, was anything written there, and is it ordered after all accesses that it must be ordered
after (``races.h``)?

The order is found from the synchronisation of a run, not from its timing. But which value a read of a flag sees
depends on timing, so kernels whose blocks wait for one another should run with several seeds.

Not checked: accesses that bypass the functions of ``device.cuh``, and speed.
"""

from .build import compiler
from .emulator import CudaOnCpu, KernelFault

__all__ = ["CudaOnCpu", "KernelFault", "compiler"]
