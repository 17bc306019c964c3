// See pool.h. The calling thread takes tasks itself, so that a job is done even if no other thread gets a CPU.
//
// On a busy machine a thread may wait for its partners longer than they save it. So each job that was shared is
// judged: what was lost by it is made up for by working alone for a few times as long.
#include "pool.h"

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
    MAKE_UP = 5,               // times the loss, to be worked alone
    STACK_BYTES = 256 * 1024,
};

// The current job's number, how many tasks it has, and which is the next to be taken: one word, so that a task can
// only be taken of the job that was seen.
typedef struct {
    uint32_t job;
    uint16_t tasks, next;
} Work;

static uint64_t word_of(Work work) { return (uint64_t)work.job << 32 | (uint32_t)work.tasks << 16 | work.next; }

static Work work_of(uint64_t word) {
    return (Work){(uint32_t)(word >> 32), (uint16_t)(word >> 16), (uint16_t)word};
}

static struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t work;
    _Alignas(CACHE_LINE) _Atomic int busy;  // whether someone is giving a job
    _Atomic int awake;                      // threads that look for a job
    _Atomic int sleeping;                   // threads asleep, for whatever reason
    _Atomic int64_t alone_until;            // nanoseconds, as all times
    _Atomic int64_t entered;                // when the last job was asked for
    _Atomic int threads;
    Run* run;
    void* given;
    Meeting* meeting;
    Count done;     // tasks of this job, all but the caller's first
    Count members;  // of a job whose tasks meet; 0 until it is known
    pthread_mutex_t lock;
    pthread_cond_t changed;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static _Thread_local int64_t waited;  // nanoseconds, for counts in a job

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

// Sleeping threads look again at whatever they wait for. A thread counts itself as sleeping before its last look, and
// who changes something looks for sleepers afterwards: one of the two sees the other.
static void wake_all(void) {
    if (!atomic_load(&pool.sleeping)) return;
    pthread_mutex_lock(&pool.lock);
    pthread_cond_broadcast(&pool.changed);
    pthread_mutex_unlock(&pool.lock);
}

#define SLEEP_UNTIL(condition)                                                                                    \
    do {                                                                                                          \
        pthread_mutex_lock(&pool.lock);                                                                           \
        atomic_fetch_add(&pool.sleeping, 1);                                                                      \
        while (!(condition)) pthread_cond_wait(&pool.changed, &pool.lock);                                        \
        atomic_fetch_sub(&pool.sleeping, 1);                                                                      \
        pthread_mutex_unlock(&pool.lock);                                                                         \
    } while (0)

// Look until the condition holds or the time is over; whether it holds.
#define LOOK_FOR(nanoseconds, condition)                                                                          \
    ({                                                                                                            \
        bool holds = condition;                                                                                   \
        for (int64_t end = now() + (nanoseconds); !holds && now() < end;)                                         \
            for (int look = 0; look < LOOKS && !(holds = (condition)); ++look) relax();                           \
        holds;                                                                                                    \
    })

void count_to(Count* count, int64_t value) {
    atomic_store(&count->value, value);
    wake_all();
}

void wait_for(Count* count, int64_t value) {
    for (int look = 0; look < LOOKS; ++look) {
        if (atomic_load_explicit(&count->value, memory_order_acquire) >= value) return;
        relax();
    }
    int64_t begun = now();
    if (!LOOK_FOR(LOOK_NS, atomic_load(&count->value) >= value)) SLEEP_UNTIL(atomic_load(&count->value) >= value);
    waited += now() - begun;
}

void meet(Meeting* meeting, int member) {
    int64_t count = atomic_load_explicit(&meeting->come[member].value, memory_order_relaxed) + 1;
    count_to(&meeting->come[member], count);
    for (int other = 0; other < meeting->members; ++other) wait_for(&meeting->come[other], count);
}

// What sharing between `threads` cost more than it saved, if a thread that does its part waited so long of all the time.
static int64_t lost(int64_t begun, int threads) {
    int64_t all = now() - begun;
    return waited - (threads - 1) * (all - waited);
}

bool meet_and_go_on(Meeting* meeting, int member) {
    int64_t count = atomic_load_explicit(&meeting->come[member].value, memory_order_relaxed) + 1;
    if (member == 0 && waited > TOO_LONG_NS && lost(meeting->begun, meeting->members) > TOO_LONG_NS)
        meeting->last = count;
    meet(meeting, member);
    return meeting->last != count;
}

