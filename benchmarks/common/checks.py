"""Checks of results before anything is timed: one library's beside those of a reference, array by array."""

from collections.abc import Callable, Mapping
from typing import Any

_AT_ONCE = 2**24  # elements: 128 MiB of float64


class WrongResultError(Exception):
    """Results are not those of the reference; says where and by how much."""


def relative_maximum(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest magnitude of the array."""
    return float(abs(found - expected).max() / abs(expected).max())


def relative_norm(found: Any, expected: Any, least: float = 0.0) -> float:
    """Return ||found - expected|| / ||expected||; 0 where both are zero. Taken in parts, for memory's sake.

    An element counts for ``least`` at least in the norm below the line: a few numbers may all be small by chance,
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


def differences(
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    tolerance: Callable[[str], float],
    difference: Callable[[Any, Any], float],
) -> dict[str, float]:
    """Return the difference of each result; raise WrongResultError if it is beyond the tolerance of its name.

    Elements near zero are differences of large ones and have no accuracy of their own, so ``difference`` is
    relative to a whole array: ``relative_maximum`` or ``relative_norm``.
    """
    if set(found) != set(expected):
        raise WrongResultError(f"expected the results {sorted(expected)}, got {sorted(found)}")
    measured: dict[str, float] = {}
    for name, value in expected.items():
        if tuple(found[name].shape) != tuple(value.shape):
            raise WrongResultError(
                f"{name}: expected the shape {tuple(value.shape)}, got {tuple(found[name].shape)}"
            )
        measured[name], limit = difference(found[name], value), tolerance(name)
        if not measured[name] <= limit:  # not a number is not within any
            raise WrongResultError(f"{name}: differs by {measured[name]:.1e}, more than {limit:.0e}")
    return measured
