"""Nothing is timed that is wrong: each library's results beside those of a float64 run.

Both tolerances are for float32, whose rounding unit is 6e-8. Differences are relative to the largest magnitude of
the array: an element near zero is a difference of large ones, and has no accuracy of its own.
"""

from collections.abc import Mapping

import numpy as np

__all__ = ["GRADIENT_TOLERANCE", "VALUE_TOLERANCE", "WrongResultError", "check"]

VALUE_TOLERANCE = 1e-5
"""Outputs and states: sums of 2H <= 2048 products. A cell forgets, so that errors do not pile up over steps."""

GRADIENT_TOLERANCE = 5e-5
"""Gradients: beside that, sums of up to T * B = 128,000 terms of both signs, in an order of each library's own.

Both are some ten times what was seen at H = 1024 and T = 1000; a mistake in the mathematics is far above them.
"""


class WrongResultError(Exception):
    """A library computes something else than the reference; says what."""


def check(results: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the largest difference of each result, relative to the largest magnitude there is.

    Raises
    ------
    WrongResultError
        If there are other results, of other shapes, or with differences beyond the tolerance.
    """
    if set(results) != set(reference):
        raise WrongResultError(f"expected the results {sorted(reference)}, got {sorted(results)}")
    found: dict[str, float] = {}
    for name, expected in reference.items():
        actual = results[name]
        if actual.shape != expected.shape:
            raise WrongResultError(f"{name}: expected the shape {expected.shape}, got {actual.shape}")
        tolerance = GRADIENT_TOLERANCE if name.startswith("grad_") else VALUE_TOLERANCE
        found[name] = float(np.abs(actual - expected).max() / np.abs(expected).max())
        if not found[name] <= tolerance:  # not a number is not within any
            raise WrongResultError(
                f"{name}: differs by {found[name]:.1e} of its largest, more than {tolerance:.0e}"
            )
    return found
