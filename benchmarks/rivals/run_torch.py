"""torch in a worker's process."""

import os
import subprocess
import sys
from importlib.metadata import version

import torch

from ..common import with_torch
from ..common.cases import Case, Prepared
from .instruction_sets import parse_verbose

_VERBOSE = """
import torch
with torch.inference_mode():
    torch.nn.LSTM(16, 16)(torch.ones(2, 2, 16))
    torch.ones(64, 64) @ torch.ones(64, 64)
"""
"""oneDNN runs torch's LSTM, but for packed sequences, whose products are MKL's."""


def start(threads: int) -> dict[str, str]:
    """Set the threads; return the version."""
    torch.set_num_threads(threads)
    return {"torch": version("torch")}


def instructions() -> dict[str, str]:
    """Return which instruction sets torch's own kernels, oneDNN and MKL say they use.

    The two libraries tell by printing, and are asked in a process with the same environment.
    """
    env = os.environ | {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    printed = subprocess.run([sys.executable, "-c", _VERBOSE], env=env, capture_output=True, text=True, check=True)
    return {"ATen": torch.backends.cpu.get_cpu_capability()} | parse_verbose(printed.stdout)


def prepare(case: Case) -> dict[str, Prepared]:
    """Make the module and its input."""
    return {"": with_torch.prepare(case, with_torch.make_layer(case))}
