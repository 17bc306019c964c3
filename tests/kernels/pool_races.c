// The thread pool under ThreadSanitizer: several threads that submit jobs at the same time, and children of fork.
//
// What tasks write is plain memory: an order that the pool does not make is a race that the sanitizer reports. Whoever
// finds the pool busy works alone, so each thread also checks that its results are those of one thread.
#include "layer.h"
#include "pool.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOINED(a, b, c) a##_##b##_##c
#define TABLE(set, bits) JOINED(kernels, set, bits)
extern const Kernels TABLE(INSTRUCTION_SET, 32);
#define KERNELS (&TABLE(INSTRUCTION_SET, 32))

enum { TASKS = 9, MEMBERS = 3, ROUNDS_OF_BARRIER = 20, ROUNDS = 40, CALLERS = 3, LONG_NS = 20 * 1000 * 1000 };

static void check(bool holds, const char* what) {
    if (holds) return;
    fprintf(stderr, "pool_races: %s\n", what);
    _exit(1);
}

// ------------------------------------------------------------------------------------------- tasks

static void add_one(void* data, int task, int tasks, Barrier* barrier) {
    (void)barrier;
    check(tasks == TASKS, "another number of tasks");
    ++((int*)data)[task];
}

static void each_task_runs_once(void) {
    int counts[TASKS] = {0};
    for (int round = 1; round <= ROUNDS; ++round) {
        run_each(add_one, counts, TASKS, MEMBERS, LONG_NS);
        for (int k = 0; k < TASKS; ++k) check(counts[k] == round, "a task did not run once");
    }
}

typedef struct {
    int written[MEMBERS], members;
} Together;

// Each writes its own number and reads those of the others after the barrier.
static void wait_often(void* data, int member, int members, Barrier* barrier) {
    Together* together = data;
    if (member == 0) together->members = members;
    for (int k = 1; k <= ROUNDS_OF_BARRIER; ++k) {
        together->written[member] = k;
        if (members > 1) barrier_wait(barrier, member);
        for (int other = 0; other < members; ++other)
            check(together->written[other] == k, "a member was not waited for");
        if (members > 1 && !barrier_wait_or_dissolve(barrier, member)) {
            if (member) return;
            members = 1;
        }
    }
}

static int shared_jobs;  // of the first caller alone

static void members_wait_for_each_other(bool count) {
    for (int round = 0; round < ROUNDS; ++round) {
        Together together = {{0}, 0};
        run_together(wait_often, &together, MEMBERS, LONG_NS);
        check(together.written[0] == ROUNDS_OF_BARRIER, "the first member did not finish");
        if (count) shared_jobs += together.members > 1;
    }
}

// ------------------------------------------------------------------------------------------- layers

enum { I = 5, H = 130, MOST_ROWS = 160 };

typedef struct {
    int64_t offsets[MOST_ROWS + 1];
    Steps steps;
    float *x, *weights, *state, *c, *out;
} Layer;

static float* numbers(ptrdiff_t count) {
    float* at = new_workspace((size_t)count * sizeof(float));
    check(at, "no memory");
    for (ptrdiff_t k = 0; k < count; ++k) at[k] = (float)((k * 7919 % 1000) - 500) / 4000;
    return at;
}

static void make(Layer* layer, int T, int B) {
    const ptrdiff_t Hp = panels_of(H, KERNELS->lanes) * KERNELS->lanes;
    for (int t = 0; t <= T; ++t) layer->offsets[t] = (int64_t)t * B;
    layer->steps = (Steps){layer->offsets, T, B};
    layer->x = numbers(T * B * I), layer->weights = numbers(4 * Hp * (I + H + 1));
    layer->state = numbers(B * H), layer->c = numbers(B * Hp), layer->out = numbers(T * B * H);
}

static void run(Layer* layer, int threads) {
    const ptrdiff_t Hp = panels_of(H, KERNELS->lanes) * KERNELS->lanes;
    float* weights = layer->weights;
    memset(layer->c, 0, (size_t)(layer->steps.batch * Hp) * sizeof(float));
    Forward direction = {
        .I = I,
        .H = H,
        .P = H,
        .x = {layer->x, I},
        .weight_ih = weights,
        .weight_hh = weights + 4 * Hp * I,
        .bias = weights + 4 * Hp * (I + H),
        .h_0 = {layer->state, H},
        .c = layer->c,
        .out = {layer->out, H},
    };
    check(run_forward(KERNELS, &direction, 1, &layer->steps, threads), "no memory");
}

static void layers_are_those_of_one_thread(int T, int B) {
    Layer alone, shared;
    make(&alone, T, B), make(&shared, T, B);
    run(&alone, 1);
    const size_t size = (size_t)(T * B * H) * sizeof(float);
    for (int round = 0; round < 4; ++round) {
        memset(shared.out, 0, size);
        run(&shared, MEMBERS);
        check(!memcmp(alone.out, shared.out, size), "a layer depends on the threads");
    }
}

// ------------------------------------------------------------------------------------------- callers

static void* everything(void* first) {
    each_task_runs_once();
    members_wait_for_each_other(first != NULL);
    layers_are_those_of_one_thread(40, 1);
    layers_are_those_of_one_thread(9, 16);
    return NULL;
}

static void fork_and_run(void) {
    pid_t child = fork();
    check(child >= 0, "no fork");
    if (!child) {
        everything(NULL);
        _exit(0);
    }
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, "a child of fork failed");
}

int main(void) {
    everything(&shared_jobs);
    check(pool_size() > 0 && shared_jobs > 0, "nothing was shared");
    pthread_t callers[CALLERS];
    for (int k = 0; k < CALLERS; ++k) check(!pthread_create(callers + k, NULL, everything, NULL), "no thread");
    for (int k = 0; k < 3; ++k) fork_and_run();
    for (int k = 0; k < CALLERS; ++k) pthread_join(callers[k], NULL);
    printf("%d of %d jobs ran in several threads with a barrier\n", shared_jobs, ROUNDS);
    return 0;
}
