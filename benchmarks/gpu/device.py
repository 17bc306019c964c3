"""The GPU, the libraries that run on it and their versions; a line on what is missing."""

import os
import subprocess
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from nplstm.backends import get_backend
from nplstm.backends._cuda import CudaBackend, Device
from nplstm.errors import BackendUnavailableError

from ..common.machine import describe
from .measure import Library

_DECIDE = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE")
"""Variables that would change the precision of products."""

_ASKED = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"


class MissingError(Exception):
    """What the benchmark needs is not there; says what, in a line."""


class Gpu(NamedTuple):
    """The device, and what runs on it."""

    rival: Library | None
    ours: Callable[[Sequence[str], str], Library]  # by engines and name
    device: Device | None
    describe: Callable[[], dict[str, Any]]
    backend: str
    streams: Callable[[], Sequence[Any]] = lambda: ()
    """Contexts, in each of which launches go to another stream."""


def find_gpu(*, rival: bool) -> Gpu:
    """Return what there is; raise MissingError without CuPy or GPU, or with ``rival`` without torch and cuDNN."""
    for name in _DECIDE:  # read when a library is loaded
        os.environ.pop(name, None)
    try:
        backend = get_backend("cupy")
    except BackendUnavailableError as error:
        raise MissingError(str(error)) from error
    library: Library | None = None
    cupy = backend.xp
    try:
        check_torch()
    except MissingError:
        if rival:
            raise
    else:
        from .run_torch import Torch, TorchMeter

        library = Torch(TorchMeter(), cupy.from_dlpack)
    from .run_nplstm import CupyMeter, Nplstm

    meter = CupyMeter()
    device = backend.cuda.device() if isinstance(backend, CudaBackend) else None
    libraries = [Nplstm(meter), *([library] if library else [])]
    return Gpu(
        library,
        lambda engines, name: Nplstm(meter, engines, name),
        device,
        lambda: describe() | _properties(cupy) | {k: v for each in libraries for k, v in each.facts().items()},
        "cupy",
        lambda: [cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)],
    )


def check_torch() -> None:
    """Raise MissingError if there is no torch with a GPU and cuDNN."""
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise MissingError(f"torch is not installed ({error}): pip install torch, a build for CUDA") from error
    if not torch.cuda.is_available():
        raise MissingError(f"torch {torch.__version__} is installed but finds no GPU")
    if not torch.backends.cudnn.is_available():
        raise MissingError(f"torch {torch.__version__} is installed without cuDNN")


def _properties(cupy: Any) -> dict[str, Any]:
    device, runtime = cupy.cuda.Device(), cupy.cuda.runtime
    properties = runtime.getDeviceProperties(device.id)
    return {
        "gpu": properties["name"].decode(),
        "capability": device.compute_capability,
        "multiprocessors": int(properties["multiProcessorCount"]),
        "gpu_memory_bytes": int(properties["totalGlobalMem"]),
        "CUDA of the driver": runtime.driverGetVersion(),
        "CUDA of CuPy": runtime.runtimeGetVersion(),
        **read_clocks(device.pci_bus_id),
    }


def read_clocks(bus: str, program: str = "nvidia-smi") -> dict[str, str]:
    """Ask nvidia-smi; return nothing where it is not there or does not answer."""
    command = [program, f"--id={bus}", f"--query-gpu={_ASKED}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {_ASKED: answer.strip()}


def same_place(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the differences of two descriptions that forbid to put their figures into one table."""
    names = ("gpu", "CUDA of the driver", "commit", "nplstm", "CuPy", "torch", "cuDNN")
    return [f"{n}: {one.get(n)} and {other.get(n)}" for n in names if one.get(n) != other.get(n)]
