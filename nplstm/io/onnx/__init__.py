"""ONNX files: models of any origin as layers, and layers as models that any ONNX runtime runs."""
