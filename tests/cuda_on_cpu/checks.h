// Checks of each memory access: bounds, initialisation, and order with the accesses of other threads.
#pragma once

#include <unordered_map>

#include "faults.h"
#include "launch.h"
#include "memory.h"
#include "races.h"
#include "threads.h"

namespace emulator {

class Checks {
public:
    Checks(const Launch& launch, Faults& faults)
        : races_(launch.races), threads_(launch.threads), arrays_(launch), faults_(faults) {}

    bool access(Thread& who, Access kind, const void* place, unsigned size, int line) {
        const bool own = kind == Access::take || kind == Access::put;
        const Spot spot = own ? who.block->memory->find(place, size) : arrays_.find(place, size, Kind::array);
        if (!fits(who, name_of(kind), spot, place, size, line)) return false;
        if (own) check_written(who, kind, spot, size, line);
        if (races_) check_order(who, kind, spot, size, line);
        return true;
    }

    bool announce(Thread& who, const void* place, int line) {
        if (!is_flag(who, "announce", place, line)) return false;
        if (races_) flags_[place].announce(who.witness, threads_, line);
        return true;
    }

    bool look(Thread& who, const void* place, int line) {
        if (!is_flag(who, "look", place, line)) return false;
        if (races_) flags_[place].look(who.witness);
        return true;
    }

    bool report(const Thread& who, const void* place, int line) {
        return fits(who, "report", arrays_.find(place, 4, Kind::host_word), place, 4, line);
    }

private:
    static bool writes(Access kind) {
        return kind == Access::store || kind == Access::put || kind == Access::send;
    }

    bool fits(const Thread& who, const char* name, const Spot& spot, const void* place, unsigned size, int line) {
        if (!spot.cells)
            faults_.note(who, line, 0, spot, "%s of %u bytes out of bounds", name, size);
        else if (reinterpret_cast<uintptr_t>(place) % size)
            faults_.note(who, line, 0, spot, "%s of %u bytes at an address that is no multiple of it", name, size);
        else
            return true;
        return false;
    }

    void check_written(Thread& who, Access kind, const Spot& spot, unsigned size, int line) {
        BlockMemory& memory = *who.block->memory;
        if (writes(kind))
            memory.mark(spot, size);
        else if (!memory.is_written(spot, size))
            faults_.note(who, line, 0, spot, "take of %u bytes, not all of which were ever put", size);
    }

    void check_order(Thread& who, Access kind, const Spot& spot, unsigned size, int line) {
        Event unordered{}, foreign{};
        bool is_flag = false;
        for (Cell* cell = spot.cells; cell < spot.cells + size; cell++) {
            is_flag = is_flag || cell->is_flag;
            if (cell->written_by_other_than(who.witness.block)) foreign = cell->last_write();
            const Event other = writes(kind) ? cell->write(who.witness, line, reads_)
                                             : cell->read(who.witness, line, reads_);
            if (other.clock) unordered = other;
        }
        if (is_flag) faults_.note(who, line, 0, spot, "%s of a flag", name_of(kind));
        if (unordered.clock)
            note_pair(who, kind, spot, line, unordered,
                      "%s, and nothing orders it after line %d of block (%u, %u), thread %u");
        if (foreign.clock && kind == Access::load)
            note_pair(who, kind, spot, line, foreign,
                      "%s, and a first-level cache does not see line %d of block (%u, %u), thread %u");
    }

    void note_pair(const Thread& who, Access kind, const Spot& spot, int line, const Event& other,
                   const char* format) {
        const unsigned width = who.place.grid_size.x;
        faults_.note(who, line, other.line, spot, format, name_of(kind), other.line, other.block % width,
                     other.block / width, other.thread);
    }

    bool is_flag(const Thread& who, const char* name, const void* place, int line) {
        const Spot spot = arrays_.find(place, 4, Kind::array);
        if (!fits(who, name, spot, place, 4, line)) return false;
        for (Cell* cell = spot.cells; races_ && cell < spot.cells + 4; cell++) {
            if (cell->is_data()) faults_.note(who, line, 0, spot, "%s of what is accessed as data too", name);
            cell->is_flag = true;
        }
        return true;
    }

    const bool races_;
    const unsigned threads_;
    Arrays arrays_;
    Faults& faults_;
    Reads reads_{1};  // the first stands for none
    std::unordered_map<const void*, Flag> flags_;
};

}  // namespace emulator
