"""How torch runs a case: ``torch.nn.LSTM`` on the CPU, under inference_mode where nothing is trained."""

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .cases import Case
from .machine import parse_verbose
from .prepared import Prepared, versions_of

__all__ = ["instructions", "prepare", "start"]


def start(threads: int) -> dict[str, str]:
    """Set the threads, and say what runs."""
    torch.set_num_threads(threads)
    return versions_of("torch")


_VERBOSE = """
import torch
with torch.inference_mode():
    torch.nn.LSTM(16, 16)(torch.ones(2, 2, 16))
    torch.ones(64, 64) @ torch.ones(64, 64)
"""
"""oneDNN runs torch's LSTM, but for packed sequences, whose products are MKL's."""


def instructions() -> dict[str, str]:
    """Return which instruction sets torch's own kernels, oneDNN and MKL say they use.

    The two libraries tell by printing, and are asked in a process with the same environment.
    """
    env = os.environ | {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    printed = subprocess.run([sys.executable, "-c", _VERBOSE], env=env, capture_output=True, text=True, check=True)
    return {"ATen": torch.backends.cpu.get_cpu_capability()} | parse_verbose(printed.stdout)


def prepare(case: Case) -> dict[str, Prepared]:
    """Make the module and its input."""
    layer = torch.nn.LSTM(case.H, case.H, num_layers=case.layers, bidirectional=case.bidirectional)
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in case.weights().items()})
    make = {"step": _step, "inference": _inference, "training": _training}[case.task]
    return {"": make(layer, case)}


def _forward(layer: torch.nn.LSTM, x: torch.Tensor, case: Case) -> Callable[[], tuple]:
    """Return a function that runs the layer; padding is packed and unpacked as part of it."""
    if not case.padded:
        return lambda: layer(x)
    lengths = torch.from_numpy(case.lengths())

    def run() -> tuple:
        output, state = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(output, total_length=case.T)[0], state

    return run


def _inference(layer: torch.nn.LSTM, case: Case) -> Prepared:
    call = torch.inference_mode()(_forward(layer, torch.from_numpy(case.input()), case))

    def results() -> dict[str, np.ndarray]:
        output, (h_n, c_n) = call()
        return {"output": output.numpy(), "h_n": h_n.numpy(), "c_n": c_n.numpy()}

    return Prepared(call, results)


def _training(layer: torch.nn.LSTM, case: Case) -> Prepared:
    x = torch.from_numpy(case.input()).requires_grad_()
    cotangent = torch.from_numpy(case.cotangent())
    forward = _forward(layer, x, case)

    def call() -> torch.Tensor:
        x.grad = None
        layer.zero_grad(set_to_none=True)
        output = forward()[0]
        output.backward(cotangent)  # the gradient of sum(output * cotangent)
        return output

    def results() -> dict[str, np.ndarray]:
        output = call()
        return {"output": output.detach().numpy(), "grad_input": x.grad.numpy()} | {
            f"grad_{name}": parameter.grad.numpy() for name, parameter in layer.named_parameters()
        }

    return Prepared(call, results)


def _step(layer: torch.nn.LSTM, case: Case) -> Prepared:
    x, state = torch.from_numpy(case.input()), None
    x_t = x[:1]

    @torch.inference_mode()
    def call() -> None:
        nonlocal state
        state = layer(x_t, state)[1]

    @torch.inference_mode()
    def results() -> dict[str, np.ndarray]:
        hx, outputs = None, []
        for t in range(case.T):
            output, hx = layer(x[t : t + 1], hx)
            outputs.append(output)
        return {"output": torch.cat(outputs).numpy(), "h_n": hx[0].numpy(), "c_n": hx[1].numpy()}

    return Prepared(call, results)
