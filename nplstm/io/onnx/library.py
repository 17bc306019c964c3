"""The package onnx, loaded when a model is read or written."""

from typing import Any

from nplstm.io._optional import optional

__all__ = ["onnx_library"]


def onnx_library() -> Any:
    """Return the package onnx."""
    return optional("onnx", extra="onnx", files=".onnx")
