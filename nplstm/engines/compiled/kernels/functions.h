// sigmoid and tanh of a vector, to a few units in the last place over the whole range.
//
//     smaller of sigmoid(a) and 1 - sigmoid(a) = e / (1 + e)              e = exp(-|a|)
//     tanh(a) = sign(a) * -m / (2 + m)                                    m = exp(-2|a|) - 1
//
// Neither can overflow, and small results keep their digits: those of a gate that is nearly closed, or nearly open, and
// of tanh near zero. With -s = n ln 2 + r and |r| <= ln(2) / 2:
//
//     exp(-s) = 2^n * (1 + q)          q = exp(r) - 1 = r + r^2/2! + r^3/3! + ...
//
// The series is cut where what is left out is below half a unit in the last place.
#pragma once
#include "vector.h"

#if REAL_BITS == 32
#define LN2_HIGH 0.693359375f  // so few bits that its product with n is exact
#define LN2_LOW -2.12194440e-4f
#define ROUNDING 12582912.0f  // 1.5 * 2^23: a sum with it is rounded to an integer
#define ROUNDING_BITS 0x4B400000
#define SIGMOID_LIMIT 104.0f  // beyond, exp(-s) is below the smallest number
#define TANH_LIMIT 18.2f      // beyond, tanh is 1 rounded; of 2|a|
#else
#define LN2_HIGH 0.6931471803691238
#define LN2_LOW 1.9082149292705877e-10
#define ROUNDING 6755399441055744.0  // 1.5 * 2^52
#define ROUNDING_BITS 0x4338000000000000
#define SIGMOID_LIMIT 746.0
#define TANH_LIMIT 38.2
#endif
#define PER_LN2 1.4426950408889634

typedef struct {
    Vector q;
    Integers n;
} Exponential;  // of -s: 2^n * (1 + q)

INLINE Exponential exponential_of_minus(Vector s) {
    Vector shifted = s * (REAL)-PER_LN2 + (REAL)ROUNDING;
    Vector n = shifted - (REAL)ROUNDING;
    Vector r = n * (REAL)-LN2_LOW + (n * (REAL)-LN2_HIGH - s);
#if REAL_BITS == 32
    Vector series = r * (REAL)(1.0 / 5040) + (REAL)(1.0 / 720);
#else
    Vector series = r * (REAL)(1.0 / 6227020800.0) + (REAL)(1.0 / 479001600.0);
    series = series * r + (REAL)(1.0 / 39916800.0);
    series = series * r + (REAL)(1.0 / 3628800.0);
    series = series * r + (REAL)(1.0 / 362880.0);
    series = series * r + (REAL)(1.0 / 40320.0);
    series = series * r + (REAL)(1.0 / 5040.0);
    series = series * r + (REAL)(1.0 / 720.0);
#endif
    series = series * r + (REAL)(1.0 / 120);
    series = series * r + (REAL)(1.0 / 24);
    series = series * r + (REAL)(1.0 / 6);
    series = series * r + (REAL)0.5;
    series = series * r + (REAL)1.0;
    return (Exponential){series * r, (Integers)shifted - (INTEGER)ROUNDING_BITS};
}

// 2^n, for n of a normal number
INLINE Vector power_of_two(Integers n) { return (Vector)((n + EXPONENT_BIAS) << MANTISSA_BITS); }

// The smaller of s = sigmoid(a) and 1 - s, with a minus sign if it is 1 - s. Kept in this form neither loses digits.
INLINE Vector smaller_side(Vector a) {
    Exponential of = exponential_of_minus(at_most(absolute(a), SIGMOID_LIMIT));
    // 2^n in two factors: the result may be smaller than a normal number
    Integers half = of.n >> 1;
    Vector first = power_of_two(half);
    Vector e = (first * of.q + first) * power_of_two(of.n - half);
    return with_sign(e / (e + (REAL)1), (Vector) ~(Integers)a);
}

// s itself
INLINE Vector of_smaller_side(Vector side) {
    return side + (Vector)(((Integers)side >> (REAL_BITS - 1)) & (Integers)all(1));
}

// ds / da = s (1 - s)
INLINE Vector slope_of_smaller_side(Vector side) {
    side = absolute(side);
    return side * ((REAL)1 - side);
}

INLINE Vector sigmoid(Vector a) { return of_smaller_side(smaller_side(a)); }

INLINE Vector hyperbolic_tangent(Vector a) {
    Exponential of = exponential_of_minus(at_most(absolute(a) * (REAL)2, TANH_LIMIT));
    Vector power = power_of_two(of.n);
    Vector m = power * of.q + (power - (REAL)1);
    return with_sign(m / (m + (REAL)2), a);
}
