"""Advice that follows from the facts and rates, each with the line for the shell."""

import os
from dataclasses import dataclass

from nplstm.commands.doctor.machine import Blas
from nplstm.commands.doctor.rates import PAYS, VARIABLE, KernelTrial, Rates
from nplstm.engines.cpus import Cpus

_THREADS = {"OpenBLAS": "OPENBLAS_NUM_THREADS", "mkl": "MKL_NUM_THREADS", "blis": "BLIS_NUM_THREADS"}


@dataclass(frozen=True)
class Advice:
    """One thing to do."""

    finding: str
    line: str
    """For the shell, before Python starts: the libraries read the environment when they are loaded."""


def advise(cpus: Cpus, blas: Blas, rates: Rates, trial: KernelTrial | None) -> list[Advice]:
    """Return what is to be done; nothing is recommended for its speed that was not measured to be faster."""
    # with too many threads the rates say nothing of the right number, so the count comes first
    found = [_kernels(trial), _too_many_threads(cpus, blas) or _one_thread(blas, rates)]
    return [advice for advice in found if advice is not None]


def _kernels(trial: KernelTrial | None) -> Advice | None:
    if trial is None or not trial.pays:
        return None
    return Advice(
        f"OpenBLAS runs its {trial.kernels} kernels, though the processor has AVX-512; with the {trial.tried} "
        f"kernels an LSTM step's product is {trial.speedup:.2f} times as fast here (measured on one thread: "
        f"{trial.gflops:.0f} and {trial.tried_gflops:.0f} GFLOP/s). On this machine, before Python starts:",
        _setting(VARIABLE, trial.tried),
    )


def _too_many_threads(cpus: Cpus, blas: Blas) -> Advice | None:
    if blas.threads is None or blas.threads <= cpus.usable:
        return None
    return Advice(
        f"{blas.name} runs {blas.threads} threads, but this process may use only {cpus.usable} of the machine's "
        f"CPUs at a time: threads that wait for a CPU hold up the others. Before Python starts:",
        _threads_setting(blas, cpus.usable),
    )


def _one_thread(blas: Blas, rates: Rates) -> Advice | None:
    alone = {product.name: product.gflops for product in rates.products if product.threads == 1}
    shared = {product.name: product.gflops for product in rates.products if product.threads != 1}
    gain = min((alone[name] / shared[name] for name in alone if name in shared), default=0.0)
    if gain <= PAYS:
        return None
    return Advice(
        f"The product of an LSTM's step is at least {gain:.1f} times as fast on one thread as on {blas.threads} "
        f"here (measured): other programs keep the CPUs busy, and threads wait for each other. While that is so, "
        f"before Python starts:",
        _threads_setting(blas, 1),
    )


def _threads_setting(blas: Blas, count: int) -> str:
    # OpenBLAS does not read its own variable where OpenMP makes the threads
    name = "openmp" if blas.threading == "openmp" else blas.name
    return _setting(_THREADS.get(name, "OMP_NUM_THREADS"), str(count))


def _setting(variable: str, value: str) -> str:
    """Return the line that sets a variable in the system's usual shell."""
    return f"set {variable}={value}" if os.name == "nt" else f"export {variable}={value}"
