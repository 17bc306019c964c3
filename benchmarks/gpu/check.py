"""Nothing is timed that is wrong: the results of two libraries beside each other, where they are.

A difference is a norm: that of all of an array's differences, relative to that of the array. Elements near zero
are differences of large ones and have no accuracy of their own.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["TOLERANCES", "WrongResultError", "differences", "relative_difference"]

TOLERANCES = {"float32": 1e-5, "tf32": 2e-3, "float16": 2e-2, "bfloat16": 2e-2}
"""By precision. Two correct libraries differ by some units of rounding (6e-8, 5e-4, 5e-4, 4e-3), since a cell
forgets and errors do not pile up over steps; a mistake in the mathematics, or TF32 on one side alone where there
should be none, is far above."""

_AT_ONCE = 2**24  # elements: 128 MiB of float64


class WrongResultError(Exception):
    """Two libraries disagree; says where and by how much."""


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> dict[str, float]:
    """Return the relative difference of each result.

    Raises
    ------
    WrongResultError
        If there are other results, of other shapes, or with differences beyond the tolerance.
    """
    if set(found) != set(expected):
        raise WrongResultError(f"expected the results {sorted(expected)}, got {sorted(found)}")
    measured: dict[str, float] = {}
    for name, value in expected.items():
        if tuple(found[name].shape) != tuple(value.shape):
            raise WrongResultError(
                f"{name}: expected the shape {tuple(value.shape)}, got {tuple(found[name].shape)}"
            )
        measured[name] = relative_difference(found[name], value)
        if not measured[name] <= tolerance:  # not a number is not within any
            raise WrongResultError(f"{name}: differs by {measured[name]:.1e} in norm, more than {tolerance:.0e}")
    return measured


def relative_difference(found: Any, expected: Any, least: float = 0.0) -> float:
    """Return ||found - expected|| / ||expected||; 0 where both are zero. Taken in parts, for memory's sake.

    Parameters
    ----------
    least : float
        What an element counts for at least in the norm below the line: a few numbers may all be small by chance,
        as differences of large ones.
    """
    found, expected = found.reshape(-1), expected.reshape(-1)
    error = size = 0.0
    for start in range(0, len(expected), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        right = expected[part].astype("float64")
        difference = found[part].astype("float64") - right
        error += float((difference * difference).sum())
        size += float((right * right).sum())
    if error == 0.0:
        return 0.0
    size = max(size, least**2 * len(expected))
    return (error / size) ** 0.5 if size else float("inf")
