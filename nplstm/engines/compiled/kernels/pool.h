// Threads for one job at a time. They look for the next one for a short while, and then sleep.
#pragma once
#include "meeting.h"

// Runs one task of a job. `tasks` is how many there are: of those that meet, it may be less than was asked for.
typedef void Run(void* job, int task, int tasks, Meeting* meeting);

// Run tasks 0 to tasks - 1, in any order, on up to `threads` threads. `expected`: nanoseconds that one thread would
// take for all.
void run_each(Run* run, void* job, int tasks, int threads, int64_t expected);

// Run tasks at the same time: those that are called can meet. Where not all threads come in time there are fewer.
// `expected`: nanoseconds that one thread would take, of which a part is spent on waiting for them.
void run_together(Run* run, void* job, int tasks, int64_t expected);

// Threads that the process has for this, without the callers.
int pool_size(void);
