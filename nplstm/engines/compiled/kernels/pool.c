// See pool.h. The calling thread takes tasks itself, so that a job is done even if no other thread gets a CPU.
//
// On a busy machine a thread may wait for its partners longer than they save it. So each job that was shared is
// judged: what was lost by it is made up for by working alone for a few times as long.
#include "pool.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum {
    LOOKS = 64,                // between two looks at the clock
    LOOK_NS = 50 * 1000,       // how long to look before sleeping, while others work
    IDLE_NS = 500 * 1000,      // how long to look for the next job
    WAKE_NS = 100 * 1000,      // of a job that is worth waking threads for
    JOIN_NS = 100 * 1000,      // how long to wait for threads to join a job, at most
    TOO_LONG_NS = 500 * 1000,  // lost by waiting in one job, after which the first member goes on alone
    MAKE_UP = 20,              // times the loss, to be worked alone
    MOST_TASKS = (1 << 12) - 1,
    STACK_BYTES = 256 * 1024,
};

static const int64_t MOST_LOSS_NS = 3000000000;  // that is made up for: a process may have been stopped for hours

// The current job's number, how many threads may still join it, how many tasks it has, and which is the next to be
// taken: one word, so that a task can only be taken of the job that was seen.
typedef struct {
    uint32_t job;
    uint32_t seats : 8, tasks : 12, next : 12;
} Work;

static uint64_t word_of(Work work) {
    return (uint64_t)work.job << 32 | (uint32_t)work.seats << 24 | (uint32_t)work.tasks << 12 | work.next;
}

static Work work_of(uint64_t word) {
    return (Work){(uint32_t)(word >> 32), word >> 24 & 0xFF, word >> 12 & 0xFFF, word & 0xFFF};
}

// Threads asleep until something changes.
typedef struct {
    _Atomic int count;
    pthread_cond_t changed;
} Sleepers;

static struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t work;
    _Alignas(CACHE_LINE) _Atomic int busy;  // whether someone is giving a job
    _Atomic int awake;                      // threads that look for a job
    _Atomic int64_t alone_until;            // nanoseconds, as all times
    _Atomic int64_t entered;                // when the last job was asked for
    _Atomic int threads;
    Run* run;
    void* given;
    Meeting* meeting;
    Count done;         // tasks of this job, all but the caller's first
    Count members;      // of a job whose tasks meet; 0 until it is known
    uint32_t floating;  // the caller's rounding and denormals
    pthread_mutex_t lock;
    Sleepers idle, waiting;  // for a job, for a count
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

static int64_t now(void) { return nanoseconds(CLOCK_MONOTONIC); }

// Of the job that this thread gave: when it began, what this thread had used of a CPU by then, how long it has waited
// for others.
static _Thread_local int64_t begun, used, waited;

