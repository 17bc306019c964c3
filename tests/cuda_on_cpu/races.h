// Race detection: unordered accesses to the same byte, found with vector clocks as in FastTrack (Flanagan and Freund,
// 2009).
//
// A thread's clock counts its releases: barriers that order memory, and announcements. Each thread knows the clocks of
// the threads that it synchronised with. An access happens before a thread that knows its thread's clock of that time.
// Each byte remembers its last write and the reads since.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace emulator {

struct Event {
    uint32_t clock;  // 0: there was none
    uint16_t block, thread;
    int line;
};

// The clocks of all threads of each block, as far as they are known. Threads that synchronised share one; it is
// immutable.
struct View {
    using Clocks = std::shared_ptr<const std::vector<uint32_t>>;
    std::vector<Clocks> of_block;

    explicit View(size_t blocks) : of_block(blocks) {}

    void join(const View& other) {
        for (size_t i = 0; i < of_block.size(); i++) of_block[i] = later(of_block[i], other.of_block[i]);
    }

    std::vector<uint32_t> clocks(uint16_t block, unsigned threads) const {
        return of_block[block] ? *of_block[block] : std::vector<uint32_t>(threads);
    }

    void learn(uint16_t block, std::vector<uint32_t> clocks) {
        of_block[block] = std::make_shared<const std::vector<uint32_t>>(std::move(clocks));
    }

private:
    static Clocks later(const Clocks& a, const Clocks& b) {
        if (a == b || !b) return a;
        if (!a) return b;
        auto both = std::make_shared<std::vector<uint32_t>>(*a);
        for (size_t i = 0; i < both->size(); i++) (*both)[i] = std::max((*both)[i], (*b)[i]);
        return both;
    }
};

// The identity, clock and knowledge of a thread.
struct Witness {
    uint16_t block, thread;
    uint32_t clock;
    std::shared_ptr<const View> seen;

    Event event(int line) const { return {clock, block, thread, line}; }

    bool is(const Event& event) const { return event.block == block && event.thread == thread; }

    bool knows(const Event& event) const {
        if (event.clock == 0 || is(event)) return true;
        const View::Clocks& clocks = seen->of_block[event.block];
        return clocks && (*clocks)[event.thread] >= event.clock;
    }
};

// Synchronise some threads of a block, which has `threads`: each then knows what any of them knew.
inline void synchronise(const std::vector<Witness*>& present, unsigned threads) {
    auto known = std::make_shared<View>(*present[0]->seen);
    const View* joined = present[0]->seen.get();
    for (const Witness* one : present) {
        if (one->seen.get() != joined) known->join(*one->seen);  // most know the same
        joined = one->seen.get();
    }
    const uint16_t block = present[0]->block;
    std::vector<uint32_t> clocks = known->clocks(block, threads);
    for (Witness* one : present) clocks[one->thread] = one->clock++;
    known->learn(block, std::move(clocks));
    for (Witness* one : present) one->seen = known;
}

// A flag: a thread that reads it synchronises with the thread that set it.
struct Flag {
    Event raised{};
    std::shared_ptr<const View> known;  // to who raised it

    void announce(Witness& who, unsigned threads, int line) {
        auto view = std::make_shared<View>(*who.seen);
        std::vector<uint32_t> clocks = view->clocks(who.block, threads);
        clocks[who.thread] = who.clock;
        view->learn(who.block, std::move(clocks));
        raised = who.event(line);
        known = view;
        who.clock++;
    }

    void look(Witness& who) const {
        if (who.knows(raised)) return;
        auto view = std::make_shared<View>(*who.seen);
        view->join(*known);
        who.seen = view;
    }
};

using Reads = std::vector<std::vector<Event>>;

// A byte, all zero at first.
struct Cell {
    bool is_flag;

    bool is_data() const { return last_write_.clock != 0 || last_read_.clock != 0; }

    const Event& last_write() const { return last_write_; }

    bool written_by_other_than(uint16_t block) const {
        return last_write_.clock != 0 && last_write_.block != block;
    }

    // These return what the access is not ordered after: a clock of 0 if there is nothing.
    Event read(const Witness& who, int line, Reads& reads) {
        if (!who.knows(last_read_)) keep(last_read_, who, reads);
        last_read_ = who.event(line);
        return who.knows(last_write_) ? Event{} : last_write_;
    }

    Event write(const Witness& who, int line, Reads& reads) {
        const Event before = unordered(who, reads);
        last_write_ = who.event(line);
        last_read_ = Event{};
        if (more_reads_) reads[more_reads_].clear();
        return before;
    }

private:
    Event unordered(const Witness& who, const Reads& reads) const {
        if (!who.knows(last_write_)) return last_write_;
        if (!who.knows(last_read_)) return last_read_;
        if (more_reads_)
            for (const Event& other : reads[more_reads_])
                if (!who.knows(other)) return other;
        return Event{};
    }

    void keep(const Event& event, const Witness& who, Reads& reads) {
        if (!more_reads_) {
            more_reads_ = uint32_t(reads.size());
            reads.emplace_back();
        }
        auto& list = reads[more_reads_];
        if (list.size() == list.capacity())  // before it grows: what is ordered before this read need not be known
            list.erase(std::remove_if(list.begin(), list.end(), [&](auto& read) { return who.knows(read); }),
                       list.end());
        list.push_back(event);
    }

    Event last_write_, last_read_;
    uint32_t
        more_reads_;  // where in Reads those since the write are that the last is not ordered after; 0: nowhere
};

}  // namespace emulator
