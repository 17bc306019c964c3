// Scheduler: which thread runs next.
#pragma once

#include <deque>
#include <random>
#include <unordered_map>
#include <utility>

#include "launch.h"
#include "threads.h"

namespace emulator {

// With a seed of 0, turns go round. Otherwise they are drawn, and blocks and warps go at different speeds, which
// change: so one gets ahead of the others as far as the kernel lets it.
class Turns {
public:
    explicit Turns(const Launch& launch) : seed_(launch.seed), left_(launch.max_turns), random_(launch.seed) {}

    bool empty() const { return ready_.empty(); }
    bool spent() const { return left_ == 0; }
    void add(Thread& thread) { ready_.push_back(&thread); }

    Thread& next() {
        left_--;
        if (seed_) draw();
        Thread& thread = *ready_.front();
        ready_.pop_front();
        return thread;
    }

    // A number below a limit; 0 where nothing is drawn.
    size_t below(size_t limit) { return seed_ ? random_() % limit : 0; }

private:
    static constexpr unsigned TRIES = 8, TURNS_AT_ONE_SPEED = 500;

    void draw() {
        if (left_ % TURNS_AT_ONE_SPEED == 0) speeds_.clear();
        for (unsigned i = 0; i < TRIES; i++) {
            std::swap(ready_.front(), ready_[random_() % ready_.size()]);
            if (random_() % 256 < speed(*ready_.front())) return;
        }
    }

    // How likely a thread takes its turn, of 256.
    unsigned speed(const Thread& thread) { return speed_of(thread.block) * speed_of(thread.warp) / 256; }

    unsigned speed_of(const void* group) {
        static const unsigned SPEEDS[] = {256, 256, 64, 4};
        const auto [found, is_new] = speeds_.try_emplace(group, 0);
        if (is_new) found->second = SPEEDS[random_() % 4];
        return found->second;
    }

    uint64_t seed_;
    uint64_t left_;  // turns
    std::mt19937_64 random_;
    std::deque<Thread*> ready_;
    std::unordered_map<const void*, unsigned> speeds_;
};

}  // namespace emulator
