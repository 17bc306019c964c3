// The element type of a layer's arrays, and the type that is computed in.
//
// STORED: float16, float or double, as the layer's parameters, input and output are. State and gates are computed
// in `real`, and c is kept in it: float32 also where the arrays are float16.
#pragma once
#include "device.cuh"

template <typename T>
struct RealOf {
    typedef T type;
};
template <>
struct RealOf<float16> {
    typedef float type;
};

typedef RealOf<STORED>::type real;

__device__ __forceinline__ float to_real(float x) { return x; }
__device__ __forceinline__ double to_real(double x) { return x; }
__device__ __forceinline__ float to_real(float16 x) { return widen(x); }

template <typename T>
__device__ __forceinline__ T to_stored(real x) {
    return (T)x;
}
template <>
__device__ __forceinline__ float16 to_stored<float16>(real x) {
    return to_float16((float)x);
}

__device__ __forceinline__ real load_real(const STORED* place) { return to_real(load(place)); }
__device__ __forceinline__ void store_real(STORED* place, real x) { store(place, to_stored<STORED>(x)); }
