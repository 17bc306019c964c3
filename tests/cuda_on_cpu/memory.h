// The memory that a launch may access.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <new>

#include "launch.h"
#include "races.h"

namespace emulator {

// An array of zeros that takes memory where it is touched.
template <typename T>
class Zeros {
public:
    explicit Zeros(size_t count) : bytes_(std::max<size_t>(count, 1) * sizeof(T)) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* place = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (place == MAP_FAILED) throw std::bad_alloc();
        items_ = static_cast<T*>(place);
    }
    ~Zeros() { munmap(items_, bytes_); }
    Zeros(const Zeros&) = delete;
    Zeros& operator=(const Zeros&) = delete;

    T* at(size_t i) { return items_ + i; }

private:
    size_t bytes_;
    T* items_;
};

// Where something is that a thread accesses.
struct Spot {
    int64_t range = NOWHERE;  // or the one that it is nearest to
    int64_t offset = 0;
    Cell* cells = nullptr;  // null if it is not all inside of the range
};

// The ranges of a launch.
class Arrays {
public:
    explicit Arrays(const Launch& launch) {
        for (uint64_t i = 0; i < launch.range_count; i++) areas_.emplace_back(launch.ranges[i]);
    }

    Spot find(const void* place, size_t size, Kind kind) {
        const auto address = reinterpret_cast<uintptr_t>(place);
        if (last_ >= areas_.size() || !areas_[last_].holds(address, size)) last_ = before(address);
        if (last_ >= areas_.size()) return {};
        Area& area = areas_[last_];
        Spot spot{int64_t(last_), int64_t(address - area.range.start), nullptr};
        if (area.holds(address, size) && area.range.kind == kind) spot.cells = area.cells.at(spot.offset);
        return spot;
    }

private:
    struct Area {
        Range range;
        Zeros<Cell> cells;

        explicit Area(const Range& its_range) : range(its_range), cells(its_range.size) {}

        bool holds(uintptr_t address, size_t size) const {
            const uint64_t offset = address - range.start;
            return address >= range.start && offset <= range.size && size <= range.size - offset;
        }
    };

    // The last area that begins at the address or before it; none is a large number.
    size_t before(uintptr_t address) const {
        const auto after = std::upper_bound(areas_.begin(), areas_.end(), address,
                                            [](uintptr_t a, const Area& area) { return a < area.range.start; });
        return size_t(after - areas_.begin()) - 1;
    }

    std::deque<Area> areas_;
    size_t last_ = 0;  // where the last access was: the next is often there too
};

// The memory of one block.
class BlockMemory {
public:
    explicit BlockMemory(size_t size) : size_(size), bytes_(size), written_(size), cells_(size) {
        std::fill_n(bytes(), size, 0xff);  // as floats: not a number
    }

    unsigned char* bytes() { return bytes_.at(0); }

    Spot find(const void* place, size_t size) {
        const int64_t offset = static_cast<const unsigned char*>(place) - bytes();
        const bool inside = offset >= 0 && size_t(offset) <= size_ && size <= size_ - size_t(offset);
        return {BLOCK_MEMORY, offset, inside ? cells_.at(size_t(offset)) : nullptr};
    }

    void mark(const Spot& spot, size_t count) { std::fill_n(written_.at(size_t(spot.offset)), count, true); }

    bool is_written(const Spot& spot, size_t count) {
        const bool* first = written_.at(size_t(spot.offset));
        return std::all_of(first, first + count, [](bool written) { return written; });
    }

private:
    size_t size_;
    Zeros<unsigned char> bytes_;
    Zeros<bool> written_;  // of each byte: was anything put there?
    Zeros<Cell> cells_;
};

}  // namespace emulator
