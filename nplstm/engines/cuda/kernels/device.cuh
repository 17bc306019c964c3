// Device functions beyond C++, in PTX: conversions, matrix instructions, memory access and flags.
//
// Everything here has a counterpart on the CPU, by the same name (tests/cuda_on_cpu/device.cuh), on which the
// tests run the kernels as they are. Memory that blocks share is accessed through these functions alone, so that
// the tests can check which thread may see which writes.
#pragma once
#include "words.cuh"

// ---------------------------------------------------------------------------------------------------- numbers

__device__ __forceinline__ float widen(float16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ float widen(bfloat16 x) { return __uint_as_float((u32)x.bits << 16); }

__device__ __forceinline__ float16 to_float16(float x) {
    float16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

__device__ __forceinline__ bfloat16 to_bfloat16(float x) {
    bfloat16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// The nearest number with 10 bits of mantissa, as the bits of a float. Volatile: the compiler would take it out of
// the time loop for weights that do not change, and keep twice as many registers.
__device__ __forceinline__ u32 to_tf32(float x) {
    u32 y;
    asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float from_bits(u32 x) { return __uint_as_float(x); }
__device__ __forceinline__ u32 bits_of(float x) { return __float_as_uint(x); }

// ---------------------------------------------------------------------------------------------------- products
//
// d (16, 8) += a (16, K) b (K, 8), by a warp. Lane l has, with r = l / 4 and q = l % 4, of d the elements (r, 2q),
// (r, 2q + 1), (r + 8, 2q), (r + 8, 2q + 1). With 32 bits an element, K = 8: of a (r, q), (r + 8, q), (r, q + 4),
// (r + 8, q + 4); of b (q, r), (q + 4, r). With 16 bits, K = 16, and two elements side by side in k in each
// register: a (r, 2q), (r + 8, 2q), (r, 2q + 8), (r + 8, 2q + 8); b (2q, r), (2q + 8, r). (PTX ISA, "Matrix
// Fragments for mma.m16n8k8" and "for mma.m16n8k16")

__device__ __forceinline__ void multiply_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply_float16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply_bfloat16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---------------------------------------------------------------------------------------------------- memory

// Load from an array that no other block writes.
template <typename T>
__device__ __forceinline__ T load(const T* place) {
    return *place;
}

template <typename T>
__device__ __forceinline__ void store(T* place, T value) {
    *place = value;
}

// Shared memory of the block, whose size is an argument of the launch, and access to it.
__device__ __forceinline__ unsigned char* block_memory() {
    extern __shared__ __align__(16) unsigned char memory[];
    return memory;
}

template <typename T>
__device__ __forceinline__ T take(const T* place) {
    return *place;
}

template <typename T>
__device__ __forceinline__ void put(T* place, T value) {
    *place = value;
}

// ---------------------------------------------------------------------------------------------------- between blocks

// Write numbers that other blocks will read.
template <typename T>
__device__ __forceinline__ void send(T* place, T value) {
    *place = value;
}

// Read numbers that other blocks have written, not through the first-level cache, which does not see their writes.
__device__ __forceinline__ quad receive(const quad* place) {
    quad q;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(q.word[0]), "=r"(q.word[1]), "=r"(q.word[2]), "=r"(q.word[3])
                 : "l"(place)
                 : "memory");
    return q;
}

// Set a flag: a thread that sees it sees all that this thread has written, or seen written, before (release).
__device__ __forceinline__ void announce(u32* flag, u32 value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

// Read a flag (acquire).
__device__ __forceinline__ u32 look(const u32* flag) {
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}

// Report an error to the host: the word is in its memory.
__device__ __forceinline__ void report(u32* word, u32 value) {
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
