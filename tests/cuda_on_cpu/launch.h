// Structures of a launch and its faults, shared with Python: emulator.py has the same.
#pragma once

#include <cstdint>

namespace emulator {

enum class Kind : uint32_t {
    array,
    host_word,  // which kernels may only report to
    gone,       // an array that nobody holds any more
};

struct Range {
    uint64_t start, size;
    Kind kind;
};

struct Fault {
    char text[480];
    int64_t range;  // the index of a range, or one of those below
    int64_t offset;
    uint64_t times;
};

constexpr int64_t NOWHERE = -1, BLOCK_MEMORY = -2;

struct Launch {
    uint32_t grid_x, grid_y, threads, blocks_at_once;
    uint64_t block_memory, seed, max_turns;
    int64_t withheld;  // the number of a block that never runs, or -1
    uint32_t chaos, races;
    const Range* ranges;  // in the order of their addresses
    uint64_t range_count;
    const void* arguments;
    Fault* faults;
    uint64_t fault_count;  // how many there is place for
};

}  // namespace emulator
