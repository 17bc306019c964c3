// A launch on the CPU: each thread of the kernel is a fiber, and one of them runs at a time.

#include "runtime.h"

#include <map>
#include <string>

#include "checks.h"
#include "faults.h"
#include "launch.h"
#include "threads.h"
#include "turns.h"

namespace emulator {

const Place* here;

namespace {

Thread* self;  // the thread that runs

class Run {
public:
    explicit Run(const Launch& launch)
        : launch_(launch), faults_(launch), checks_(launch, faults_), turns_(launch),
          nothing_seen_(std::make_shared<View>(launch.grid_x * launch.grid_y)), slots_(launch.blocks_at_once) {
        for (unsigned number = 0; number < launch.grid_x * launch.grid_y; number++)
            if (number != launch.withheld) to_begin_.push_back(number);
        for (Block& block : slots_) begin_next(block);
    }

    uint64_t go() {
        while (present_ && !stopped_) {
            if (turns_.empty())
                stop("no thread can go on");
            else if (turns_.spent())
                stop("the limit of turns is reached");
            else
                give_turn(turns_.next());
        }
        return faults_.count();
    }

    Checks& checks() { return checks_; }
    const Launch& launch() const { return launch_; }

    // A loop that waits by accesses which give no other thread a turn would never end.
    void count_access(int line) {
        if (++accesses_ > launch_.max_turns) fail("too many accesses to memory without a turn for others", line);
    }

    // Let others have a turn.
    void step_aside(const char* at, int line) {
        turns_.add(*self);
        pause(at, line);
    }

    void join_warp(Collective kind, void* brought, Finish finish, int line) {
        Warp& warp = *self->warp;
        arrive_at(kind, finish, line);
        warp.brought[self->lane] = brought;
        if (warp.waiting == warp.present) complete(warp);
        pause(name_of(kind), line);
    }

    bool join_block(Collective kind, bool brought, int line) {
        Block& block = *self->block;
        Barrier& barrier = block.barrier(kind);
        arrive_at(kind, nullptr, line);
        barrier.waiting++;
        barrier.brought = barrier.brought && brought;
        if (barrier.waiting == block.present) complete(block, barrier);
        pause(name_of(kind), line);
        return barrier.answer;
    }

    // The kernel is over for this thread: from now on it counts as arrived at each barrier.
    [[noreturn]] void leave() {
        Block& block = *self->block;
        Warp& warp = *self->warp;
        if (warp.waiting && warp.at == Collective::product) fail_divergent("has ended", warp.line);
        present_--;
        block.present--;
        warp.present &= ~(1u << self->lane);
        if (warp.waiting && warp.waiting == warp.present && !of_block(warp.at)) complete(warp);
        for (Barrier& barrier : block.barriers)
            if (barrier.waiting && barrier.waiting == block.present) complete(block, barrier);
        pause_for_good();
    }

    [[noreturn]] void fail(const char* why, int line) {
        faults_.note(*self, line, 0, {}, "%s", why);
        stopped_ = true;
        pause_for_good();
    }

private:
    void begin_next(Block& block) {
        if (to_begin_.empty()) return;
        const auto next = to_begin_.begin() + ptrdiff_t(turns_.below(to_begin_.size()));
        begin(block, *next);
        to_begin_.erase(next);
    }

    void begin(Block& block, unsigned number) {
        const unsigned threads = launch_.threads;
        block.memory = std::make_unique<BlockMemory>(launch_.block_memory);
        block.stacks = std::make_unique<Zeros<unsigned char>>(threads * Fiber::STACK);
        block.warps.assign((threads + LANES - 1) / LANES, Warp{});
        block.threads.assign(threads, Thread{});
        block.present = threads;
        present_ += threads;
        for (unsigned i = 0; i < threads; i++) begin_thread(block, number, i);
    }

    void begin_thread(Block& block, unsigned number, unsigned i) {
        Thread& thread = block.threads[i];
        Warp& warp = block.warps[i / LANES];
        thread.place.thread = {i, 0, 0};
        thread.place.block = {number % launch_.grid_x, number / launch_.grid_x, 0};
        thread.place.block_size = {launch_.threads, 1, 1};
        thread.place.grid_size = {launch_.grid_x, launch_.grid_y, 1};
        thread.block = &block;
        thread.warp = &warp;
        thread.lane = i % LANES;
        thread.witness = {uint16_t(number), uint16_t(i), 1, nothing_seen_};
        thread.fiber.start(block.stacks->at(i * Fiber::STACK), run_thread);
        if (thread.lane == 0) warp.threads = &thread;
        warp.present |= 1u << thread.lane;
        turns_.add(thread);
    }

    static void run_thread();

    void give_turn(Thread& thread) {
        self = &thread;
        here = &thread.place;
        thread.at = nullptr;
        accesses_ = 0;
        thread.fiber.resume();
        if (!thread.block->present) begin_next(*thread.block);
    }

    void pause(const char* at, int line) {
        self->at = at;
        self->line = line;
        self->fiber.pause();
    }

