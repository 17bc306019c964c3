"""Facts about this machine: versions, processor, BLAS, environment variables, GPU, engines."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nplstm import __version__
from nplstm.backends import get_backend
from nplstm.engines import unsupported_reasons
from nplstm.engines.blas import find_blas_threads
from nplstm.engines.compiled.library import library
from nplstm.errors import BackendUnavailableError

CPUINFO = Path("/proc/cpuinfo")
OPENBLAS = "OpenBLAS"

VARIABLES = ("OPENBLAS_", "GOTO_", "OMP_", "MKL_", "BLIS_", "VECLIB_", "NPY_", "NPLSTM_")
"""How the variables begin that BLAS libraries, NumPy and nplstm read; most act only when a library is loaded."""

_SIMD = ("sse4", "avx", "f16c", "fma", "amx", "neon", "asimd", "sve", "vsx", "vx", "rvv", "lsx")
_NUMPYS_LEVELS = {"x86v3": "avx2", "x86v4": "avx512f"}


@dataclass(frozen=True)
class Processor:
    """The processor, and the SIMD instruction sets that NumPy's own loops are compiled for."""

    model: str
    instructions: list[str]
    simd_baseline: list[str]
    """What NumPy was built to need."""
    simd_found: list[str]
    """What it has faster loops for, and uses here."""
    simd_not_found: list[str]
    """What it has faster loops for, and cannot use here."""


@dataclass(frozen=True)
class Blas:
    """The library behind ``np.dot``; None is what could not be found out."""

    name: str
    version: str | None = None
    file: str | None = None
    kernels: str | None = None
    """The processor whose kernels it runs: "Haswell" has AVX2, "SkylakeX" AVX-512."""
    threads: int | None = None
    threading: str | None = None
    """What makes the threads, in threadpoolctl's words: "pthreads", "openmp", "disabled", ..."""
    note: str = ""
    """How to find out more; empty where threadpoolctl is installed."""


@dataclass(frozen=True)
class Gpu:
    """The current device that CuPy finds, or why there is none."""

    available: bool
    cupy: str | None = None
    device: str | None = None
    memory_bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class EngineStatus:
    """A way to run an LSTM on NumPy."""

    name: str
    available: bool
    note: str
    """Why it cannot run a standard LSTM here, and what to do; empty where it can."""
    kernels: str | None = None
    """The instruction set of the compiled engine's kernels."""


def find_versions() -> dict[str, str]:
    """Return the versions of this process, by name."""
    found = {"nplstm": __version__, "python": platform.python_version(), "numpy": np.__version__}
    return found | {"platform": platform.platform()}


def find_processor() -> Processor:
    """Return the processor, as the system describes it, and the SIMD instruction sets of NumPy's loops."""
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.exists() else ""
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())  # of the first CPU
    cpuinfo = {key.strip(): value.strip() for key, _, value in lines}
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    simd = _numpy_config("SIMD Extensions")
    baseline, found, not_found = (list(simd.get(kind, ())) for kind in ("baseline", "found", "not found"))
    model = cpuinfo.get("model name") or _processor_name()
    return Processor(model, instruction_sets(flags or [*baseline, *found]), baseline, found, not_found)


def instruction_sets(flags: Iterable[str]) -> list[str]:
    """Return the SIMD instruction sets among a processor's features, which Linux and NumPy write differently.

    >>> instruction_sets(["fpu", "sse4_2", "avx2"]), instruction_sets(["SSE42", "AVX2"])
    (['sse42', 'avx2'], ['sse42', 'avx2'])
    """
    names = (flag.lower().replace("_", "") for flag in flags)
    return [name for name in (_NUMPYS_LEVELS.get(name, name) for name in names) if name.startswith(_SIMD)]


def _processor_name() -> str:
    name = platform.processor()
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return name or platform.machine() or "unknown"


def _numpy_config(part: str) -> dict[str, Any]:
    config: Any = np.show_config(mode="dicts")
    return config.get(part, {})


def find_blas() -> Blas:
    """Return NumPy's BLAS as threadpoolctl describes it, or without threadpoolctl as NumPy's build does."""
    build = _numpy_config("Build Dependencies").get("blas", {})
    note, loaded = "", dict[str, Any]()
    try:
        loaded = _loaded_blas()
    except ImportError:
        note = "pip install 'nplstm[doctor]' to see its kernels, and whether others would be faster"
    threads = find_blas_threads()
    name = loaded.get("internal_api") or build.get("name") or "unknown"
    return Blas(
        OPENBLAS if "openblas" in name else name,
        version=loaded.get("version") or build.get("version"),
        file=loaded.get("filepath"),
        kernels=loaded.get("architecture"),
        threads=threads.get() if threads else None,
        threading=loaded.get("threading_layer") or ("openmp" if threads and threads.per_thread else None),
        note=note,
    )


def _loaded_blas() -> dict[str, Any]:
    """Return threadpoolctl's entry for NumPy's BLAS; empty for a library that it does not know."""
    pools = import_module("threadpoolctl").threadpool_info()
    found: list[dict[str, Any]] = [pool for pool in pools if pool["user_api"] == "blas"]
    # another OpenBLAS may be loaded, SciPy's
    return min(found, key=lambda pool: "numpy" not in pool["filepath"]) if found else {}


def find_environment() -> dict[str, str]:
    """Return the variables that are set and may act on speed."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}


def find_gpu() -> Gpu:
    """Return the GPU of the CuPy backend, or the backend's message if it is not available."""
    try:
        cupy: Any = get_backend("cupy").xp
    except BackendUnavailableError as error:
        return Gpu(available=False, note=str(error).removeprefix("backend 'cupy': "))
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name, memory = properties["name"].decode(), int(properties["totalGlobalMem"])
    return Gpu(available=True, cupy=cupy.__version__, device=name, memory_bytes=memory)


def find_engines() -> list[EngineStatus]:
    """Return for each engine for NumPy arrays whether it runs a standard LSTM here."""
    reasons = unsupported_reasons()
    kernels = {} if reasons["compiled"] else {"compiled": library().instruction_set}
    return [EngineStatus(name, not reason, reason, kernels.get(name)) for name, reason in reasons.items()]
