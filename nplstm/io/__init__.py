"""Reading and writing files of weights and layers, and the weight formats of other programs.

A file is written beside its destination and renamed when it is complete: a full disk, a crash or Ctrl-C leaves the
old file as it was. No file that is read can run code. The package that a format needs is imported when it is used.
"""

from typing import TYPE_CHECKING, Any

from nplstm.io._atomic import atomic_write
from nplstm.io.detect_format import open_file, read_tensors
from nplstm.io.layer_files import load, save, write_tensors
from nplstm.io.model_file import FoundLayer, ModelFile, TensorInfo
from nplstm.io.weight_formats import from_layout, from_weight_format, to_layout, to_weight_format

if TYPE_CHECKING:
    from nplstm.io.keras.keras_weights import keras_weights

__all__ = [
    "FoundLayer",
    "ModelFile",
    "TensorInfo",
    "atomic_write",
    "from_layout",
    "from_weight_format",
    "keras_weights",
    "load",
    "open_file",
    "read_tensors",
    "save",
    "to_layout",
    "to_weight_format",
    "write_tensors",
]


def __getattr__(name: str) -> Any:
    if name == "keras_weights":  # imported here, because `import nplstm` does not need it
        from nplstm.io.keras.keras_weights import keras_weights

        return keras_weights
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
