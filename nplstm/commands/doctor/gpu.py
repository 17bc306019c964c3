"""The GPU that CuPy finds, if there is one."""

from dataclasses import dataclass
from typing import Any

from nplstm.backends import get_backend
from nplstm.errors import BackendUnavailableError


@dataclass(frozen=True)
class Gpu:
    """The current device, or why there is none."""

    available: bool
    cupy: str | None = None
    device: str | None = None
    memory_bytes: int | None = None
    note: str = ""


def find_gpu() -> Gpu:
    """Load the CuPy backend; its own message says what is missing."""
    try:
        cupy: Any = get_backend("cupy").xp
    except BackendUnavailableError as error:
        return Gpu(available=False, note=str(error).removeprefix("backend 'cupy': "))
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name, memory = properties["name"].decode(), int(properties["totalGlobalMem"])
    return Gpu(available=True, cupy=cupy.__version__, device=name, memory_bytes=memory)