// Take a task of the current job; -1 if there is none left.
static int take(void) {
    uint64_t word = atomic_load(&pool.work);
    for (;;) {
        Work work = work_of(word);
        if (work.next >= work.tasks) return -1;
        ++work.next;
        if (atomic_compare_exchange_weak(&pool.work, &word, word_of(work))) return work.next - 1;
    }
}

static void run_taken(int task, int tasks) {
    pool.run(pool.given, task, tasks, pool.meeting);
    int64_t done = atomic_fetch_add(&pool.done.value, 1) + 1;
    (void)done;
    wake_all();
}

static uint32_t current_job(void) { return work_of(atomic_load(&pool.work)).job; }

// What a thread of the pool does.
static void* serve(void* unused) {
    (void)unused;
    uint32_t seen = 0;
    for (;;) {
        atomic_fetch_add(&pool.awake, 1);
        bool found = LOOK_FOR(IDLE_NS, current_job() != seen);
        atomic_fetch_sub(&pool.awake, 1);
        if (!found) SLEEP_UNTIL(current_job() != seen);
        seen = current_job();
        for (int task; (task = take()) >= 0;) {
            int tasks = work_of(atomic_load(&pool.work)).tasks;
            if (pool.meeting) {
                wait_for(&pool.members, 1);
                tasks = (int)atomic_load(&pool.members.value);
            }
            run_taken(task, tasks);
        }
    }
    return NULL;
}

static void forget_threads(void) {  // a child of fork has none of its parent's
    atomic_store(&pool.work, 0);
    atomic_store(&pool.busy, 0);
    atomic_store(&pool.awake, 0);
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.threads, 0);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.changed, NULL);
}

// Start threads until there are so many, or the system lets no more be started; how many there are.
static int have_threads(int wanted) {
    static _Atomic bool prepared;
    int there = atomic_load(&pool.threads);
    if (there >= wanted) return there;
    if (!atomic_exchange(&prepared, true)) pthread_atfork(NULL, NULL, forget_threads);
    sigset_t every, before;  // signals are for the threads of the program
    sigfillset(&every);
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

static void begin(Run* run, void* job, Meeting* meeting, int tasks, int next) {
    pool.run = run, pool.given = job, pool.meeting = meeting;
    atomic_store(&pool.done.value, 0);
    atomic_store(&pool.members.value, 0);
    atomic_store(&pool.work, word_of((Work){current_job() + 1, (uint16_t)tasks, (uint16_t)next}));
    wake_all();
}

static void end(int64_t begun, int threads) {
    int64_t loss = lost(begun, threads);
    if (loss > 0) atomic_store(&pool.alone_until, now() + MAKE_UP * loss);
    atomic_store(&pool.busy, 0);
}

void run_each(Run* run, void* job, int tasks, int threads, int64_t expected) {
    if (threads > tasks) threads = tasks;
    if (threads < 2 || !enter(expected)) {
        for (int task = 0; task < tasks; ++task) run(job, task, tasks, NULL);
        return;
    }
    have_threads(threads - 1);
    int64_t begun = now();
    waited = 0;
    begin(run, job, NULL, tasks, 0);
    for (int task; (task = take()) >= 0;) run_taken(task, tasks);
    wait_for(&pool.done, tasks);
    end(begun, threads);
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
    meeting.begun = now();
    waited = 0;
    begin(run, job, &meeting, tasks, 1);
    // a thread that sleeps takes a while to come: a short job does not wait for it, but the next one finds it awake
    int64_t patience = expected / 4 < JOIN_NS ? expected / 4 : JOIN_NS;
    LOOK_FOR(patience, work_of(atomic_load(&pool.work)).next >= tasks);
    waited = now() - meeting.begun;
    uint64_t word = atomic_load(&pool.work);
    while (!atomic_compare_exchange_weak(&pool.work, &word,
                                         word_of((Work){work_of(word).job, 0, work_of(word).next})));
    int members = work_of(word).next;
    meeting.members = members;
    count_to(&pool.members, members);
    run(job, 0, members, &meeting);
    wait_for(&pool.done, members - 1);
    end(meeting.begun, members);
}
