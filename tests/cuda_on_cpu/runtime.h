// Interface of the runtime (runtime.cpp) for the kernels' side of the emulator (language.h, device.cuh).
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

// Where the thread that runs is in its launch.
struct Place {
    Index thread, block, block_size, grid_size;
};

extern const Place* here;

enum class Access { load, store, take, put, send, receive };

// Note that the thread is about to access memory, and tell whether it may: what it may not is noted as a fault.
bool access(Access kind, const void* place, unsigned size, int line);

// Let others run before a flag is read or written. The answer is whether the access may happen.
bool before_announce(const void* flag, int line);
bool before_look(const void* flag, int line);

bool before_report(const void* word, int line);

enum class Collective { barrier, barrier_and, syncwarp, all, shuffle, product };

// Wait for all threads of the block, and tell whether all of them brought true.
bool join_block(Collective, bool brought, int line);

// Wait for all lanes of the warp. The last to come calls `finish`, with what each lane brought: null for a lane
// that has ended or never was.
constexpr unsigned LANES = 32, FULL_MASK = 0xffffffff;
using Finish = void (*)(void* const (&brought)[LANES]);
void join_warp(Collective, void* brought, Finish finish, int line);

// End the launch: nothing that it would do from here on means anything.
[[noreturn]] void fail(const char* why, int line);

// The memory of the block, whose size was given at the launch.
unsigned char* block_memory();

// These two come with the kernel.
void run_kernel(const void* arguments);
extern const size_t arguments_size;

}  // namespace emulator
