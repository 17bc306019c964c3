"""torch on the GPU, with TF32 allowed or not; time and memory of torch."""

import gc
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch

from ..common import with_torch
from ..common.cases import Case, Prepared
from .measure import Library


class TorchMeter:
    """On torch's current stream; memory is that of torch's allocator, cuDNN's work space among it."""

    def seconds(self, call: Callable[[], Any], calls: int) -> float:
        """Return what so many calls take together, between two events on the stream."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def peak_bytes(self, call: Callable[[], Any]) -> int:
        """Return the most that tensors take during a call, with what was there before."""
        gc.collect()
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.wait()
        return torch.cuda.max_memory_allocated()

    def wait(self) -> None:
        """Wait for the device; raise if it has failed."""
        torch.cuda.synchronize()

    def release(self) -> None:
        """Give back all memory that is not in use."""
        gc.collect()
        torch.cuda.empty_cache()


class Torch(Library):
    """torch; ``share`` makes arrays of its results, by DLPack."""

    def __init__(self, meter: Any, share: Callable[[Any], Any], device: str = "cuda") -> None:
        super().__init__("torch", meter)
        self._share, self._device = share, device

    def facts(self) -> dict[str, str]:
        """Return versions."""
        number = torch.backends.cudnn.version()
        cudnn = f"{number // 10000}.{number // 100 % 100}.{number % 100}" if number else "none"
        return {"torch": torch.__version__, "cuDNN": cudnn, "CUDA of torch": str(torch.version.cuda)}

    @contextmanager
    def settings(self, case: Case) -> Generator[None]:
        """Let cuDNN and the products round to TF32, or not."""
        allowed = case.precision == "tf32"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions would have other names for the same
            before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
            try:
                yield
            finally:
                torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before

    def make_layer(self, case: Case) -> torch.nn.LSTM:
        """Make the module on the device."""
        return with_torch.make_layer(case, self._device)

    def prepare(self, case: Case) -> dict[str, Prepared]:
        """Put the case's input on the device; a step may run from a CUDA graph, too."""
        layer = self.layer(case)
        ways = {self.name: with_torch.prepare(case, layer, self._share)}
        if self._device == "cuda" and case.steps == 1:
            try:
                ways["torch, graph"] = with_torch.prepare_graph(case, layer, self._share)
            except RuntimeError as error:  # said of this way alone
                ways["torch, graph"] = _failed(error)
        return ways


def _failed(error: Exception) -> Prepared:
    """Return a way that raises the error as soon as it is used."""

    def fail() -> Any:
        raise error

    return Prepared(fail, fail)
