// Faults of a launch, in the structure that Python reads.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <map>
#include <tuple>

#include "launch.h"
#include "memory.h"
#include "threads.h"

namespace emulator {

class Faults {
public:
    explicit Faults(const Launch& launch) : faults_(launch.faults), places_(launch.fault_count) {}

    uint64_t count() const { return count_; }

    // The same fault of several threads, at the same lines, is noted once.
    __attribute__((format(printf, 6, 7))) void note(const Thread& who, int line, int other_line, const Spot& spot,
                                                    const char* format, ...) {
        Fault* fault = find(line, other_line, format);
        if (!fault || fault->times++) return;
        fault->range = spot.range;
        fault->offset = spot.offset;
        const int used = std::snprintf(fault->text, sizeof fault->text,
                                       "block (%u, %u), thread %u, line %d: ", who.place.block.x,
                                       who.place.block.y, who.place.thread.x, line);
        va_list values;
        va_start(values, format);
        std::vsnprintf(fault->text + used, sizeof fault->text - size_t(used), format, values);
        va_end(values);
    }

    // A fault of the whole launch, which ends it.
    void note(const char* what) {
        if (count_ == places_) return;
        Fault& fault = faults_[count_++];
        fault.times = 1;
        fault.range = NOWHERE;
        std::snprintf(fault.text, sizeof fault.text, "%s", what);
    }

private:
    // The fault of that kind, or a new one; null if there is no place left.
    Fault* find(int line, int other_line, const char* kind) {
        const auto found = noted_.find({line, other_line, kind});
        if (found != noted_.end()) return found->second;
        if (count_ == places_) return nullptr;
        return noted_[{line, other_line, kind}] = &faults_[count_++];
    }

    Fault* faults_;  // all zero at first
    uint64_t places_, count_ = 0;
    std::map<std::tuple<int, int, const char*>, Fault*> noted_;
};

}  // namespace emulator
