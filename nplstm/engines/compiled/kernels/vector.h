// SIMD vectors: a vector of numbers as wide as a register of the instruction set, and its operations.
//
// The compiler's own vector types: + - * / act on each element, and a * b + c is one instruction where the CPU has
// it. REAL is float or double; VECTOR_BYTES and TILE_VECTORS come from the build, one set for each instruction set.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if REAL_BITS == 32
typedef float REAL;
typedef int32_t INTEGER;
#define SIGN INT32_MIN
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#else
typedef double REAL;
typedef int64_t INTEGER;
#define SIGN INT64_MIN
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#endif

#define LANES ((ptrdiff_t)(VECTOR_BYTES / sizeof(REAL)))
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 32")
#endif

typedef REAL Vector __attribute__((vector_size(VECTOR_BYTES)));
typedef INTEGER Integers __attribute__((vector_size(VECTOR_BYTES)));
// in an array, where a vector may begin at any element
typedef REAL Stored __attribute__((vector_size(VECTOR_BYTES), aligned(REAL_BITS / 8), may_alias));

INLINE Vector load(const REAL* from) { return *(const Stored*)from; }

INLINE void store(REAL* to, Vector value) { *(Stored*)to = value; }

INLINE Vector all(REAL value) { return value - (Vector){0}; }

// The first `count` elements; the others are zero, and their memory is not touched.
INLINE Vector load_first(const REAL* from, ptrdiff_t count) {
    if (count >= LANES) return load(from);
    Vector value = {0};
    for (ptrdiff_t k = 0; k < count; ++k) value[k] = from[k];
    return value;
}

INLINE void store_first(REAL* to, ptrdiff_t count, Vector value) {
    if (count >= LANES) {
        store(to, value);
        return;
    }
    for (ptrdiff_t k = 0; k < count; ++k) to[k] = value[k];
}

// where `mask` is all ones, x; where it is zero, y
INLINE Vector choose(Integers mask, Vector x, Vector y) {
    return (Vector)((mask & (Integers)x) | (~mask & (Integers)y));
}

// the lesser of the two; NaN where x is NaN
INLINE Vector at_most(Vector x, REAL limit) { return choose(x > limit, all(limit), x); }

INLINE Vector absolute(Vector x) { return (Vector)((Integers)x & ~((Integers){0} + SIGN)); }

// |x| with the sign of y
INLINE Vector with_sign(Vector x, Vector y) {
    const Integers sign = (Integers){0} + SIGN;
    return (Vector)(((Integers)x & ~sign) | ((Integers)y & sign));
}
