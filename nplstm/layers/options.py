"""The options of an ``LSTM``, checked, and the sizes and parameter shapes that they imply."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from nplstm._shapes import Axis, check_choice, check_flag, check_number, check_size
from nplstm.core.cell_spec import CellSpec
from nplstm.core.hidden_transform import check_transform
from nplstm.core.initialisers import ParameterSpec
from nplstm.errors import ArgumentError
from nplstm.layers.output import MERGES
from nplstm.layers.stack import Wiring

__all__ = ["DEFAULTS", "Options", "cell_options", "gate_misfit", "lstm_options"]

DEFAULTS: dict[str, Any] = {
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
    "cell": CellSpec(),
    "hidden_transform": None,
    "stacking": "concat",
    "merge": "concat",
    "residual": False,
    "reverse": False,
    "output_order": "time",
}
"""The options that are printed and saved, ``recurrent_size`` aside, with their values where they are left out."""


class Options(NamedTuple):
    """The options of an ``LSTM`` or ``LSTMCell``, and what follows from them. Layer l, direction d."""

    input_size: int
    hidden_sizes: tuple[int, ...]  # H of each layer
    recurrent_sizes: tuple[int, ...]  # R of each layer
    proj_size: int  # 0 for none
    bias: bool
    cell: CellSpec
    transform: Any  # a HiddenTransform, or None
    state_size: int  # S, of the hidden transform
    wiring: Wiring
    dropout: float = 0.0
    batch_first: bool = False
    merge: str = "concat"
    output_order: str = "time"
    by_layer: bool = False  # whether the user's states are a tuple over layers: their sizes may differ
    single_step: bool = False  # an LSTMCell: no axes for steps, layers and directions, no numbers in names

    @property
    def owner(self) -> str:
        """What errors call the layer."""
        return "the LSTMCell" if self.single_step else "the LSTM"

    @property
    def state_names(self) -> tuple[str, str, str]:
        """What errors call the members of the initial state."""
        return ("h", "c", "s") if self.single_step else ("h_0", "c_0", "s_0")

    @property
    def gradient_names(self) -> tuple[str, str, str]:
        """What errors call the gradients of the final state."""
        return ("grad_h", "grad_c", "grad_s") if self.single_step else ("grad_h_n", "grad_c_n", "grad_s_n")

    @property
    def layers(self) -> int:
        """L."""
        return len(self.hidden_sizes)

    @property
    def directions(self) -> int:
        """D."""
        return len(self.wiring.reverse)

    @property
    def uniform(self) -> bool:
        """Whether all layers have one size: then their states are one array."""
        return not self.by_layer or len({*self.hidden_sizes}) == 1

    @property
    def flipped(self) -> bool:
        """Whether the output is in the order of processing, of a layer that runs in reverse."""
        return self.output_order == "processing"

    def suffix(self, layer: int, d: int) -> str:
        """Return what ends a parameter's name."""
        return "" if self.single_step else f"_l{layer}" + ("_reverse" if d == 1 else "")

    def h_axis(self, layer: int) -> Axis:
        """Name and size of the last axis of h."""
        return ("P", self.proj_size) if self.proj_size else ("H", self.hidden_sizes[layer])

    def state_axes(self, *, recurrent: bool = False) -> list[list[Axis]]:
        """Return the last axes of h (of r_0 with ``recurrent``), of c and, where the transform has one, of s."""
        layers = range(self.layers)
        first: list[Axis] = [("R", self.recurrent_sizes[k]) if recurrent else self.h_axis(k) for k in layers]
        axes: list[list[Axis]] = [first, [("H", self.hidden_sizes[k]) for k in layers]]
        return [*axes, [("S", self.state_size)] * self.layers] if self.state_size else axes

    @property
    def steps_outside(self) -> bool:
        """Whether what becomes of h between steps is the caller's business: R is not P, and nothing transforms."""
        if self.transform is not None:
            return False
        return any(self.h_width(layer) != R for layer, R in enumerate(self.recurrent_sizes))

    def h_width(self, layer: int) -> int:
        """P."""
        return self.proj_size or self.hidden_sizes[layer]

    def layer_input(self, layer: int) -> int:
        """Return the width of what a direction of a layer reads."""
        if layer == 0:
            return self.input_size
        return self.h_width(layer - 1) * (1 if self.wiring.independent else self.directions)

    @property
    def output_axis(self) -> Axis:
        """Name and size of the last axis of the output, or of each of its parts where they are not merged."""
        name, size = self.h_axis(self.layers - 1)
        return ("D*" + name, self.directions * (size or 0)) if self.merge == "concat" else (name, size)

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        """Return the shapes and initial values of all parameters, in the order in which they are drawn."""
        return {
            name + self.suffix(layer, d): spec
            for layer in range(self.layers)
            for d in range(self.directions)
            for name, spec in self._specs_of(layer).items()
        }

    def _specs_of(self, layer: int) -> dict[str, ParameterSpec]:
        """Return those of one direction of a layer."""
        cell, I, H, R = self.cell, self.layer_input(layer), self.hidden_sizes[layer], self.recurrent_sizes[layer]
        K, seen, bound = cell.gates * H, cell.peepholes * H, H**-0.5
        specs = {
            "weight_ih": ParameterSpec(cell.init_ih, (K, I), bound),
            "weight_hh": ParameterSpec(cell.init_hh, (K, R), bound),
        }
        if self.bias:
            kind, number = ("uniform", bound) if cell.init_bias == "uniform" else ("constant", 0.0)
            # the two biases add up
            specs["bias_ih"] = ParameterSpec(kind, (K,), number, cell.forget_bias)
            specs["bias_hh"] = ParameterSpec(kind, (K,), number, None if cell.forget_bias is None else 0.0)
        if self.proj_size:
            specs["weight_hr"] = ParameterSpec("uniform", (self.proj_size, H), bound)
        if cell.peephole:
            shape = (seen,) if cell.peephole == "diagonal" else (seen, H)
            specs["weight_ch"] = ParameterSpec("uniform", shape, bound)
        if cell.layer_norm:
            specs |= {name: ParameterSpec("constant", (K,), 1.0) for name in ("gain_ih", "gain_hh")}
            specs["gain_c"] = ParameterSpec("constant", (H,), 1.0)
            if self.bias:
                specs["bias_c"] = ParameterSpec("constant", (H,), 0.0)
        if self.transform is not None and hasattr(self.transform, "parameter_shapes"):
            for name, shape in _parameter_shapes(self.transform, self.h_width(layer), R).items():
                specs["transform_" + name] = ParameterSpec("uniform", shape, bound)
        return specs


