"""All that the doctor finds out, in one object: its fields are the JSON's."""

from dataclasses import dataclass

from nplstm.commands.doctor.advice import Advice, advise
from nplstm.commands.doctor.blas import Blas, find_blas
from nplstm.commands.doctor.gpu import Gpu, find_gpu
from nplstm.commands.doctor.machine import Processor, Versions, find_environment, find_processor, find_versions
from nplstm.commands.doctor.rates import Progress, Rates, measure_rates
from nplstm.commands.doctor.trial import KernelTrial, try_kernels, worth_trying
from nplstm.engines import unsupported_reasons
from nplstm.engines.compiled.library import library
from nplstm.engines.cpus import Cpus, find_cpus


@dataclass(frozen=True)
class Engine:
    """A way to run an LSTM on NumPy."""

    name: str
    available: bool
    note: str
    """Why it is not there, and what to do to have it; empty where it is."""
    kernels: str | None = None
    """The instruction set that its kernels are compiled for, of the compiled engine alone."""


@dataclass(frozen=True)
class Examination:
    """Facts, measurements, and what follows from them."""

    versions: Versions
    processor: Processor
    cpus: Cpus
    blas: Blas
    environment: dict[str, str]
    rates: Rates
    kernel_trial: KernelTrial | None
    """None where there was no reason for it, or where it failed."""
    gpu: Gpu
    engines: list[Engine]
    advice: list[Advice]


def examine(progress: Progress) -> Examination:
    """Look, measure, and conclude; takes some three seconds, and as much again where other kernels are tried."""
    processor, cpus, blas = find_processor(), find_cpus(), find_blas()
    rates = measure_rates(progress, blas.threads)
    trial = try_kernels(progress) if worth_trying(processor, blas) else None
    return Examination(
        versions=find_versions(),
        processor=processor,
        cpus=cpus,
        blas=blas,
        environment=find_environment(),
        rates=rates,
        kernel_trial=trial,
        gpu=find_gpu(),
        engines=_engines(),
        advice=advise(cpus, blas, rates, trial),
    )


def _engines() -> list[Engine]:
    """Ask each engine whether it would run a standard LSTM here."""
    return [
        Engine(name, available=not reason, note=reason, kernels=_kernels(name) if not reason else None)
        for name, reason in unsupported_reasons().items()
    ]


def _kernels(engine: str) -> str | None:
    return library().instruction_set if engine == "compiled" else None
