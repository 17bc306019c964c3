"""The options of an ``LSTM`` or ``LSTMCell``, checked against each other."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from nplstm._shapes import check_choice, check_flag, check_number, check_size
from nplstm.core.cell_spec import CellSpec
from nplstm.core.hidden_transform import check_transform
from nplstm.errors import ArgumentError
from nplstm.layers.options import Options
from nplstm.layers.output import MERGES
from nplstm.layers.stack import Wiring

__all__ = ["cell_options", "lstm_options"]


def cell_options(input_size: Any, hidden_size: Any, *, bias: Any, cell: Any, recurrent_size: Any) -> Options:
    """Check an ``LSTMCell``'s options against each other."""
    H = check_size("hidden_size", hidden_size)
    options = Options(
        input_size=check_size("input_size", input_size),
        hidden_sizes=(H,),
        recurrent_sizes=(H if recurrent_size is None else check_size("recurrent_size", recurrent_size),),
        proj_size=0,
        bias=check_flag("bias", bias),
        cell=_checked_spec(cell, bias=bias),
        transform=None,
        state_size=0,
        wiring=Wiring((False,)),
        single_step=True,
    )
    _check_zoneout(options)
    return options


def lstm_options(
    input_size: Any,
    hidden_size: Any,
    num_layers: Any,
    *,
    bias: Any,
    batch_first: Any,
    dropout: Any,
    bidirectional: Any,
    proj_size: Any,
    cell: Any,
    recurrent_size: Any,
    hidden_transform: Any,
    stacking: Any,
    merge: Any,
    residual: Any,
    reverse: Any,
    output_order: Any,
) -> Options:
    """Check an ``LSTM``'s options against each other."""
    bias = check_flag("bias", bias)
    cell = _checked_spec(cell, bias=bias)
    batch_first = check_flag("batch_first", batch_first)
    dropout = check_number("dropout", dropout, minimum=0.0, maximum=1.0)
    bidirectional = check_flag("bidirectional", bidirectional)
    proj_size = check_size("proj_size", proj_size, minimum=0)
    if hidden_transform is not None:
        check_transform(hidden_transform)
    layers = check_size("num_layers", num_layers)
    by_layer = isinstance(hidden_size, tuple | list)
    sizes = tuple(cast("Sequence[Any]", hidden_size)) if by_layer else (hidden_size,) * layers
    hidden_sizes = tuple(check_size("hidden_size", size) for size in sizes)
    if len(hidden_sizes) != layers:
        raise ArgumentError(f"hidden_size: expected one for each of num_layers={layers}, got {hidden_size!r}")
    if proj_size >= min(hidden_sizes):
        raise ArgumentError(
            f"proj_size: expected less than hidden_size={min(hidden_sizes)} (0 for none), got {proj_size}"
        )
    check_choice("stacking", stacking, ("concat", "independent"))
    check_choice("merge", merge, MERGES)
    for argument, value in (("stacking", stacking), ("merge", merge)):
        if value != "concat" and not bidirectional:
            raise ArgumentError(f"{argument}={value!r} is about two directions, and bidirectional=False has one")
    reverse = check_flag("reverse", reverse)
    if reverse and bidirectional:
        raise ArgumentError("reverse=True runs one direction from the end, and bidirectional=True runs both")
    recurrent_sizes = [_recurrent_size(recurrent_size, hidden_transform, proj_size or H) for H in hidden_sizes]
    options = Options(
        input_size=check_size("input_size", input_size),
        hidden_sizes=hidden_sizes,
        recurrent_sizes=tuple(recurrent_sizes),
        proj_size=proj_size,
        bias=bias,
        cell=cell,
        transform=hidden_transform,
        state_size=getattr(hidden_transform, "state_size", 0),
        wiring=Wiring((False, True) if bidirectional else (reverse,), stacking == "independent"),
        dropout=dropout,
        batch_first=batch_first,
        merge=merge,
        output_order=output_order,
        by_layer=by_layer,
    )
    _check_output_order(options)
    _check_zoneout(options)
    return replace(options, wiring=replace(options.wiring, residual=_residual_layers(residual, options)))


def _checked_spec(cell: Any, *, bias: bool) -> CellSpec:
    """Return the spec of a layer, the standard one for None; raise where it has no meaning there."""
    spec = CellSpec() if cell is None else cell
    if not isinstance(spec, CellSpec):
        raise ArgumentError(f"cell: expected a CellSpec, got {cell!r}")
    if spec.forget_bias is not None and not bias:
        raise ArgumentError(f"forget_bias={spec.forget_bias} sets a bias, and bias=False has none")
    return spec


def _check_output_order(options: Options) -> None:
    order: Any = options.output_order
    if not isinstance(order, str) or order not in ("time", "processing"):
        raise ArgumentError(f"output_order: expected 'time' or 'processing', got {order!r}")
    if order == "processing" and options.wiring.reverse != (True,):
        raise ArgumentError("output_order='processing' is about reverse=True, which the layer is not")


def _check_zoneout(options: Options) -> None:
    if options.steps_outside and options.cell.zoneout_h > 0:
        raise ArgumentError(
            f"zoneout_h={options.cell.zoneout_h} keeps h_{{t-1}}, which the layer does not get with "
            f"recurrent_size={options.recurrent_sizes[0]}, hidden_size={options.h_width(0)} and no "
            f"hidden_transform"
        )


def _recurrent_size(recurrent_size: Any, transform: Any, width: int) -> int:
    """Return R for an h of this width."""
    own = transform.recurrent_size(width) if hasattr(transform, "recurrent_size") else None
    if recurrent_size is None:
        return width if own is None else check_size("hidden_transform's recurrent_size", own)
    size = check_size("recurrent_size", recurrent_size)
    if own is not None and own != size:
        raise ArgumentError(
            f"recurrent_size={size}, but {transform!r} makes {own} of an h that is {width} wide: give one of them"
        )
    return size


def _residual_layers(residual: Any, options: Options) -> frozenset[int]:
    """Return which layers add their input to their output; their widths have to be equal."""
    if isinstance(residual, tuple | list | set | frozenset):
        layers = {check_size("residual", layer, minimum=0) for layer in cast("Sequence[Any]", residual)}
        if layers and max(layers) >= options.layers:
            raise ArgumentError(f"residual: expected layers below num_layers={options.layers}, got {residual!r}")
    else:
        layers = set(range(1, options.layers)) if check_flag("residual", residual) else set[int]()
    for layer in sorted(layers):
        columns = 1 if options.wiring.independent else options.directions
        width, read = columns * options.h_width(layer), options.layer_input(layer)
        if width != read:
            raise ArgumentError(
                f"residual: layer {layer} would add its input, {read} wide, to its output, {width} wide"
            )
    return frozenset(layers)
