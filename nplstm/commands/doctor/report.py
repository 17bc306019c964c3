"""Everything that ``nplstm doctor`` finds, as text or JSON."""

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TypeAlias

from nplstm.commands.doctor import machine
from nplstm.commands.doctor.advice import Advice, advise
from nplstm.commands.doctor.rates import KERNELS, KernelTrial, Rates, measure_rates, try_kernels, worth_trying
from nplstm.engines.cpus import Cpus, find_cpus

_WIDTH = 100

Rows: TypeAlias = Iterable[tuple[str, str | list[str] | float | None]]


@dataclass(frozen=True)
class Examination:
    """Facts, measurements, and what follows from them: the fields of the JSON."""

    versions: dict[str, str]
    processor: machine.Processor
    cpus: Cpus
    blas: machine.Blas
    environment: dict[str, str]
    rates: Rates
    kernel_trial: KernelTrial | None
    """None where there was no reason for it, or where it failed."""
    gpu: machine.Gpu
    engines: list[machine.EngineStatus]
    advice: list[Advice]


def doctor(*, as_json: bool = False) -> int:
    """Examine this machine; print a report, or a JSON object. Return 0, the exit status, whatever is found."""
    if sys.stderr.isatty():
        sys.stderr.write("measuring for a few seconds ...\n")
    found = examine()
    text = json.dumps(asdict(found), indent=2) if as_json else write_report(found)
    sys.stdout.write(text + "\n")
    return 0


def examine() -> Examination:
    """Collect facts, measure, and derive advice: about 2 seconds, 3 more if other kernels are tried."""
    processor, cpus, blas = machine.find_processor(), find_cpus(), machine.find_blas()
    rates = measure_rates(blas.threads)
    trial = try_kernels() if worth_trying(processor, blas) else None
    facts = (machine.find_versions(), processor, cpus, blas, machine.find_environment())
    advice = advise(cpus, blas, rates, trial)
    return Examination(*facts, rates, trial, machine.find_gpu(), machine.find_engines(), advice)


def write_report(found: Examination) -> str:
    """Return the report: a section for each part, and what to do. It ends without a newline."""
    variables = {name: value or "(empty)" for name, value in found.environment.items()}
    sections: dict[str, Rows] = {
        "Versions": found.versions.items(),
        "Processor": asdict(found.processor).items(),
        "CPUs for this process": asdict(found.cpus).items(),
        "BLAS": asdict(found.blas).items(),
        "Environment": variables.items()
        or [("none set", "of the variables that NumPy, its BLAS or nplstm reads")],
        "Speed, float32": [*_rates(found.rates), *_trial(found)],
        "GPU": _gpu(found.gpu),
        "Engines": [(engine.name, _engine(engine)) for engine in found.engines],
    }
    parts = ["\n".join([title, *_lines(rows)]) for title, rows in sections.items()]
    return "\n\n".join([*parts, "What to do\n" + _advice(found.advice)])


def _lines(rows: Rows) -> Iterator[str]:
    """Write each row that has a value."""
    for name, value in rows:
        field = name.replace("simd_", "NumPy's SIMD, ").replace("_", " ")
        label = field if name.islower() else name  # of a variable
        if value not in (None, "", []):
            yield _fill(f"  {label:26}  ", ", ".join(value) if isinstance(value, list) else str(value))


def _fill(name: str, text: str) -> str:
    """Put a name beside a text, which is broken into lines of its own column."""
    wrapper = textwrap.TextWrapper(_WIDTH, initial_indent=name, subsequent_indent=" " * len(name))
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    return wrapper.fill(text)


def _rates(rates: Rates) -> Rows:
    for product in rates.products:
        m, k, n = product.shape
        plural = "" if product.threads == 1 else "s"
        threads = f", {product.threads} thread{plural}" if product.threads else ""
        yield product.name, f"{product.gflops:6.1f} GFLOP/s   ({m}, {k}) @ ({k}, {n}){threads}"
    yield "np.tanh", f"{rates.tanh_ns:6.2f} ns an element"


def _trial(found: Examination) -> Rows:
    trial = found.kernel_trial
    if trial is not None:
        rates = f"{trial.gflops:.0f} and {trial.tried_gflops:.0f} GFLOP/s"
        verdict = "" if trial.pays else ": no reason to change"
        yield "other kernels", f"with {KERNELS} set {trial.speedup:.2f} times as fast ({rates}){verdict}"
    elif worth_trying(found.processor, found.blas):
        yield "other kernels", f"{KERNELS} could not be tried"


def _gpu(gpu: machine.Gpu) -> Rows:
    if not gpu.available:
        return [("none", gpu.note)]
    memory = f", {gpu.memory_bytes / 2**30:.0f} GiB" if gpu.memory_bytes else ""
    return [("device", f"{gpu.device}{memory}"), ("CuPy", gpu.cupy)]


def _engine(engine: machine.EngineStatus) -> str:
    if not engine.available:
        return f"not available: {engine.note}"
    return f"available, kernels for {engine.kernels}" if engine.kernels else "available"


def _advice(advice: list[Advice]) -> str:
    if not advice:
        return "  nothing: no setting is known that would make NumPy faster here"
    return "\n".join(_fill(f"  {i}. ", item.finding) + f"\n       {item.line}" for i, item in enumerate(advice, 1))