static inline void relax(void) {
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

// So many sleeping threads look again at what they wait for. A thread counts itself as sleeping before its last look,
// and who changes something looks for sleepers afterwards: one of the two sees the other.
static void wake(Sleepers* sleepers, int most) {
    int count = atomic_load(&sleepers->count);
    if (!count || most <= 0) return;
    pthread_mutex_lock(&pool.lock);
    if (most >= count)
        pthread_cond_broadcast(&sleepers->changed);
    else
        while (most--) pthread_cond_signal(&sleepers->changed);
    pthread_mutex_unlock(&pool.lock);
}

#define SLEEP_UNTIL(sleepers, condition)                                                                          \
    do {                                                                                                          \
        pthread_mutex_lock(&pool.lock);                                                                           \
        atomic_fetch_add(&(sleepers)->count, 1);                                                                  \
        while (!(condition)) pthread_cond_wait(&(sleepers)->changed, &pool.lock);                                 \
        atomic_fetch_sub(&(sleepers)->count, 1);                                                                  \
        pthread_mutex_unlock(&pool.lock);                                                                         \
    } while (0)

// Look until the condition holds or the time is over; whether it holds.
#define LOOK_UNTIL(end, condition)                                                                                \
    ({                                                                                                            \
        bool holds = condition;                                                                                   \
        while (!holds && now() < (end))                                                                           \
            for (int look = 0; look < LOOKS && !(holds = (condition)); ++look) relax();                           \
        holds;                                                                                                    \
    })

void count_to(Count* count, int64_t value) {
    atomic_store(&count->value, value);
    wake(&pool.waiting, INT_MAX);
}

void wait_for(Count* count, int64_t value) {
    for (int look = 0; look < LOOKS; ++look) {
        if (atomic_load_explicit(&count->value, memory_order_acquire) >= value) return;
        relax();
    }
    int64_t start = now();
    if (!LOOK_UNTIL(start + LOOK_NS, atomic_load(&count->value) >= value))
        SLEEP_UNTIL(&pool.waiting, atomic_load(&count->value) >= value);
    waited += now() - start;
}

void meet(Meeting* meeting, int member) {
    int64_t count = atomic_load_explicit(&meeting->come[member].value, memory_order_relaxed) + 1;
    count_to(&meeting->come[member], count);
    for (int other = 0; other < meeting->members; ++other) wait_for(&meeting->come[other], count);
}

// What sharing cost more than it saved: this thread did `mine` of the tasks, and would have done all of them alone.
// A thread that had no CPU did nothing meanwhile, whether it waited or not.
static int64_t lost(int mine, int tasks) {
    const int64_t all = now() - begun, running = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - used;
    const int64_t own = running < all - waited ? running : all - waited;
    return all - own / mine * tasks;
}

bool meet_and_go_on(Meeting* meeting, int member) {
    int64_t count = atomic_load_explicit(&meeting->come[member].value, memory_order_relaxed) + 1;
    if (member == 0 && waited > TOO_LONG_NS && lost(1, meeting->members) > TOO_LONG_NS) meeting->last = count;
    meet(meeting, member);
    return meeting->last != count;
}

static Work current(void) { return work_of(atomic_load(&pool.work)); }

// Take a task of a job; -1 if there is none left. A thread of the pool needs a seat for its first one.
static int take(uint32_t job, bool seat) {
    uint64_t word = atomic_load(&pool.work);
    for (;;) {
        Work work = work_of(word);
        if (work.job != job || work.next >= work.tasks || (seat && !work.seats)) return -1;
        ++work.next, work.seats -= seat;
        if (atomic_compare_exchange_weak(&pool.work, &word, word_of(work))) return work.next - 1;
    }
}

static void run_taken(int task, int tasks) {
    pool.run(pool.given, task, tasks, pool.meeting);
    atomic_fetch_add(&pool.done.value, 1);
    wake(&pool.waiting, INT_MAX);
}

// What a thread of the pool does.
static void* serve(void* unused) {
    (void)unused;
    uint32_t job = 0;
    for (int64_t since = now();;) {  // last wanted
        atomic_fetch_add(&pool.awake, 1);
        bool found = LOOK_UNTIL(since + IDLE_NS, current().job != job);
        atomic_fetch_sub(&pool.awake, 1);
        if (!found) SLEEP_UNTIL(&pool.idle, current().job != job);
        const Work seen = current();
        job = seen.job;
        bool seat = true;
        for (int task; (task = take(job, seat)) >= 0; seat = false) {
            int tasks = (int)current().tasks;
            if (pool.meeting) {
                wait_for(&pool.members, 1);
                tasks = (int)atomic_load(&pool.members.value);
            }
            set_floating(pool.floating);
            run_taken(task, tasks);
        }
        // one that came too late looks on, as the next job may want it too; one that was not wanted goes to sleep
        if (!found || !seat || seen.seats) since = now();
    }
    return NULL;
}

static void forget_threads(void) {  // a child of fork has none of its parent's
    atomic_store(&pool.work, 0);
    atomic_store(&pool.busy, 0);
    atomic_store(&pool.awake, 0);
    atomic_store(&pool.threads, 0);
    pthread_mutex_init(&pool.lock, NULL);
    Sleepers* const all[] = {&pool.idle, &pool.waiting};
    for (int k = 0; k < 2; ++k) atomic_store(&all[k]->count, 0), pthread_cond_init(&all[k]->changed, NULL);
}

// Start threads until there are so many, or the system lets no more be started; how many there are.
static int have_threads(int wanted) {
    static _Atomic bool prepared;
    int there = atomic_load(&pool.threads);
    if (there >= wanted) return there;
    if (!atomic_exchange(&prepared, true)) pthread_atfork(NULL, NULL, forget_threads);
    sigset_t every, before;  // signals are for the threads of the program, but for those of a thread's own faults
    sigfillset(&every);
    sigdelset(&every, SIGSEGV), sigdelset(&every, SIGBUS), sigdelset(&every, SIGFPE), sigdelset(&every, SIGILL);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    while (there < wanted && !pthread_create(&thread, &attributes, serve, NULL)) ++there;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    atomic_store(&pool.threads, there);
    return there;
}

int pool_size(void) { return atomic_load(&pool.threads); }

// Begin a job that other threads may have a part in; false if it is better done alone. To wake threads takes some
// microseconds: a short job does so only if it is one of many, of which the next ones find them awake.
static bool enter(int64_t expected) {
    int nobody = 0;
    int64_t time = now(), before = atomic_exchange(&pool.entered, time);
    bool awake = atomic_load(&pool.awake) || expected >= WAKE_NS || time - before < IDLE_NS;
    return awake && time >= atomic_load(&pool.alone_until) &&
           atomic_compare_exchange_strong(&pool.busy, &nobody, 1);
}

// `seats`: of threads beside the caller.
static void begin(Run* run, void* job, Meeting* meeting, int seats, int tasks, int next) {
    begun = now(), used = nanoseconds(CLOCK_THREAD_CPUTIME_ID), waited = 0;
    pool.run = run, pool.given = job, pool.meeting = meeting, pool.floating = floating();
    atomic_store(&pool.done.value, 0);
    atomic_store(&pool.members.value, 0);
    atomic_store(&pool.work, word_of((Work){current().job + 1, (uint8_t)seats, (uint16_t)tasks, (uint16_t)next}));
    wake(&pool.idle, seats - atomic_load(&pool.awake));
}

static void end(int64_t loss) {
    if (loss > MOST_LOSS_NS) loss = MOST_LOSS_NS;
    if (loss > 0) atomic_store(&pool.alone_until, now() + MAKE_UP * loss);
    atomic_store(&pool.busy, 0);
}

void run_each(Run* run, void* job, int tasks, int threads, int64_t expected) {
    if (threads > tasks) threads = tasks;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads < 2 || tasks > MOST_TASKS || !enter(expected)) {
        for (int task = 0; task < tasks; ++task) run(job, task, tasks, NULL);
        return;
    }
    have_threads(threads - 1);
    int mine = 0;
    begin(run, job, NULL, threads - 1, tasks, 0);
    const uint32_t number = current().job;
    for (int task; (task = take(number, false)) >= 0; ++mine) run_taken(task, tasks);
    wait_for(&pool.done, tasks);
    end(mine ? lost(mine, tasks) : now() - begun - expected);
}

void run_together(Run* run, void* job, int tasks, int64_t expected) {
    Meeting meeting = {.members = 1, .last = -1};
    if (tasks > MOST_THREADS) tasks = MOST_THREADS;
    if (tasks < 2 || !enter(expected)) {
        run(job, 0, 1, &meeting);
        return;
    }
    int there = have_threads(tasks - 1) + 1;
    if (tasks > there) tasks = there;
    begin(run, job, &meeting, tasks - 1, tasks, 1);
    // a thread that sleeps takes a while to come: a short job does not wait for it, but the next one finds it awake
    int64_t patience = expected / 4 < JOIN_NS ? expected / 4 : JOIN_NS;
    LOOK_UNTIL(begun + patience, current().next >= (unsigned)tasks);
    waited = now() - begun;
    uint64_t word = atomic_load(&pool.work);
    Work closed;
    do closed = work_of(word), closed.tasks = 0;
    while (!atomic_compare_exchange_weak(&pool.work, &word, word_of(closed)));
    const int members = closed.next;
    meeting.members = members;
    count_to(&pool.members, members);
    run(job, 0, members, &meeting);
    wait_for(&pool.done, members - 1);
    end(lost(1, members));
}
