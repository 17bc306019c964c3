"""Attributes and weights' shapes of ONNX's operator LSTM, for the function, the reader and the writer."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from nplstm._shapes import check_choice, check_number
from nplstm._typing import Array, Arrays
from nplstm.backends import namespace
from nplstm.core.cell_spec import CellSpec
from nplstm.core.ops.activations import Activation, as_activation
from nplstm.errors import ArgumentError

__all__ = ["DIRECTIONS", "WEIGHT_AXES", "NodeAttributes", "axis_sizes", "read_attributes", "without_forget_gate"]

DIRECTIONS: dict[str, tuple[bool, ...]] = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""For each direction of a layer, whether it runs in reverse."""


WEIGHT_AXES = {"R": ("D", "4H", "H"), "W": ("D", "4H", "I"), "B": ("D", "8H"), "P": ("D", "3H")}
"""The weights and their axes; R first, which H is read from."""


def axis_sizes(D: int, H: int, I: int) -> dict[str, int]:
    """Return the sizes of the weights' axes."""
    return {"D": D, "H": H, "I": I, "3H": 3 * H, "4H": 4 * H, "8H": 8 * H}


class NodeAttributes(NamedTuple):
    """The attributes as cells and flags, without ``hidden_size``."""

    specs: list[CellSpec]  # the cell of each direction
    reverse: tuple[bool, ...]  # whether each direction runs from the end
    batch_first: bool


def read_attributes(
    *,
    peephole: bool,
    activations: Any = None,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    clip: Any = None,
    direction: Any = "forward",
    input_forget: Any = 0,
    layout: Any = 0,
) -> NodeAttributes:
    """Check the attributes, which have ONNX's names and defaults; ``peephole`` says whether there is an input P.

    Raises
    ------
    ArgumentError
        If one of them is invalid, or would not be used, such as an ``activation_alpha`` that no function takes.
    """
    check_choice("direction", direction, DIRECTIONS)
    reverse = DIRECTIONS[direction]
    coupled, batch_first = _bit("input_forget", input_forget), _bit("layout", layout)
    specs = _specs(
        _activations(activations, activation_alpha, activation_beta, len(reverse)),
        peephole="diagonal" if peephole else None,
        coupled_input_forget=coupled,
        clip=clip,
    )
    return NodeAttributes(specs, reverse, batch_first)


def _bit(argument: str, value: Any) -> bool:
    """Return an attribute that is 0 or 1; booleans and NumPy's integers count."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number not in {0, 1}:
        raise ArgumentError(f"{argument}: expected 0 or 1, got {value!r}")
    return number == 1


def _specs(activations: list[Activation], **options: Any) -> list[CellSpec]:
    """Return the cell of each direction, which takes three activations."""
    return [CellSpec(activations=(f, g, h), **options) for f, g, h in zip(*[iter(activations)] * 3, strict=True)]


def _activations(names: Any, alphas: Any, betas: Any, D: int) -> list[Activation]:
    """Return the activations of all directions, with their constants."""
    if names is None:
        names = ("Sigmoid", "Tanh", "Tanh") * D
    if not isinstance(names, list | tuple) or len(chosen := cast("list[Any]", names)) != 3 * D:
        raise ArgumentError(
            f"activations: expected {3 * D} names, of f, g and h for each of D={D} directions, got {names!r}"
        )
    for k, name in enumerate(chosen):
        if not isinstance(name, str):
            raise ArgumentError(f"activations[{k}]: expected a name, got {name!r}")
    plain = [as_activation(f"activations[{k}]", name) for k, name in enumerate(chosen)]
    alpha = _hand_out("activation_alpha", alphas, [a.alpha for a in plain], chosen)
    beta = _hand_out("activation_beta", betas, [a.beta for a in plain], chosen)
    return [Activation(a.name, *constants) for a, *constants in zip(plain, alpha, beta, strict=True)]


def _hand_out(
    argument: str, values: Any, defaults: list[float | None], names: Sequence[str]
) -> list[float | None]:
    """Return each function's constant: the next value, or its default; None for a function without one."""
    try:
        numbers = [] if values is None else list(values)
    except TypeError:
        raise ArgumentError(f"{argument}: expected a list of numbers, got {values!r}") from None
    takes = sum(default is not None for default in defaults)
    if len(numbers) > takes:
        raise ArgumentError(f"{argument}: {', '.join(names)} take {takes} of them, got {values!r}")
    left = iter([check_number(f"{argument}[{k}]", n, finite=True) for k, n in enumerate(numbers)])
    return [None if default is None else next(left, default) for default in defaults]


def without_forget_gate(named: Arrays) -> dict[str, Array]:
    """Leave out the rows of the forget gate, the second of the gates, which coupled gates do not have."""
    H = next(array.shape[1] for name, array in named.items() if name.startswith("weight_hh"))
    return {name: namespace(rows).concatenate([rows[:H], rows[2 * H :]]) for name, rows in named.items()}