def cell_options(input_size: Any, hidden_size: Any, *, bias: Any, cell: Any, recurrent_size: Any) -> Options:
    """Check an ``LSTMCell``'s options against each other."""
    H = check_size("hidden_size", hidden_size)
    options = Options(
        check_size("input_size", input_size),
        (H,),
        (H if recurrent_size is None else check_size("recurrent_size", recurrent_size),),
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
    options = Options(
        check_size("input_size", input_size),
        hidden_sizes,
        tuple(_recurrent_size(recurrent_size, hidden_transform, proj_size or size) for size in hidden_sizes),
        proj_size,
        bias,
        cell,
        hidden_transform,
        getattr(hidden_transform, "state_size", 0),
        Wiring((False, True) if bidirectional else (reverse,), stacking == "independent"),
        dropout,
        batch_first,
        merge,
        output_order,
        by_layer,
    )
    _check_output_order(options)
    _check_zoneout(options)
    return options._replace(wiring=options.wiring._replace(residual=_residual_layers(residual, options)))


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
            f"zoneout_h={options.cell.zoneout_h} keeps h_{{t-1}}, which the layer does not get with recurrent_size="
            f"{options.recurrent_sizes[0]}, hidden_size={options.h_width(0)} and no hidden_transform"
        )


def _parameter_shapes(transform: Any, width: int, R: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a hidden transform's parameters, checked."""
    owner = f"hidden_transform: {type(transform).__name__}.parameter_shapes"
    shapes = transform.parameter_shapes(width, R)
    if not isinstance(shapes, dict):
        raise ArgumentError(f"{owner}: expected a dict of name to shape, got {type(shapes).__name__}")
    checked: dict[str, tuple[int, ...]] = {}
    for name, shape in cast("dict[Any, Any]", shapes).items():
        if not isinstance(name, str) or not isinstance(shape, tuple | list):
            raise ArgumentError(f"{owner}: expected names and shapes, got {name!r}: {shape!r}")
        sizes = cast("tuple[Any, ...]", shape)
        checked[name] = tuple(check_size(f"{owner}[{name!r}]", size, minimum=0) for size in sizes)
    return checked


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


def gate_misfit(spec: CellSpec, name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str | None:
    """Say so where a parameter's shape has rows for a forget gate that the cell has not; else None."""
    by_gate = ("weight_ih", "weight_hh", "weight_ch", "bias_ih", "bias_hh", "gain_ih", "gain_hh")
    gates = 2 if name.startswith("weight_ch") else 3
    if not spec.coupled_input_forget or not name.startswith(by_gate):
        return None
    if not got or got[0] * gates != expected[0] * (gates + 1):
        return None
    return (
        f"{got} has rows for a forget gate, and with coupled_input_forget=True there is none "
        f"(f = 1 - i): expected {expected}, without the second block"
    )
