"""tanh of a vector, to the rounding of its element type.

::

    tanh(x) = sign(x) * -e / (2 + e)        e = exp(-2|x|) - 1

which keeps the digits of small x, where e is small itself. With -2|x| = n ln 2 + r, |r| <= ln(2) / 2::

    e = 2**n * q + (2**n - 1)               q = exp(r) - 1 = r + r**2/2! + r**3/3! + ...

The series is cut where what is left out is below half a rounding.
"""

from math import factorial, log
from typing import Any

from nplstm.engines.compiled._numba import overload, types
from nplstm.engines.compiled.simd import Vector, at_most, bits_of_power, fma, polynomial, with_sign

__all__ = ["tanh"]


def _exponential_series(terms: int) -> Any:
    """(exp(r) - 1) / r."""
    return polynomial(*(1 / factorial(k + 1) for k in range(terms)))


_SERIES_32, _SERIES_64 = _exponential_series(7), _exponential_series(13)
# past these, tanh is 1 rounded
_LIMIT_32, _LIMIT_64 = 9.1, 19.1
# adding and subtracting it rounds to an integer, which stands in the lowest bits of the sum
_SHIFT_32, _SHIFT_64 = 1.5 * 2.0**23, 1.5 * 2.0**52
_PER_LN2 = -2 / log(2)
# ln 2 in two parts, the first with so few bits that its product with n is exact
_LN2_HIGH_32, _LN2_HIGH_64 = 0.693359375, 0.6931471803691238
_LN2_LOW_32, _LN2_LOW_64 = log(2) - _LN2_HIGH_32, 1.9082149292705877e-10


def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent of each lane; NaN of NaN."""
    raise NotImplementedError("for compiled code")


@overload(tanh)
def _tanh(x: Any) -> Any:
    if not isinstance(x, Vector):
        return None
    single = x.dtype == types.float32
    series = _SERIES_32 if single else _SERIES_64
    limit, shift = (_LIMIT_32, _SHIFT_32) if single else (_LIMIT_64, _SHIFT_64)
    high, low = (-_LN2_HIGH_32, -_LN2_LOW_32) if single else (-_LN2_HIGH_64, -_LN2_LOW_64)

    def implementation(x: Any) -> Any:
        size = at_most(with_sign(x, 1.0), limit)
        shifted = fma(size, _PER_LN2, shift)
        n = shifted - shift
        r = fma(n, low, fma(n, high, size * -2.0))
        power = bits_of_power(shifted)
        e = fma(power, series(r) * r, power - 1.0)
        return with_sign((0.0 - e) / (e + 2.0), x)

    return implementation
