"""Compare an analytic gradient with a numerical one, along random unit vectors u.

The numerical derivative takes the function at ``x ± s u`` and ``x ± 2 s u`` and combines the two central
differences so that their leading errors cancel (Richardson): in float64 what is left is near rounding.
"""

from collections.abc import Callable
from math import isnan
from typing import Any

from nplstm._shapes import check_number, check_size
from nplstm._typing import Array, Arrays
from nplstm.backends import backend_of
from nplstm.core.params import as_generator
from nplstm.errors import DTypeError, GradcheckError, ShapeError

_SCAN = 2000  # up to so many elements are compared one by one to find the worst


def gradcheck(
    function: Callable[[dict[str, Array]], float],
    gradient: Callable[[dict[str, Array]], Arrays],
    inputs: Arrays,
    *,
    directions: int = 3,
    rtol: float = 1e-6,
    step: float = 1e-3,
    rng: Any = 0,
) -> float:
    """Check ``gradient`` against central differences of ``function``; return the largest relative difference.

    Parameters
    ----------
    function, gradient : callable
        Take a dict of name to array, like ``inputs``. ``function`` returns a float, the same at each call;
        ``gradient`` a mapping with d function / d input for each input.
    inputs : mapping of name to Array
        The point to check at; float64. Not modified.
    directions, rng : int, and a seed, numpy.random.Generator or None
        Number of random directions u, and the generator that draws them.
    rtol : float
        Allowed difference, relative to norm(gradient) / sqrt(number of elements): the size of ``g . u``.
    step : float
        s, in the inputs' units.

    Raises
    ------
    GradcheckError
        If a derivative differs by more; names the worst element with its index and both values (among more than
        2000 elements, the one that bisection finds).
    DTypeError, ShapeError
        If an input is not float64 (in float32 rounding hides the differences), or lacks its gradient.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> inputs = {"x": np.array([1.0, 2.0])}
    >>> nplstm.gradcheck(lambda p: (p["x"] ** 3).sum(), lambda p: {"x": 3 * p["x"] ** 2}, inputs) < 1e-9
    True
    """
    directions, generator = check_size("directions", directions), as_generator(rng)
    rtol, step = check_number("rtol", rtol, above=0.0), check_number("step", step, above=0.0)
    point, analytic = dict(inputs), gradient(dict(inputs))
    for name, array in point.items():
        if backend_of(array, name) and str(array.dtype) != "float64":
            raise DTypeError(f"{name}: gradcheck needs float64, got {array.dtype}")
        if name not in analytic or analytic[name].shape != array.shape:
            got = analytic[name].shape if name in analytic else "none"
            raise ShapeError(f"gradient: expected one of shape {array.shape} for {name}, got {got}")
    elements = sum(int(array.size) for array in point.values())
    scale = (_dot(analytic, {k: analytic[k] for k in point}) / max(elements, 1)) ** 0.5
    # error of the derivative by rounding of the function's value: what a zero gradient may differ by
    noise = 1e-15 * (1 + abs(float(function(dict(point))))) / step

    def numerical(u: Arrays) -> float:
        def central(s: float) -> float:
            ahead, behind = (function({k: x + t * u[k] for k, x in point.items()}) for t in (s, -s))
            return (float(ahead) - float(behind)) / (2 * s)

        return (4 * central(step) - central(2 * step)) / 3

    worst = 0.0
    for _ in range(directions):
        u = {k: backend_of(x).asarray(generator.standard_normal(x.shape)) for k, x in point.items()}
        u = {k: backend_of(v).asarray(v / _dot(u, u) ** 0.5) for k, v in u.items()}
        claimed, found = _dot(analytic, u), numerical(u)
        difference = abs(claimed - found)
        if not difference <= rtol * scale + noise:  # a NaN differs, too
            where = _worst_element(analytic, numerical, u, elements)
            raise GradcheckError(f"gradient: analytic {claimed:.8g}, numerical {found:.8g}; worst at {where}")
        worst = max(worst, difference / scale if scale else 0.0)
    return worst


def _dot(a: Arrays, b: Arrays) -> float:
    return sum(float((a[name] * b[name]).sum()) for name in b)


def _worst_element(analytic: Arrays, numerical: Callable[[Arrays], float], u: Arrays, elements: int) -> str:
    def only(first: int, last: int, values: Arrays) -> dict[str, Array]:  # counted through all arrays
        kept = {name: backend_of(u[name]).xp.zeros(array.shape) for name, array in values.items()}
        for name, array in values.items():
            span = slice(max(first, 0), max(last, 0))
            kept[name].reshape(-1)[span] = array.reshape(-1)[span]
            first, last = first - array.size, last - array.size
        return kept

    def error(v: Arrays) -> float:
        difference = abs(_dot(analytic, v) - numerical(v))
        return float("inf") if isnan(difference) else difference

    first, last, ones = 0, elements, {name: 0 * array + 1 for name, array in u.items()}
    while last - first > _SCAN:
        halves = ((first, (first + last) // 2), ((first + last) // 2, last))
        first, last = max(halves, key=lambda half: error(only(*half, u)))
    v = max((only(k, k + 1, ones) for k in range(first, last)), key=error)
    name = max(v, key=lambda name: float(v[name].sum()))
    index = ", ".join(str(int(axis[0])) for axis in v[name].reshape(v[name].shape or 1).nonzero())
    return f"{name}[{index}]: analytic {_dot(analytic, v):.8g}, numerical {numerical(v):.8g}"
