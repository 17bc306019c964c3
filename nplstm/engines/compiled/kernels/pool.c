// The thread pool, see pool.h. The calling thread takes tasks itself, so a job is done even if no worker gets a CPU.
//
// On a busy machine a thread may wait for the others longer than they save it. So each shared job is timed: after a
// loss, jobs run in the calling thread alone for a multiple of the time that was lost.
#include "pool.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum {
    SPINS = 64,                 // between two readings of the clock
    SPIN_NS = 50 * 1000,        // how long to spin for a counter before sleeping
    IDLE_SPIN_NS = 500 * 1000,  // how long an idle worker spins for the next job
    WAKE_NS = 100 * 1000,       // length of a job from which it pays to wake workers
    JOIN_NS = 100 * 1000,       // how long to wait for workers to join a job, at most
    TOO_LONG_NS = 500 * 1000,   // loss by waiting in one job, after which member 0 goes on alone
    PENALTY = 20,               // times the loss: how long jobs then run in the calling thread alone
    MAX_TASKS = (1 << 12) - 1,
    STACK_BYTES = 256 * 1024,
};

static const int64_t MAX_LOSS_NS = 3000000000;  // a process may have been stopped for hours

// The current job's number, how many workers may still join it, how many tasks it has, and the next task in the queue:
// one word, so that a task can only be taken from the job that was seen.
typedef struct {
    uint32_t job;
    uint32_t slots : 8, tasks : 12, next : 12;
} JobState;

static uint64_t pack_state(JobState state) {
    return (uint64_t)state.job << 32 | (uint32_t)state.slots << 24 | (uint32_t)state.tasks << 12 | state.next;
}

static JobState unpack_state(uint64_t word) {
    return (JobState){(uint32_t)(word >> 32), word >> 24 & 0xFF, word >> 12 & 0xFFF, word & 0xFFF};
}

// Threads that sleep until something changes.
typedef struct {
    _Atomic int count;
    pthread_cond_t changed;
} WaitQueue;

static struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t state;
    _Alignas(CACHE_LINE) _Atomic int busy;  // whether a thread has submitted a job
    _Atomic int awake;                      // workers that spin for a job
    _Atomic int64_t serial_until;           // nanoseconds, as all times
    _Atomic int64_t last_request;           // when claim_pool was last called
    _Atomic int threads;
    TaskFunction* run;
    void* data;
    Barrier* barrier;
    Counter done;       // tasks of this job, all but the caller's first
    Counter members;    // of a job with a barrier; 0 until it is known
    uint32_t floating;  // the caller's rounding and denormals
    pthread_mutex_t lock;
    WaitQueue idle, waiting;  // for a job, for a counter
} pool = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .idle.changed = PTHREAD_COND_INITIALIZER,
    .waiting.changed = PTHREAD_COND_INITIALIZER,
};

static int64_t nanoseconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int64_t now_ns(void) { return nanoseconds(CLOCK_MONOTONIC); }

// Of the job that this thread submitted: when it began, this thread's CPU time by then, and how long it has waited for
// other threads.
static _Thread_local int64_t job_start, cpu_at_start, time_waited;

static inline void cpu_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

// How this thread rounds, and whether it takes denormals for zero: other libraries set that in the caller.
static uint32_t floating(void) {
#if defined(__x86_64__)
    return __builtin_ia32_stmxcsr();
#elif defined(__aarch64__)
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return (uint32_t)control;
#else
    return 0;
#endif
}

static void set_floating(uint32_t control) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(control);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)control));
#else
    (void)control;
#endif
}

// Wake up to `most` threads of a queue to check their condition again. A thread enters the queue before its last check,
// and a change is made before the queue is read: one of the two threads sees the other.
static void wake(WaitQueue* queue, int most) {
    int count = atomic_load(&queue->count);
    if (!count || most <= 0) return;
    pthread_mutex_lock(&pool.lock);
    if (most >= count)
        pthread_cond_broadcast(&queue->changed);
    else
        while (most--) pthread_cond_signal(&queue->changed);
    pthread_mutex_unlock(&pool.lock);
}

#define SLEEP_UNTIL(queue, condition)                                                                             \
    do {                                                                                                          \
        pthread_mutex_lock(&pool.lock);                                                                           \
        atomic_fetch_add(&(queue)->count, 1);                                                                     \
        while (!(condition)) pthread_cond_wait(&(queue)->changed, &pool.lock);                                    \
        atomic_fetch_sub(&(queue)->count, 1);                                                                     \
        pthread_mutex_unlock(&pool.lock);                                                                         \
    } while (0)

