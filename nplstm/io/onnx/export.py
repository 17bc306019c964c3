"""``export``: write a layer as an ONNX model."""

import os
from typing import Any

from nplstm._shapes import check_flag, check_size
from nplstm._version import __version__
from nplstm.errors import ArgumentError
from nplstm.io._atomic import atomic_write
from nplstm.io.layer_metadata import metadata_of
from nplstm.io.onnx import onnx_library
from nplstm.io.onnx.exported_layer import export_metadata
from nplstm.io.onnx.graph_builder import GraphBuilder
from nplstm.io.onnx.layer_graph import add_cell, add_lstm
from nplstm.layers import LSTM, LSTMCell

__all__ = ["DEFAULT_OPSET", "export"]

DEFAULT_OPSET = 14
"""The first with the operator LSTM as it is now (22 added bfloat16 alone): what most runtimes can read."""

_LAST_OPSET = 24
"""The last that the tests run."""


def export(
    layer: LSTM | LSTMCell,
    path: str | os.PathLike[str],
    *,
    states: bool = False,
    lengths: bool = False,
    opset: int = DEFAULT_OPSET,
) -> None:
    """Write a layer as an ONNX model that computes what ``layer(input)`` does.

    The file is complete, or not changed at all. For an ``LSTM``, where T and B, at least 1, may differ in each
    run, and H is the width of a layer::

        inputs   "input"           (T, B, I), or (B, T, I) with batch_first
                 "h_0", "c_0"      (L * D, B, H)                              with states=True
                 "lengths"         (B,), int32, each in [0, T]                with lengths=True
        outputs  "output"          (T, B, D * H), or as merge says, or (B, T, ...) with batch_first
                 "output_reverse"  the second direction's, with merge="none"
                 "h_n", "c_n"      (L * D, B, H)

    States are in the layer's order. With a tuple for ``hidden_size`` there is one array for each layer:
    "h_0_l0" (D, B, H_0), "h_0_l1", ..., and likewise of c_0, h_n and c_n.

    For an ``LSTMCell``, one step, with torch's names::

        inputs   "input" (B, I), "h_0", "c_0" (B, H)
        outputs  "h_1", "c_1" (B, H)

    Options with an effect only in training (dropout, weight dropout, initialisers) are not in the graph. All
    options are in the model's metadata, so that ``nplstm.load`` returns the same layer, unless the graph was
    changed since.

    Parameters
    ----------
    layer : LSTM or LSTMCell
        On either backend.
    path : str or PathLike
        Replaced where it exists.
    states : bool
        Whether the initial states are inputs; else they are zeros. Those of a cell always are inputs.
    lengths : bool
        Whether the sequences' lengths are an input, as in a call of the layer: steps past a sequence's end are not
        read and are zero in the output, and a sequence of length 0 keeps its initial state.
    opset : int in [14, 24]
        Version of ONNX's operators. The default is the oldest, because newer ones add nothing that is used here;
        every onnxruntime since 1.8 reads it.

    Raises
    ------
    ArgumentError
        If the layer has options that ONNX's LSTM does not have, all of which the message names: ``proj_size``,
        ``hidden_transform``, a ``recurrent_size`` other than H, ``layer_norm``, ``cell_clip``, ``zoneout_h``,
        ``zoneout_c``, ``peephole="full"``. If the weights take 2 GiB or more. If another argument is invalid.
    MissingDependencyError
        If the package onnx is not installed.
    OSError
        If the file cannot be written; what was there is intact.

    Notes
    -----
    The model has the layer's element type. onnxruntime's CPU kernel computes only in float32: it runs float16
    models so, and refuses float64. A float64 layer is still written in float64: ONNX defines it, onnxruntime on
    CUDA and ONNX's reference run it, and ``nplstm.load`` reads it exactly. For onnxruntime on a CPU, call
    ``layer.to(dtype="float32")`` first.

    Nodes and weights are named by layers, as parameters are: "lstm_l0", "W_l0", "R_l0", "B_l0", "P_l0", "lstm_l1",
    ...; with ``stacking="independent"`` the second direction has nodes of its own, "lstm_l0_reverse".

    Constants of activations, and ``clip``, are attributes, which ONNX holds in float32. Activations are ONNX's;
    the notes of ``nplstm.onnx.lstm`` say where onnxruntime differs.

    The batch is never the operator's first axis (``layout=1``), which onnxruntime refuses: the graph transposes
    before and after the operator instead.

    Examples
    --------
    >>> import nplstm, onnx, pathlib, tempfile
    >>> lstm = nplstm.LSTM(2, 3, bidirectional=True, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nplstm.onnx.export(lstm, pathlib.Path(folder) / "lstm.onnx", states=True, lengths=True)
    ...     model = onnx.load(pathlib.Path(folder) / "lstm.onnx")
    >>> [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    (['input', 'h_0', 'c_0', 'lengths'], ['output', 'h_n', 'c_n'])
    >>> [tensor.name for tensor in model.graph.initializer][:3]
    ['W_l0', 'R_l0', 'B_l0']

    Such a model runs with onnxruntime: ``InferenceSession("lstm.onnx").run(None, {"input": x, ...})``.
    """
    if not isinstance(layer, LSTM | LSTMCell):
        raise ArgumentError(f"layer: expected an LSTM or an LSTMCell, got {type(layer).__name__}")
    _check_options(layer)
    check_flag("states", states)
    if check_flag("lengths", lengths) and isinstance(layer, LSTMCell):
        raise ArgumentError("lengths: an LSTMCell takes one step, whose sequences have no lengths")
    data = _model(layer, states, lengths, _checked_opset(opset)).SerializeToString()
    onnx_library().checker.check_model(data, full_check=True)
    with atomic_write(path) as file:
        file.write(data)


def _check_options(layer: LSTM | LSTMCell) -> None:
    """Raise if the layer has options that ONNX's operator does not have; the message names all."""
    cell = layer.cell
    beyond: dict[str, Any] = {name: getattr(cell, name) for name in ("layer_norm", "cell_clip")}
    beyond |= {name: getattr(cell, name) for name in ("zoneout_h", "zoneout_c")}
    beyond["peephole"] = "full" if cell.peephole == "full" else None
    if isinstance(layer, LSTM):
        beyond |= {name: getattr(layer, name) for name in ("proj_size", "hidden_transform")}
        beyond["recurrent_size"] = layer.recurrent_given
    elif layer.recurrent_size != layer.hidden_size:
        beyond["recurrent_size"] = layer.recurrent_size
    found = [f"{name}={value!r}" for name, value in beyond.items() if value not in (None, 0)]
    if found:
        raise ArgumentError(f"layer: ONNX's LSTM operator does not have {', '.join(found)}")


def _checked_opset(opset: int) -> int:
    last = min(_LAST_OPSET, onnx_library().defs.onnx_opset_version())
    if not DEFAULT_OPSET <= check_size("opset", opset) <= last:
        raise ArgumentError(
            f"opset: expected an integer in [{DEFAULT_OPSET}, {last}] (onnx {onnx_library().__version__} is "
            f"installed), got {opset}"
        )
    return int(opset)


def _model(layer: LSTM | LSTMCell, states: bool, lengths: bool, opset: int) -> Any:
    """Return the ``ModelProto``."""
    graph = GraphBuilder(layer.dtype)
    if isinstance(layer, LSTMCell):
        add_cell(graph, layer)
    else:
        add_lstm(graph, layer, states=states, lengths=lengths)
    model = graph.model(type(layer).__name__, opset, producer_name="nplstm", producer_version=__version__)
    onnx_library().helper.set_model_props(model, export_metadata(model, metadata_of(layer)))
    return model
