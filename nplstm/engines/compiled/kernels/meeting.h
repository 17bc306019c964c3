// Threads that wait for each other: counts that only grow, and a meeting after each step of those that share it.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { CACHE_LINE = 64, MOST_THREADS = 64 };

typedef struct {
    _Alignas(CACHE_LINE) _Atomic int64_t value;
} Count;

// Let other threads see a count, and all that was written before it.
void count_to(Count* count, int64_t value);

// Wait until a count comes so far: look for a while, then sleep.
void wait_for(Count* count, int64_t value);

typedef struct Meeting {
    int members;
    _Atomic int64_t last;      // count of the meeting after which the first member goes on alone
    Count come[MOST_THREADS];  // how many meetings each has come to
} Meeting;

// Wait until all members have come as often as this one.
void meet(Meeting* meeting, int member);

// The same; false if the first member is to go on alone, since waiting for the others has taken too long.
bool meet_and_go_on(Meeting* meeting, int member);
