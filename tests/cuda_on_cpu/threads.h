// The threads of a launch: of them are warps, of these blocks.
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
    Meeting at{};                       // where those that wait are
    int line = 0;
    Finish finish = nullptr;
    void* brought[LANES] = {};
};

struct Barrier {
    unsigned waiting = 0;
    bool brought = true;  // by all that wait
    bool answer = true;   // to those that the last meeting was of
};

struct Block {
    std::unique_ptr<BlockMemory> memory;
    std::unique_ptr<Zeros<unsigned char>> stacks;
    unsigned present = 0;
    Barrier barriers[2];
    std::vector<Thread> threads;
    std::vector<Warp> warps;

    Barrier& barrier(Meeting kind) { return barriers[kind == Meeting::barrier_and]; }
};

inline bool of_block(Meeting kind) { return kind == Meeting::barrier || kind == Meeting::barrier_and; }

// Lanes have to be at the same call, not only at the same kind of call: ".aligned" in PTX.
inline bool is_aligned(Meeting kind) { return of_block(kind) || kind == Meeting::product; }

inline const char* name_of(Access kind) {
    static const char* const NAMES[] = {"load", "store", "take", "put", "send", "receive"};
    return NAMES[int(kind)];
}

inline const char* name_of(Meeting kind) {
    static const char* const NAMES[] = {"__syncthreads", "__syncthreads_and", "__syncwarp",
                                        "__all_sync",    "a shuffle",         "a product"};
    return NAMES[int(kind)];
}

}  // namespace emulator
