"""The options of a layer, and the sizes and parameter shapes that they imply."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Self, TypeVar, cast, overload

from nplstm._shapes import Axis, check_size
from nplstm.core.cell_spec import CellSpec
from nplstm.core.initialisers import ParameterSpec
from nplstm.errors import ArgumentError
from nplstm.layers.stack import Wiring

__all__ = ["DEFAULTS", "OptionAttribute", "Options", "gate_misfit"]

T = TypeVar("T")

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


@dataclass(frozen=True, kw_only=True)
class Options:
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

    @cached_property
    def owner(self) -> str:
        """What errors call the layer."""
        return "the LSTMCell" if self.single_step else "the LSTM"

    @cached_property
    def state_names(self) -> tuple[str, str, str]:
        """What errors call the members of the initial state."""
        return ("h", "c", "s") if self.single_step else ("h_0", "c_0", "s_0")

    @cached_property
    def gradient_names(self) -> tuple[str, str, str]:
        """What errors call the gradients of the final state."""
        return ("grad_h", "grad_c", "grad_s") if self.single_step else ("grad_h_n", "grad_c_n", "grad_s_n")

    @cached_property
    def first_weight(self) -> str:
        """The name of the first parameter."""
        return "weight_ih" + self.suffix(0, 0)

    @cached_property
    def layers(self) -> int:
        """L."""
        return len(self.hidden_sizes)

    @cached_property
    def directions(self) -> int:
        """D."""
        return len(self.wiring.reverse)

    @cached_property
    def states(self) -> int:
        """L * D."""
        return self.layers * self.directions

    @cached_property
    def recurrent_input(self) -> bool:
        """Whether a recurrent input can be told from h_0: its width is another."""
        return any(self.h_width(layer) != R for layer, R in enumerate(self.recurrent_sizes))

    @cached_property
    def uniform(self) -> bool:
        """Whether all layers have one size: then their states are one array."""
        return not self.by_layer or len({*self.hidden_sizes}) == 1

    @cached_property
    def flipped(self) -> bool:
        """Whether the output is in the order of processing, of a layer that runs in reverse."""
        return self.output_order == "processing"

    @property
    def stacking(self) -> str:
        """How directions of different layers are connected."""
        return "independent" if self.wiring.independent else "concat"

    @property
    def residual(self) -> tuple[int, ...] | bool:
        """The layers that add their input to their output, or False."""
        return tuple(sorted(self.wiring.residual)) or False

    def of_user(self, sizes: tuple[int, ...]) -> Any:
        """Return sizes of layers as a user gave them: one for all, or a tuple."""
        return sizes if self.by_layer else sizes[0]

    def suffix(self, layer: int, d: int) -> str:
        """Return what ends a parameter's name."""
        return "" if self.single_step else f"_l{layer}" + ("_reverse" if d == 1 else "")

    def h_axis(self, layer: int) -> Axis:
        """Name and size of the last axis of h."""
        return ("P", self.proj_size) if self.proj_size else ("H", self.hidden_sizes[layer])

    @cached_property
    def state_axes(self) -> list[list[Axis]]:
        """The last axes of h, of c and, where the hidden transform has a state, of s; by layer."""
        h: list[Axis] = [self.h_axis(layer) for layer in range(self.layers)]
        axes: list[list[Axis]] = [h, [("H", size) for size in self.hidden_sizes]]
        return [*axes, [("S", self.state_size)] * self.layers] if self.state_size else axes

    @cached_property
    def state_widths(self) -> tuple[int, int, int]:
        """P, H and S of the first layer."""
        return self.h_width(0), self.hidden_sizes[0], self.state_size

    @cached_property
    def recurrent_axes(self) -> list[Axis]:
        """The last axis of the recurrent input, by layer."""
        return [("R", size) for size in self.recurrent_sizes]

    @cached_property
    def steps_outside(self) -> bool:
        """Whether what becomes of h between steps is the caller's business: R is not P, and nothing transforms."""
        return self.transform is None and self.recurrent_input

    def h_width(self, layer: int) -> int:
        """P."""
        return self.proj_size or self.hidden_sizes[layer]

    def layer_input(self, layer: int) -> int:
        """Return the width of what a direction of a layer reads."""
        if layer == 0:
            return self.input_size
        return self.h_width(layer - 1) * (1 if self.wiring.independent else self.directions)

    @cached_property
    def output_axis(self) -> Axis:
        """Name and size of the last axis of the output, or of each of its parts where they are not merged."""
        name, size = self.h_axis(self.layers - 1)
        return ("D*" + name, self.directions * (size or 0)) if self.merge == "concat" else (name, size)

    @cached_property
    def draws(self) -> dict[str, float]:
        """The options that draw masks in training, with their probabilities."""
        between = {"dropout": self.dropout} if self.dropout > 0 and self.layers > 1 else {}
        return between | self.cell.draws

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


class OptionAttribute(Generic[T]):
    """An option of a layer as an attribute that cannot be set."""

    def __init__(self, read: Callable[[Options], T], doc: str) -> None:
        self._read = read
        self.__doc__ = doc

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, layer: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, layer: object, owner: type[Any]) -> T: ...
    def __get__(self, layer: object, owner: type[Any]) -> Self | T:
        return self if layer is None else self._read(vars(layer)["_options"])

    def __set__(self, layer: object, value: Any) -> None:
        raise AttributeError(f"{self._name}: an option is fixed when the layer is made; make another layer")


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
