// Threads, warps and blocks of a launch.
#pragma once

#include <memory>
#include <vector>

#include "fiber.h"
#include "memory.h"
#include "races.h"
#include "runtime.h"

namespace emulator {

struct Block;
struct Warp;

struct Thread {
    Place place;
    Block* block = nullptr;
    Warp* warp = nullptr;
    unsigned lane = 0;
    Witness witness{};
    Fiber fiber;
    const char* at = nullptr;  // where it paused; null before its first turn and after its last
    int line = 0;
};

struct Warp {
    Thread* threads = nullptr;
    unsigned present = 0, waiting = 0;  // lanes, a bit each
    Collective at{};                    // where those that wait are
    int line = 0;
    Finish finish = nullptr;
    void* brought[LANES] = {};
};

struct Barrier {
    unsigned waiting = 0;
    bool brought = true;  // of all threads that wait
    bool answer = true;   // of the last time it was complete
};

struct Block {
    std::unique_ptr<BlockMemory> memory;
    std::unique_ptr<Zeros<unsigned char>> stacks;
    unsigned present = 0;
    Barrier barriers[2];
    std::vector<Thread> threads;
    std::vector<Warp> warps;

    Barrier& barrier(Collective kind) { return barriers[kind == Collective::barrier_and]; }
};

inline bool of_block(Collective kind) { return kind == Collective::barrier || kind == Collective::barrier_and; }

// Lanes have to be at the same call, not only at the same kind of call: ".aligned" in PTX.
inline bool is_aligned(Collective kind) { return of_block(kind) || kind == Collective::product; }

inline const char* name_of(Access kind) {
    static const char* const NAMES[] = {"load", "store", "take", "put", "send", "receive"};
    return NAMES[int(kind)];
}

inline const char* name_of(Collective kind) {
    static const char* const NAMES[] = {"__syncthreads", "__syncthreads_and", "__syncwarp",
                                        "__all_sync",    "a shuffle",         "a product"};
    return NAMES[int(kind)];
}

}  // namespace emulator
