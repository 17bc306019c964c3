// Synchronisation of threads: counters that only grow, and a barrier after each step for the threads that share it.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { CACHE_LINE = 64, MAX_THREADS = 64 };

typedef struct {
    _Alignas(CACHE_LINE) _Atomic int64_t value;
} Counter;

// Set a counter. Threads that see the value also see all that was written before (release).
void set_counter(Counter* counter, int64_t value);

// Wait until a counter has at least this value: spin for a while, then sleep.
void wait_for(Counter* counter, int64_t value);

typedef struct Barrier {
    int members;
    _Atomic int64_t last_round;     // the round after which member 0 goes on alone; -1: none
    Counter arrivals[MAX_THREADS];  // by member, how many rounds it has reached
} Barrier;

// Wait until all members have reached the round of this one.
void barrier_wait(Barrier* barrier, int member);

// The same; false where the barrier is dissolved: waiting has taken too long, and member 0 goes on alone.
bool barrier_wait_or_dissolve(Barrier* barrier, int member);