    [[noreturn]] void pause_for_good() {
        pause(nullptr, 0);
        __builtin_unreachable();
    }

    // Where a lane waits, the others of its warp must arrive at the same operation.
    void arrive_at(Collective kind, Finish finish, int line) {
        Warp& warp = *self->warp;
        const bool same = warp.at == kind && warp.finish == finish && (!is_aligned(kind) || warp.line == line);
        if (warp.waiting && !same) fail_divergent(name_of(kind), line);
        if (kind == Collective::product && warp.present != FULL_MASK) fail("a product by a part of a warp", line);
        warp.at = kind;
        warp.finish = finish;
        warp.line = line;
        warp.waiting |= 1u << self->lane;
    }

    [[noreturn]] void fail_divergent(const char* what, int line) {
        const Warp& warp = *self->warp;
        faults_.note(*self, line, warp.line, {}, "divergent: %s, while lane %d of the warp waits at %s, line %d",
                     what, __builtin_ctz(warp.waiting), name_of(warp.at), warp.line);
        stopped_ = true;
        pause_for_good();
    }

    // All lanes have arrived. Only __syncwarp orders their accesses to memory.
    void complete(Warp& warp) {
        if (warp.finish) warp.finish(warp.brought);
        std::vector<Witness*> present;
        for (unsigned lane = 0; lane < LANES; lane++) {
            if (!(warp.waiting >> lane & 1)) continue;
            turns_.add(warp.threads[lane]);
            present.push_back(&warp.threads[lane].witness);
        }
        if (warp.at == Collective::syncwarp && launch_.races) synchronise(present, launch_.threads);
        std::fill_n(warp.brought, LANES, nullptr);
        warp.waiting = 0;
    }

    // All threads have arrived, or have ended.
    void complete(Block& block, Barrier& barrier) {
        std::vector<Witness*> present;
        for (Thread& thread : block.threads) {
            if (thread.warp->present >> thread.lane & 1) turns_.add(thread);
            present.push_back(&thread.witness);
        }
        if (launch_.races) synchronise(present, launch_.threads);
        for (Warp& warp : block.warps) warp.waiting = 0;
        barrier = {0, true, barrier.brought};
    }

    void stop(const char* why) {
        std::map<std::string, unsigned> threads;
        for (const Block& block : slots_)
            for (const Thread& thread : block.threads)
                if (thread.at) threads[thread.at + (", line " + std::to_string(thread.line))]++;
        std::string text = why;
        for (const auto& [where, count] : threads) text += "; " + std::to_string(count) + " at " + where;
        faults_.note(text.c_str());
        stopped_ = true;
    }

    const Launch& launch_;
    Faults faults_;
    Checks checks_;
    Turns turns_;
    const std::shared_ptr<const View> nothing_seen_;
    std::vector<Block> slots_;        // those that are there at once
    std::vector<unsigned> to_begin_;  // the numbers of blocks
    uint64_t present_ = 0;            // threads that have begun and not ended
    uint64_t accesses_ = 0;           // in this turn
    bool stopped_ = false;
};

Run* run;

void Run::run_thread() {
    run_kernel(run->launch_.arguments);
    run->leave();
}

}  // namespace

bool access(Access kind, const void* place, unsigned size, int line) {
    const bool shared = kind == Access::send || kind == Access::receive;
    if (shared && run->launch().chaos) run->step_aside(name_of(kind), line);
    run->count_access(line);
    return run->checks().access(*self, kind, place, size, line);
}

bool before_announce(const void* flag, int line) {
    if (run->launch().chaos) run->step_aside("announce", line);
    return run->checks().announce(*self, flag, line);
}

bool before_look(const void* flag, int line) {
    run->step_aside("look", line);
    return run->checks().look(*self, flag, line);
}

bool before_report(const void* word, int line) { return run->checks().report(*self, word, line); }

bool join_block(Collective kind, bool brought, int line) { return run->join_block(kind, brought, line); }

void join_warp(Collective kind, void* brought, Finish finish, int line) {
    run->join_warp(kind, brought, finish, line);
}

void fail(const char* why, int line) { run->fail(why, line); }

unsigned char* block_memory() { return self->block->memory->bytes(); }

}  // namespace emulator

#define FOR_PYTHON extern "C" __attribute__((visibility("default")))

// Run it, write its faults, and return how many there are.
FOR_PYTHON uint64_t emulator_launch(const emulator::Launch* launch) {
    emulator::Run run(*launch);
    emulator::run = &run;
    return run.go();
}

FOR_PYTHON uint64_t emulator_arguments_size() { return emulator::arguments_size; }

// What g++ calls for an index that is outside of an array with a size (-fsanitize=bounds).
struct OutOfBounds {
    const char* file;
    uint32_t line, column;
};

extern "C" void __ubsan_handle_out_of_bounds(const OutOfBounds* where, uintptr_t) {
    emulator::fail("an index outside of its array", int(where->line));
}