// Spin until the condition holds or the time is over; whether it holds.
#define SPIN_UNTIL(end, condition)                                                                                \
    ({                                                                                                            \
        bool holds = condition;                                                                                   \
        while (!holds && now_ns() < (end))                                                                        \
            for (int spin = 0; spin < SPINS && !(holds = (condition)); ++spin) cpu_pause();                       \
        holds;                                                                                                    \
    })

void set_counter(Counter* counter, int64_t value) {
    atomic_store(&counter->value, value);
    wake(&pool.waiting, INT_MAX);
}

void wait_for(Counter* counter, int64_t value) {
    for (int spin = 0; spin < SPINS; ++spin) {
        if (atomic_load_explicit(&counter->value, memory_order_acquire) >= value) return;
        cpu_pause();
    }
    int64_t start = now_ns();
    if (!SPIN_UNTIL(start + SPIN_NS, atomic_load(&counter->value) >= value))
        SLEEP_UNTIL(&pool.waiting, atomic_load(&counter->value) >= value);
    time_waited += now_ns() - start;
}

void barrier_wait(Barrier* barrier, int member) {
    int64_t round = atomic_load_explicit(&barrier->arrivals[member].value, memory_order_relaxed) + 1;
    set_counter(&barrier->arrivals[member], round);
    for (int other = 0; other < barrier->members; ++other) wait_for(&barrier->arrivals[other], round);
}

// How much longer the job took than in one thread: this thread ran `mine` of the tasks, and would have run all of them.
// Time without a CPU counts as time of waiting.
static int64_t loss_by_sharing(int mine, int tasks) {
    const int64_t all = now_ns() - job_start, running = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu_at_start;
    const int64_t own = running < all - time_waited ? running : all - time_waited;
    return all - own / mine * tasks;
}

bool barrier_wait_or_dissolve(Barrier* barrier, int member) {
    int64_t round = atomic_load_explicit(&barrier->arrivals[member].value, memory_order_relaxed) + 1;
    if (member == 0 && time_waited > TOO_LONG_NS && loss_by_sharing(1, barrier->members) > TOO_LONG_NS)
        barrier->last_round = round;
    barrier_wait(barrier, member);
    return barrier->last_round != round;
}

static JobState current(void) { return unpack_state(atomic_load(&pool.state)); }

// Take the next task of a job; -1 if there is none left. A worker needs a free slot for its first task.
static int take_task(uint32_t job, bool needs_slot) {
    uint64_t word = atomic_load(&pool.state);
    for (;;) {
        JobState state = unpack_state(word);
        if (state.job != job || state.next >= state.tasks || (needs_slot && !state.slots)) return -1;
        ++state.next, state.slots -= needs_slot;
        if (atomic_compare_exchange_weak(&pool.state, &word, pack_state(state))) return state.next - 1;
    }
}

static void run_task(int task, int tasks) {
    pool.run(pool.data, task, tasks, pool.barrier);
    atomic_fetch_add(&pool.done.value, 1);
    wake(&pool.waiting, INT_MAX);
}

// The loop of a worker thread.
static void* worker_loop(void* unused) {
    (void)unused;
    uint32_t job = 0;
    for (int64_t since = now_ns();;) {  // when it last had a job, or joined too late
        atomic_fetch_add(&pool.awake, 1);
        bool found = SPIN_UNTIL(since + IDLE_SPIN_NS, current().job != job);
        atomic_fetch_sub(&pool.awake, 1);
        if (!found) SLEEP_UNTIL(&pool.idle, current().job != job);
        const JobState seen = current();
        job = seen.job;
        bool needs_slot = true;
        for (int task; (task = take_task(job, needs_slot)) >= 0; needs_slot = false) {
            int tasks = (int)current().tasks;
            if (pool.barrier) {
                wait_for(&pool.members, 1);
                tasks = (int)atomic_load(&pool.members.value);
            }
            set_floating(pool.floating);
            run_task(task, tasks);
        }
        // a worker that came too late goes on spinning, as the next job may need it; one without a slot goes to sleep
        if (!found || !needs_slot || seen.slots) since = now_ns();
    }
    return NULL;
}

static void reset_in_child(void) {  // a child of fork has no threads of its parent's
    atomic_store(&pool.state, 0);
    atomic_store(&pool.busy, 0);
    atomic_store(&pool.awake, 0);
    atomic_store(&pool.threads, 0);
    pthread_mutex_init(&pool.lock, NULL);
    WaitQueue* const all[] = {&pool.idle, &pool.waiting};
    for (int k = 0; k < 2; ++k) atomic_store(&all[k]->count, 0), pthread_cond_init(&all[k]->changed, NULL);
}

