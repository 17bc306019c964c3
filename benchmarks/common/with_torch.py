"""How torch runs a case: ``torch.nn.LSTM``, which calls oneDNN or MKL on a CPU, and cuDNN on a GPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .cases import Case, Prepared

Share = Callable[[torch.Tensor], Any]
"""Makes an array of a tensor, to be checked."""

_WARM = 3
"""Steps on a stream of its own that torch wants ahead of a capture."""


def make_layer(case: Case, device: str = "cpu") -> torch.nn.LSTM:
    """Return a module with the case's weights."""
    layer = torch.nn.LSTM(case.H, case.H, num_layers=case.layers, bidirectional=case.bidirectional)
    layer.load_state_dict({name: torch.from_numpy(values) for name, values in case.weights().items()})
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(case.precision, torch.float32)
    layer.to(device=device, dtype=dtype).flatten_parameters()  # in one piece, as cuDNN wants
    return layer


def prepare(case: Case, layer: torch.nn.LSTM, share: Share = torch.Tensor.numpy) -> Prepared:
    """Put the case's input in place; under inference_mode where nothing is trained."""
    make = {"inference": _inference, "training": _training}.get(case.task, _step)
    return make(case, layer, share)


def _tensor(values: Any, layer: torch.nn.LSTM) -> torch.Tensor:
    return torch.from_numpy(values).to(device=layer.weight_hh_l0.device, dtype=layer.weight_hh_l0.dtype)


def _shared(tensors: dict[str, torch.Tensor], share: Share) -> dict[str, Any]:
    """Return them as arrays of float32, since not every library has bfloat16."""
    return {name: share(tensor.detach().float().contiguous()) for name, tensor in tensors.items()}


def _forward(layer: torch.nn.LSTM, x: torch.Tensor, case: Case) -> Callable[[], tuple]:
    """Return a function that runs the layer; padding is packed and unpacked as part of it."""
    if not case.padded:
        return lambda: layer(x)
    lengths = torch.from_numpy(case.lengths())

    def run() -> tuple:
        output, state = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(output, total_length=case.T)[0], state

    return run


def _inference(case: Case, layer: torch.nn.LSTM, share: Share) -> Prepared:
    layer.eval()
    call = torch.inference_mode()(_forward(layer, _tensor(case.input(), layer), case))

    def results() -> dict[str, Any]:
        output, (h_n, c_n) = call()
        return _shared({"output": output, "h_n": h_n, "c_n": c_n}, share)

    return Prepared(call, results)


def _training(case: Case, layer: torch.nn.LSTM, share: Share) -> Prepared:
    x = _tensor(case.input(), layer).requires_grad_()
    cotangent = _tensor(case.cotangent(), layer)
    forward = _forward(layer, x, case)
    layer.train()

    def forget() -> None:
        x.grad = None
        layer.zero_grad(set_to_none=True)

    def call() -> torch.Tensor:
        forget()
        output = forward()[0]
        output.backward(cotangent)  # the gradient of sum(output * cotangent)
        return output

    def results() -> dict[str, Any]:
        found = {"output": call(), "grad_input": x.grad}
        found |= {f"grad_{name}": parameter.grad for name, parameter in layer.named_parameters()}
        forget()
        return _shared(found, share)

    return Prepared(call, results)


def _step(case: Case, layer: torch.nn.LSTM, share: Share) -> Prepared:
    x, state = _tensor(case.input(), layer), None
    x_t = x[:1]
    layer.eval()

    @torch.inference_mode()
    def call() -> None:
        nonlocal state
        state = layer(x_t, state)[1]

    @torch.inference_mode()
    def results() -> dict[str, Any]:
        hx, outputs = None, []
        for t in range(case.T):
            output, hx = layer(x[t : t + 1], hx)
            outputs.append(output)
        return _shared({"output": torch.cat(outputs), "h_n": hx[0], "c_n": hx[1]}, share)

    return Prepared(call, results, "a call a step")


def prepare_graph(case: Case, layer: torch.nn.LSTM, share: Share) -> Prepared:
    """Capture a step in a CUDA graph, which reads and writes the same tensors each time."""
    x = _tensor(case.input(), layer)
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
            outputs = []
            for t in range(case.T):
                x_in.copy_(x[t : t + 1])
                replay()
                outputs.append(output.clone())
            return _shared({"output": torch.cat(outputs), "h_n": h.clone(), "c_n": c.clone()}, share)

    return Prepared(call, results, "a graph a step")


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
