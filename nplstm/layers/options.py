"""What the options of an ``LSTM`` come to: how many layers and directions, how wide, which parameters."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from nplstm._shapes import Axis, check_choice, check_flag, check_size
from nplstm.core.cell_spec import CellSpec
from nplstm.core.initialisers import ParameterSpec
from nplstm.errors import ArgumentError
from nplstm.layers.merge import MERGES
from nplstm.layers.stack import Wiring

__all__ = ["DEFAULTS", "Structure", "build_structure", "check_combinations", "parameter_specs"]

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
"""The options that are printed and saved, ``recurrent_size`` aside, with what they are where they are left out."""


class Structure(NamedTuple):
    """The sizes of an ``LSTM``. Layer l, direction d."""

    input_size: int
    hidden_sizes: tuple[int, ...]  # H of each layer
    recurrent_sizes: tuple[int, ...]  # R of each layer
    proj_size: int  # 0 for none
    transformed: bool  # whether there is a hidden transform
    state_size: int  # S, of the hidden transform
    wiring: Wiring
    merge: str
    by_layer: bool  # whether states are a tuple over layers: their sizes may differ

    @property
    def layers(self) -> int:
        """L."""
        return len(self.hidden_sizes)

    @property
    def directions(self) -> int:
        """D."""
        return len(self.wiring.directions)

    def suffix(self, layer: int, d: int) -> str:
        """Return what ends a parameter's name."""
        return f"_l{layer}" + ("_reverse" if d == 1 else "")

    def place(self, layer: int, d: int) -> int:
        """Return where a state stands among all: by layers, or in independent columns by directions."""
        return d * self.layers + layer if self.wiring.independent else layer * self.directions + d

    def h_axis(self, layer: int) -> Axis:
        """Name and size of the last axis of h."""
        return ("P", self.proj_size) if self.proj_size else ("H", self.hidden_sizes[layer])

    def c_axis(self, layer: int) -> Axis:
        """Name and size of the last axis of c."""
        return "H", self.hidden_sizes[layer]

    def r_axis(self, layer: int) -> Axis:
        """Name and size of the last axis of the recurrent input."""
        return "R", self.recurrent_sizes[layer]

    @property
    def state_axes(self) -> list[list[Axis]]:
        """The last axes of h, of c and, where the hidden transform has a state, of s; by layer."""
        layers = range(self.layers)
        axes = [[self.h_axis(layer) for layer in layers], [self.c_axis(layer) for layer in layers]]
        return [*axes, [("S", self.state_size)] * self.layers] if self.state_size else axes

    @property
    def steps_outside(self) -> bool:
        """Whether what becomes of h between steps is the caller's business: R is not P, and nothing transforms."""
        return not self.transformed and any(
            self.recurrent_sizes[layer] != self.h_width(layer) for layer in range(self.layers)
        )

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

    def starts(
        self, layer: int, d: int, spec: CellSpec, transform: Any, *, bias: bool
    ) -> dict[str, ParameterSpec]:
        """Return the parameters of a layer and direction: shapes, and how they start."""
        return parameter_specs(
            spec,
            self.suffix(layer, d),
            self.layer_input(layer),
            self.hidden_sizes[layer],
            self.recurrent_sizes[layer],
            bias=bias,
            proj_size=self.proj_size,
            transform=transform,
        )