// Start workers until there are so many, or the system starts no more; how many there are.
static int start_workers(int wanted) {
    static _Atomic bool prepared;
    int started = atomic_load(&pool.threads);
    if (started >= wanted) return started;
    if (!atomic_exchange(&prepared, true)) pthread_atfork(NULL, NULL, reset_in_child);
    sigset_t every, before;  // workers block all signals but those of their own faults
    sigfillset(&every);
    sigdelset(&every, SIGSEGV), sigdelset(&every, SIGBUS), sigdelset(&every, SIGFPE), sigdelset(&every, SIGILL);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    while (started < wanted && !pthread_create(&thread, &attributes, worker_loop, NULL)) ++started;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    atomic_store(&pool.threads, started);
    return started;
}

int pool_size(void) { return atomic_load(&pool.threads); }

// Reserve the pool for a job; false if it is better to run it in this thread alone. To wake workers takes some
// microseconds: a short job does so only if it is one of many, of which the next ones find them awake.
static bool claim_pool(int64_t expected) {
    int free = 0;
    int64_t time = now_ns(), before = atomic_exchange(&pool.last_request, time);
    bool awake = atomic_load(&pool.awake) || expected >= WAKE_NS || time - before < IDLE_SPIN_NS;
    return awake && time >= atomic_load(&pool.serial_until) &&
           atomic_compare_exchange_strong(&pool.busy, &free, 1);
}

// Start a job. `slots`: how many workers may join the calling thread.
static void submit(TaskFunction* run, void* job, Barrier* barrier, int slots, int tasks, int next) {
    job_start = now_ns(), cpu_at_start = nanoseconds(CLOCK_THREAD_CPUTIME_ID), time_waited = 0;
    pool.run = run, pool.data = job, pool.barrier = barrier, pool.floating = floating();
    atomic_store(&pool.done.value, 0);
    atomic_store(&pool.members.value, 0);
    atomic_store(&pool.state,
                 pack_state((JobState){current().job + 1, (uint8_t)slots, (uint16_t)tasks, (uint16_t)next}));
    wake(&pool.idle, slots - atomic_load(&pool.awake));
}

static void release_pool(int64_t loss) {
    if (loss > MAX_LOSS_NS) loss = MAX_LOSS_NS;
    if (loss > 0) atomic_store(&pool.serial_until, now_ns() + PENALTY * loss);
    atomic_store(&pool.busy, 0);
}

void run_each(TaskFunction* run, void* job, int tasks, int threads, int64_t expected) {
    if (threads > tasks) threads = tasks;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads < 2 || tasks > MAX_TASKS || !claim_pool(expected)) {
        for (int task = 0; task < tasks; ++task) run(job, task, tasks, NULL);
        return;
    }
    start_workers(threads - 1);
    int mine = 0;
    submit(run, job, NULL, threads - 1, tasks, 0);
    const uint32_t number = current().job;
    for (int task; (task = take_task(number, false)) >= 0; ++mine) run_task(task, tasks);
    wait_for(&pool.done, tasks);
    release_pool(mine ? loss_by_sharing(mine, tasks) : now_ns() - job_start - expected);
}

void run_together(TaskFunction* run, void* job, int tasks, int64_t expected) {
    Barrier barrier = {.members = 1, .last_round = -1};
    if (tasks > MAX_THREADS) tasks = MAX_THREADS;
    if (tasks < 2 || !claim_pool(expected)) {
        run(job, 0, 1, &barrier);
        return;
    }
    int started = start_workers(tasks - 1) + 1;
    if (tasks > started) tasks = started;
    submit(run, job, &barrier, tasks - 1, tasks, 1);
    // a sleeping worker takes a while to join: a short job does not wait for it, but the next one finds it awake
    int64_t join_ns = expected / 4 < JOIN_NS ? expected / 4 : JOIN_NS;
    SPIN_UNTIL(job_start + join_ns, current().next >= (unsigned)tasks);
    time_waited = now_ns() - job_start;
    uint64_t word = atomic_load(&pool.state);
    JobState closed;
    do closed = unpack_state(word), closed.tasks = 0;
    while (!atomic_compare_exchange_weak(&pool.state, &word, pack_state(closed)));
    const int members = closed.next;
    barrier.members = members;
    set_counter(&pool.members, members);
    run(job, 0, members, &barrier);
    wait_for(&pool.done, members - 1);
    release_pool(loss_by_sharing(1, members));
}
