// The process-wide thread pool: one job at a time. Idle workers spin for a short while, then sleep.
#pragma once
#include "barrier.h"

// Runs one task of a job. `tasks` is how many there are: with a barrier it may be fewer than were asked for.
typedef void TaskFunction(void* job, int task, int tasks, Barrier* barrier);

// Run tasks 0 to tasks - 1, in any order, on up to `threads` threads. `expected`: nanoseconds that one thread would
// take for all.
void run_each(TaskFunction* run, void* job, int tasks, int threads, int64_t expected);

// Run tasks at the same time, one per thread, with a barrier between them. If not all workers join in time, there are
// fewer tasks. `expected`: nanoseconds that one thread would take; a part of it is spent on waiting for workers.
void run_together(TaskFunction* run, void* job, int tasks, int64_t expected);

// Nanoseconds of a clock that only goes forward.
int64_t now_ns(void);

// The number of workers, without the calling threads.
int pool_size(void);
