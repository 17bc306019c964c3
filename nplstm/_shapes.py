"""Checks of shapes, sizes and options; the errors name the argument, the value expected and the value given."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from nplstm.errors import ArgumentError, ShapeError

Axis: TypeAlias = tuple[str, int | None]
"""The name and size of an axis; None allows any size."""


def describe_axes(axes: Sequence[Axis]) -> str:
    """Return axes as text for messages: ``(T, B, I=10)``."""
    parts = [name if size is None or name == str(size) else f"{name}={size}" for name, size in axes]
    return "(" + ", ".join(parts) + ("," if len(parts) == 1 else "") + ")"


def check_shape(argument: str, shape: tuple[int, ...], axes: Sequence[Axis]) -> None:
    """Raise ShapeError unless ``shape`` has these axes and sizes."""
    if tuple([size for _, size in axes]) == shape:
        return
    fits = len(shape) == len(axes) and all(
        expected is None or size == expected for size, (_, expected) in zip(shape, axes, strict=True)
    )
    if not fits:
        raise ShapeError(f"{argument}: expected shape {describe_axes(axes)}, got {shape}")


def check_size(argument: str, value: Any, *, minimum: int = 1) -> int:
    """Return ``value`` as an int of at least ``minimum``; NumPy integers count, booleans and floats do not."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < minimum:
        raise ArgumentError(f"{argument}: expected an integer >= {minimum}, got {value!r}")
    if number >= 2**63:
        raise ArgumentError(f"{argument}: expected an array's size, got an integer of {number.bit_length()} bits")
    return number


_NO_NUMBERS = {"bool", "bool_", "str", "bytes", "bytearray"}
"""Types that float() accepts and ``check_number`` does not; NumPy's bool has two names."""


def check_flag(argument: str, value: Any) -> bool:
    """Return a boolean as a bool; raise for numbers, which are most often an argument at the wrong position."""
    if type(value).__name__ not in {"bool", "bool_"}:
        raise ArgumentError(f"{argument}: expected True or False, got {value!r}")
    return bool(value)


def check_choice(argument: str, value: Any, choices: Iterable[str | None]) -> None:
    """Raise unless ``value`` is one of ``choices``: strings, or None."""
    known = list(choices)
    if not (value is None or isinstance(value, str)) or value not in known:
        raise ArgumentError(f"{argument}: expected one of {', '.join(map(repr, known))}, got {value!r}")


def check_number(
    argument: str,
    value: Any,
    *,
    minimum: float = float("-inf"),
    maximum: float = float("inf"),
    above: float | None = None,
    finite: bool = False,
) -> float:
    """Return ``value`` as a float in [minimum, maximum], or in (above, maximum]; NaN and booleans do not count."""
    low = f"({above}" if above is not None else f"[{minimum}"
    high = f"{maximum})" if finite and maximum == float("inf") else f"{maximum}]"
    try:
        number = float("nan") if type(value).__name__ in _NO_NUMBERS else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if finite and abs(number) == float("inf"):
        raise ArgumentError(f"{argument}: expected a finite number, got {value!r}")
    if not minimum <= number <= maximum or (above is not None and number <= above):
        raise ArgumentError(f"{argument}: expected a number in {low}, {high}, got {value!r}")
    return number


def check_pair(argument: str, names: tuple[str, str], pair: Any) -> tuple[Any, Any]:
    """Return the two members of a tuple or list; two Nones for None."""
    if pair is None:
        return None, None
    if not isinstance(pair, tuple | list) or len(members := cast("tuple[Any, ...]", pair)) != 2:
        raise ArgumentError(f"{argument}: expected a pair ({names[0]}, {names[1]}), got {_describe(pair)}")
    return members[0], members[1]


def check_triple(argument: str, names: tuple[str, str, str], value: Any, third: bool) -> tuple[Any, Any, Any]:
    """Return the members of a pair, or with ``third`` of a triple; None for a missing member."""
    if isinstance(value, tuple | list):
        members = cast("tuple[Any, ...]", value)
        if len(members) == 2:
            return members[0], members[1], None
        if len(members) == 3 and third:
            return members[0], members[1], members[2]
    return *check_pair(argument, names[:2], value), None


def _describe(value: Any) -> str:
    kind = type(value).__qualname__
    return f"a {kind} of {len(value)}" if isinstance(value, tuple | list) else kind  # pyright: ignore[reportUnknownArgumentType]


def check_mapping(argument: str, value: Any) -> None:
    """Raise unless ``value`` is a mapping; for layers and gradients the error suggests ``.parameters``."""
    if not isinstance(value, Mapping):
        hint = "; pass its .parameters" if hasattr(value, "parameters") else ""
        kind = type(value).__qualname__
        raise ArgumentError(f"{argument}: expected a mapping of name to array, got {kind}{hint}")


def not_none(**optional: Any) -> dict[str, Any]:
    """Return the arguments that are not None, by name."""
    return {argument: value for argument, value in optional.items() if value is not None}
