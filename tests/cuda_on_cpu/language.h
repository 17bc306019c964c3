// CUDA's built-in names, as far as the kernels use them.
#pragma once

#include <math.h>

#include <cstring>
#include <type_traits>

#include "runtime.h"

#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (emulator::here->thread)
#define blockIdx (emulator::here->block)
#define blockDim (emulator::here->block_size)
#define gridDim (emulator::here->grid_size)

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(b) < T(a) ? T(b) : T(a);
}

template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(a) < T(b) ? T(b) : T(a);
}

// ---------------------------------------------------------------------------------- barriers and warp operations
//
// `line` is the line of the call, by default: messages name it.

inline void __syncthreads(int line = __builtin_LINE()) {
    emulator::join_block(emulator::Collective::barrier, true, line);
}

inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
    return emulator::join_block(emulator::Collective::barrier_and, predicate != 0, line);
}

namespace emulator {

inline void require_full(unsigned mask, int line) {
    if (mask != FULL_MASK) fail("a mask that leaves lanes out, which the emulator does not support", line);
}

struct Vote {
    bool brought, all;
};

inline void vote(void* const (&brought)[LANES]) {
    bool all = true;
    for (void* one : brought) all = all && (one == nullptr || static_cast<Vote*>(one)->brought);
    for (void* one : brought)
        if (one != nullptr) static_cast<Vote*>(one)->all = all;
}

template <typename T>
struct Swap {
    T brought, found;
    unsigned lane;
    int line;
};

template <typename T>
void swap(void* const (&brought)[LANES]) {
    for (void* one : brought) {
        if (one == nullptr) continue;
        auto& mine = *static_cast<Swap<T>*>(one);
        auto* other = static_cast<Swap<T>*>(brought[mine.lane]);
        if (other == nullptr) fail("a value of a lane that has ended", mine.line);
        mine.found = other->brought;
    }
}

template <typename T>
T swap_with(unsigned lane, T value, int line) {
    Swap<T> mine{value, value, lane % LANES, line};
    join_warp(Collective::shuffle, &mine, swap<T>, line);
    return mine.found;
}

}  // namespace emulator

inline void __syncwarp(unsigned mask = emulator::FULL_MASK, int line = __builtin_LINE()) {
    emulator::require_full(mask, line);
    emulator::join_warp(emulator::Collective::syncwarp, nullptr, nullptr, line);
}

inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    emulator::require_full(mask, line);
    emulator::Vote mine{predicate != 0, false};
    emulator::join_warp(emulator::Collective::all, &mine, emulator::vote, line);
    return mine.all;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int line = __builtin_LINE()) {
    emulator::require_full(mask, line);
    return emulator::swap_with(unsigned(lane), value, line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int line = __builtin_LINE()) {
    emulator::require_full(mask, line);
    return emulator::swap_with(threadIdx.x ^ unsigned(bits), value, line);
}

// ---------------------------------------------------------------------------------------------------- the kernel

namespace emulator {

template <typename Arguments>
constexpr size_t size_of_argument(void (*)(Arguments)) {
    return sizeof(Arguments);
}

template <typename Arguments>
void call(void (*kernel)(Arguments), const void* bytes) {
    Arguments arguments;
    std::memcpy(&arguments, bytes, sizeof arguments);
    kernel(arguments);
}

}  // namespace emulator
