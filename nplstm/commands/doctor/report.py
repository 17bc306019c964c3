"""An examination as text: one section for each part of it, and what to do at the end."""

import textwrap
from collections.abc import Iterable
from typing import TypeAlias

from nplstm.commands.doctor.advice import Advice
from nplstm.commands.doctor.blas import Blas
from nplstm.commands.doctor.examination import Engine, Examination
from nplstm.commands.doctor.gpu import Gpu
from nplstm.commands.doctor.machine import VARIABLES, Processor, Versions
from nplstm.commands.doctor.rates import Product, Rates
from nplstm.commands.doctor.trial import KERNELS, KernelTrial, worth_trying
from nplstm.engines.cpus import Cpus

_WIDTH = 100

Row: TypeAlias = tuple[str, object]


def write_report(found: Examination) -> str:
    """Return the report; it ends without a newline."""
    trial = _trial(found.kernel_trial, tried=worth_trying(found.processor, found.blas))
    return "\n\n".join(
        [
            _section("Versions", _versions(found.versions)),
            _section("Processor", _processor(found.processor)),
            _section("BLAS", [*_blas(found.blas), *trial]),
            _section("Threads", _threads(found.cpus, found.blas)),
            _section("Environment", _environment(found.environment)),
            _section("Speed, float32", _rates(found.rates, found.blas)),
            _section("GPU", _gpu(found.gpu)),
            _section("Engines", _engines(found.engines)),
            "What to do\n" + _advice(found.advice),
        ]
    )


def _section(title: str, rows: Iterable[Row]) -> str:
    lines = [_fill(f"  {name:28}  ", "unknown" if value is None else str(value)) for name, value in rows]
    return "\n".join([title, *lines])


def _fill(name: str, text: str) -> str:
    """Put a name beside a text, which is broken into lines of its own column."""
    wrapper = textwrap.TextWrapper(_WIDTH, initial_indent=name, subsequent_indent=" " * len(name))
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    return wrapper.fill(text)


def _versions(versions: Versions) -> list[Row]:
    return [
        ("nplstm", versions.nplstm),
        ("Python", versions.python),
        ("NumPy", versions.numpy),
        ("platform", versions.platform),
    ]


def _processor(processor: Processor) -> list[Row]:
    return [
        ("model", processor.model),
        ("instruction sets", _words(processor.instructions)),
        ("NumPy's SIMD, needed", _words(processor.simd_baseline)),
        ("NumPy's SIMD, in use", _words(processor.simd_found)),
        ("NumPy's SIMD, not found", _words(processor.simd_not_found)),
    ]


def _words(words: list[str]) -> str:
    return ", ".join(words) or "none known"


def _blas(blas: Blas) -> list[Row]:
    return [
        ("library", f"{blas.name}, version {blas.version or 'unknown'}"),
        ("loaded from", blas.file),
        ("kernels", blas.kernels),
    ]


def _trial(trial: KernelTrial | None, *, tried: bool) -> list[Row]:
    if trial is None:
        return [("other kernels", f"{KERNELS} could not be tried")] if tried else []
    verdict = "" if trial.pays else ": no reason to change"
    rates = f"{trial.gflops:.0f} and {trial.tried_gflops:.0f} GFLOP/s"
    return [("other kernels", f"with {KERNELS} set {trial.speedup:.2f} times as fast ({rates}){verdict}")]


def _threads(cpus: Cpus, blas: Blas) -> list[Row]:
    quota = "no quota" if cpus.quota is None else f"a quota of {cpus.quota:g}"
    threading = f", by {blas.threading}" if blas.threading else ""
    return [
        ("CPUs for this process", f"{cpus.usable} ({cpus.affinity} by affinity, {quota})"),
        ("BLAS threads", None if blas.threads is None else f"{blas.threads}{threading}"),
    ]


def _environment(environment: dict[str, str]) -> list[Row]:
    return [(name, value or "(empty)") for name, value in environment.items()] or [
        ("none set", f"of {', '.join(VARIABLES)}, NPLSTM_*")
    ]


def _rates(rates: Rates, blas: Blas) -> list[Row]:
    rows: list[Row] = []
    for name in dict.fromkeys(product.name for product in rates.products):
        for product in rates.products:
            if product.name == name:
                alone = product.threads == 1 and blas.threads != 1
                rows.append(("  on one thread" if alone else name, _product(product)))
    return [
        *rows,
        ("np.tanh", f"{rates.tanh_ns:.2f} ns an element"),
        ("", "shares are of the best rate in this table; what the processor could do at most is not known"),
    ]


def _product(product: Product) -> str:
    m, k, n = product.shape
    return f"{product.gflops:6.1f} GFLOP/s  {product.share:4.0%}   ({m}, {k}) @ ({k}, {n})"


def _gpu(gpu: Gpu) -> list[Row]:
    if not gpu.available:
        return [("none", gpu.note)]
    memory = f", {gpu.memory_bytes / 2**30:.0f} GiB" if gpu.memory_bytes else ""
    return [("device", f"{gpu.device}{memory}"), ("CuPy", gpu.cupy)]


def _engines(engines: list[Engine]) -> list[Row]:
    return [(engine.name, _engine(engine)) for engine in engines]


def _engine(engine: Engine) -> str:
    if not engine.available:
        return f"not available: {engine.note}"
    return f"available, kernels for {engine.kernels}" if engine.kernels else "available"


def _advice(advice: list[Advice]) -> str:
    if not advice:
        return "  nothing: no setting is known that would make NumPy faster here"
    return "\n".join(_fill(f"  {i}. ", item.finding) + f"\n       {item.line}" for i, item in enumerate(advice, 1))
