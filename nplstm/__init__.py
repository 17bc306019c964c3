"""The LSTM without the framework: forward and backward, on NumPy or CuPy.

>>> import numpy as np, nplstm
>>> lstm = nplstm.LSTM(input_size=10, hidden_size=20, rng=0)
>>> output, (h_n, c_n) = lstm(np.zeros((5, 3, 10), dtype=np.float32))
>>> output.shape
(5, 3, 20)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nplstm._moved import find_moved_modules
from nplstm._version import __version__ as __version__
from nplstm.batch.packing import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
)
from nplstm.core.cell_spec import CellSpec
from nplstm.core.ops.activations import Activation
from nplstm.core.params import JoinedParameters, Parameters
from nplstm.engines import EngineChoice, get_num_threads, set_num_threads, use_engines, use_precision
from nplstm.errors import (
    ArgumentError,
    BackendError,
    BackendUnavailableError,
    DeviceError,
    DivergenceError,
    DTypeError,
    FileFormatError,
    GradcheckError,
    MissingDependencyError,
    NplstmError,
    ShapeError,
    StateDictError,
)
from nplstm.gradcheck import gradcheck
from nplstm.layers import LSTM, LSTMCell, Stream
from nplstm.training import (
    SGD,
    Adam,
    AdamW,
    Embedding,
    Linear,
    clip_grad_norm,
    clip_grad_value,
    cross_entropy,
    huber_loss,
    mse_loss,
)
from nplstm.transforms import (
    AttentionReadout,
    ContextConcatenation,
    HiddenTransform,
    Projection,
    TransformGradients,
)

if TYPE_CHECKING:
    from nplstm import io as io
    from nplstm import (
        onnx as onnx,  # not in __all__: a star import must not hide the package onnx
    )
    from nplstm.io import load, read_tensors, save

__all__ = [
    "LSTM",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "ArgumentError",
    "AttentionReadout",
    "BackendError",
    "BackendUnavailableError",
    "CellSpec",
    "ContextConcatenation",
    "DTypeError",
    "DeviceError",
    "DivergenceError",
    "Embedding",
    "EngineChoice",
    "FileFormatError",
    "GradcheckError",
    "HiddenTransform",
    "JoinedParameters",
    "LSTMCell",
    "Linear",
    "MissingDependencyError",
    "NplstmError",
    "PackedSequence",
    "Parameters",
    "Projection",
    "ShapeError",
    "StateDictError",
    "Stream",
    "TransformGradients",
    "clip_grad_norm",
    "clip_grad_value",
    "cross_entropy",
    "get_num_threads",
    "gradcheck",
    "huber_loss",
    "load",
    "mse_loss",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "read_tensors",
    "save",
    "set_num_threads",
    "use_engines",
    "use_precision",
]

_LAZY = {"io": "nplstm", "onnx": "nplstm", "load": "nplstm.io", "read_tensors": "nplstm.io", "save": "nplstm.io"}
"""What is imported when it is first used, and from where: many programs use no files."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'nplstm' has no attribute {name!r}")
    home = _LAZY[name]
    return import_module(f"{home}.{name}") if home == "nplstm" else getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


find_moved_modules()
