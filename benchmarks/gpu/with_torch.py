"""How torch runs a case: ``torch.nn.LSTM``, which calls cuDNN on a GPU."""

import gc
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch

from .cases import Case
from .library import Library, Meter, Prepared

__all__ = ["Torch", "TorchMeter"]

_WARM = 3
"""Steps on a stream of its own that torch wants ahead of a capture."""


class TorchMeter(Meter):
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
    """torch; its results are shared with another library's arrays, by DLPack."""

    name = "torch"

    def __init__(self, meter: Meter, share: Callable[[Any], Any], device: str = "cuda") -> None:
        self.meter, self._share, self._device = meter, share, device
        self._kept: tuple[Any, torch.nn.LSTM] | None = None

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

    def prepare(self, case: Case) -> dict[str, Prepared]:
        """Make the module and its input."""
        layer = self._layer(case)
        if case.task == "forward":
            return {self.name: self._forward(layer, case)}
        if case.task == "training":
            return {self.name: self._training(layer, case)}
        ways = {self.name: self._step(layer, case)}
        if self._device == "cuda":
            try:
                ways["torch, graph"] = self._graph(layer, case)
            except RuntimeError as error:  # said of this way alone
                ways["torch, graph"] = _failed(error)
        return ways

    def forget(self) -> None:
        """Let go of the module."""
        self._kept = None

    def _layer(self, case: Case) -> torch.nn.LSTM:
        """Return the case's module, which the case before it may have had too."""
        if self._kept is None or self._kept[0] != case.layer:
            self.forget()
            layer = torch.nn.LSTM(case.H, case.H, num_layers=case.layers, bidirectional=case.bidirectional)
            weights = {name: torch.from_numpy(values) for name, values in case.weights().items()}
            layer.load_state_dict(weights)
            layer.to(device=self._device, dtype=_dtype(case)).flatten_parameters()  # in one piece, as cuDNN wants
            self._kept = case.layer, layer
        return self._kept[1]

    def _tensor(self, values: Any, case: Case) -> torch.Tensor:
        return torch.from_numpy(values).to(device=self._device, dtype=_dtype(case))

    def _shared(self, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Return them as arrays of float32, since not every library has bfloat16."""
        return {name: self._share(tensor.detach().float().contiguous()) for name, tensor in tensors.items()}

    def _forward(self, layer: torch.nn.LSTM, case: Case) -> Prepared:
        x = self._tensor(case.input(), case)
        layer.eval()
        call = torch.inference_mode()(lambda: layer(x))

        def results() -> dict[str, Any]:
            output, (h_n, c_n) = call()
            return self._shared({"output": output, "h_n": h_n, "c_n": c_n})

        return Prepared(call, results)

    def _training(self, layer: torch.nn.LSTM, case: Case) -> Prepared:
        x = self._tensor(case.input(), case).requires_grad_()
        cotangent = self._tensor(case.cotangent(), case)
        layer.train()

        def forget() -> None:
            x.grad = None
            layer.zero_grad(set_to_none=True)

        def call() -> torch.Tensor:
            forget()
            output = layer(x)[0]
            output.backward(cotangent)  # the gradient of sum(output * cotangent)
            return output

        def results() -> dict[str, Any]:
            found = {"output": call(), "grad_input": x.grad}
            found |= {f"grad_{name}": parameter.grad for name, parameter in layer.named_parameters()}
            forget()
            return self._shared(found)

        return Prepared(call, results)

    def _step(self, layer: torch.nn.LSTM, case: Case) -> Prepared:
        x, state = self._tensor(case.input(), case), None
        x_t = x[:1]
        layer.eval()

        @torch.inference_mode()
        def call() -> None:
            nonlocal state
            state = layer(x_t, state)[1]

        @torch.inference_mode()
        def results() -> dict[str, Any]:
            hx, found = None, {}
            for t in range(case.T):
                output, hx = layer(x[t : t + 1], hx)
                found[f"output_{t}"] = output[0]
            return self._shared(found | {"h_n": hx[0], "c_n": hx[1]})

        return Prepared(call, results, "cuDNN, a call a step")

    def _graph(self, layer: torch.nn.LSTM, case: Case) -> Prepared:
        """Capture a step in a CUDA graph, which reads and writes the same tensors each time."""
        x = self._tensor(case.input(), case)
        layer.eval()
        with torch.inference_mode():
            x_t = x[0].clone()
            x_in, h, c = x[:1].clone(), *(torch.zeros_like(x[:1]) for _ in range(2))

            def step() -> torch.Tensor:
                output, (h_n, c_n) = layer(x_in, (h, c))
                h.copy_(h_n)
                c.copy_(c_n)
                return output

            replay, output = _captured(step)

            @torch.inference_mode()
            def call() -> None:
                x_in[0].copy_(x_t)
                replay()

            @torch.inference_mode()
            def results() -> dict[str, Any]:
                h.zero_(), c.zero_()
                found = {}
                for t in range(case.T):
                    x_in.copy_(x[t : t + 1])
                    replay()
                    found[f"output_{t}"] = output[0].clone()
                return self._shared(found | {"h_n": h.clone(), "c_n": c.clone()})

        return Prepared(call, results, "cuDNN, a graph a step")


def _captured(step: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """Return what repeats the step, and the tensor that it leaves its output in."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    return graph.replay, output


def _failed(error: Exception) -> Prepared:
    """Return a way that raises the error as soon as it is used."""

    def fail() -> Any:
        raise error

    return Prepared(fail, fail)


def _dtype(case: Case) -> torch.dtype:
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(case.precision, torch.float32)
