"""ONNX files: models of any origin as layers, and layers as models that any ONNX runtime runs."""

from typing import Any

from nplstm.io._optional import optional

__all__ = ["onnx_library"]


def onnx_library() -> Any:
    """Return the package onnx, which is imported when a model is read or written."""
    return optional("onnx", extra="onnx", files=".onnx")