def parameter_specs(
    spec: CellSpec, suffix: str, I: int, H: int, R: int, *, bias: bool, proj_size: int = 0, transform: Any = None
) -> dict[str, ParameterSpec]:
    """Return the parameters of one layer in one direction, in the order in which they are drawn."""
    K, seen, bound = spec.gates * H, spec.peepholes * H, H**-0.5
    starts = {
        "weight_ih": ParameterSpec(spec.init_ih, (K, I), bound),
        "weight_hh": ParameterSpec(spec.init_hh, (K, R), bound),
    }
    if bias:
        start = (
            ParameterSpec("uniform", (K,), bound)
            if spec.init_bias == "uniform"
            else ParameterSpec("constant", (K,), 0.0)
        )
        # the two biases add up
        starts["bias_ih"] = start._replace(forget=spec.forget_bias)
        starts["bias_hh"] = start._replace(forget=None if spec.forget_bias is None else 0.0)
    if proj_size:
        starts["weight_hr"] = ParameterSpec("uniform", (proj_size, H), bound)
    if spec.peephole:
        starts["weight_ch"] = ParameterSpec(
            "uniform", (seen,) if spec.peephole == "diagonal" else (seen, H), bound
        )
    if spec.layer_norm:
        starts |= {name: ParameterSpec("constant", (K,), 1.0) for name in ("gain_ih", "gain_hh")}
        starts["gain_c"] = ParameterSpec("constant", (H,), 1.0)
        if bias:
            starts["bias_c"] = ParameterSpec("constant", (H,), 0.0)
    if transform is not None and hasattr(transform, "parameter_shapes"):
        for name, shape in _parameter_shapes(transform, proj_size or H, R).items():
            starts["transform_" + name] = ParameterSpec("uniform", shape, bound)
    return {name + suffix: start for name, start in starts.items()}


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


def build_structure(
    input_size: Any,
    hidden_size: Any,
    num_layers: Any,
    *,
    bidirectional: bool,
    proj_size: int,
    recurrent_size: Any,
    transform: Any,
    stacking: Any,
    merge: Any,
    residual: Any,
    reverse: Any,
) -> Structure:
    """Check an ``LSTM``'s options against each other."""
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
    structure = Structure(
        check_size("input_size", input_size),
        hidden_sizes,
        tuple(_recurrent_size(recurrent_size, transform, proj_size or size) for size in hidden_sizes),
        proj_size,
        transform is not None,
        getattr(transform, "state_size", 0),
        Wiring((False, True) if bidirectional else (reverse,), stacking == "independent"),
        merge,
        by_layer,
    )
    return structure._replace(wiring=structure.wiring._replace(residual=_residual_layers(residual, structure)))


def _recurrent_size(given: Any, transform: Any, width: int) -> int:
    """Return R for an h of this width."""
    own = transform.recurrent_size(width) if hasattr(transform, "recurrent_size") else None
    if given is None:
        return width if own is None else check_size("hidden_transform's recurrent_size", own)
    size = check_size("recurrent_size", given)
    if own is not None and own != size:
        raise ArgumentError(
            f"recurrent_size={size}, but {transform!r} makes {own} of an h that is {width} wide: give one of them"
        )
    return size


def _residual_layers(residual: Any, structure: Structure) -> frozenset[int]:
    """Return which layers add their input to their output; their widths have to be equal."""
    if isinstance(residual, tuple | list | set | frozenset):
        layers = {check_size("residual", layer, minimum=0) for layer in cast("Sequence[Any]", residual)}
        if layers and max(layers) >= structure.layers:
            raise ArgumentError(f"residual: expected layers below num_layers={structure.layers}, got {residual!r}")
    else:
        layers = set(range(1, structure.layers)) if check_flag("residual", residual) else set[int]()
    for layer in sorted(layers):
        columns = 1 if structure.wiring.independent else structure.directions
        width, read = columns * structure.h_width(layer), structure.layer_input(layer)
        if width != read:
            raise ArgumentError(
                f"residual: layer {layer} would add its input, {read} wide, to its output, {width} wide"
            )
    return frozenset(layers)


def check_combinations(structure: Structure, spec: CellSpec, output_order: Any) -> None:
    """Raise where a layer's structure, its cell and its output have no meaning together."""
    if not isinstance(output_order, str) or output_order not in ("time", "processing"):
        raise ArgumentError(f"output_order: expected 'time' or 'processing', got {output_order!r}")
    if output_order == "processing" and structure.wiring.directions != (True,):
        raise ArgumentError("output_order='processing' is about reverse=True, which the layer is not")
    if structure.steps_outside and spec.zoneout_h > 0:
        raise ArgumentError(
            f"zoneout_h={spec.zoneout_h} keeps h_{{t-1}}, which the layer does not get with recurrent_size="
            f"{structure.recurrent_sizes[0]}, hidden_size={structure.h_width(0)} and no hidden_transform"
        )
