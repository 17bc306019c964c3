// Division of a layer among threads: by directions, by sequences or by cells. See layer.h.
#include "layer.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>

enum {
    PARALLEL_MIN_WORK = 400 * 1000,  // multiplications of a call, below which one thread is faster than two
    BARRIER_MIN_WORK = 50 * 1000,    // multiplications of a step, below which a barrier takes longer than it saves
    STEP_PARALLEL_MIN_WORK = 400 * 1000,  // the same for a step in real time
    STEP_THREADS = 8,                     // of a step in real time, at most
    MANY = 8,                             // sequences of a partition that are worth a thread
    FEW = 4,                              // the same where cells cannot be divided as well
    FAR = 4 * 1000 * 1000,                // numbers in a layer's weights: more than a core's own cache holds
    BLOCK_ROWS = 64,                      // rows of input transformed at once, at least
    WORKSPACE_BYTES = 1 << 18,            // of gates, which a core's own cache holds beside weights
    JOB_WORK = 4 * 1000 * 1000,  // multiplications of a job by cells; workers that slept may join the next one
    PIECES = 2,                  // of the sums, for each thread
};

void* new_workspace(size_t bytes) {
    size_t whole = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return aligned_alloc(CACHE_LINE, whole ? whole : CACHE_LINE);
}

// ------------------------------------------------------------------------------------------- division of a layer

typedef enum { SERIAL, BY_DIRECTIONS, BY_SEQUENCES, BY_CELLS } Scheme;

typedef struct {
    Scheme scheme;
    int parts;  // of each direction
} Division;

// `work`: multiplications of one sequence in one step of one direction
static Division choose_division(const Steps* steps, int directions, ptrdiff_t panels, ptrdiff_t work, int threads,
                                bool projected) {
    const ptrdiff_t rows = steps->offsets[steps->count], groups = panels_of(panels, GROUP);
    if (threads < 2 || work * rows * directions < PARALLEL_MIN_WORK) return (Division){SERIAL, 1};
    if (threads <= directions) return (Division){BY_DIRECTIONS, 1};
    int many = (int)least(threads / directions, steps->batch / MANY),
        few = (int)least(threads / directions, steps->batch / FEW);
    int cells = !projected && work * steps->batch * directions >= BARRIER_MIN_WORK ? (int)least(threads, groups)
                                                                                   : 1;
    // divided by sequences, each thread reads all weights, which is slow where they do not fit into its cache
    if (work > FAR && cells > 1 && cells >= many * directions) return (Division){BY_CELLS, cells};
    if (many * directions >= cells && many > 1) return (Division){BY_SEQUENCES, many};
    if (cells > directions && cells > few * directions) return (Division){BY_CELLS, cells};
    if (few > 1) return (Division){BY_SEQUENCES, few};
    return directions > 1 ? (Division){BY_DIRECTIONS, 1} : (Division){SERIAL, 1};
}

// Where the k-th of n ranges of sequences with about as many rows begins; the longest sequences stand first.
static ptrdiff_t sequence_of(const Steps* steps, int k, int n) {
    const ptrdiff_t rows = steps->offsets[steps->count];
    if (rows == steps->count * steps->batch || !k || k == n) return steps->batch * k / n;
    // sequence j is as long as there are steps with more than j sequences
    ptrdiff_t sequence = 0, sum = 0, wanted = rows * k / n, t = steps->count;
    for (; sequence < steps->batch && sum < wanted; ++sequence) {
        while (t && steps->offsets[t] - steps->offsets[t - 1] <= sequence) --t;
        sum += t;
    }
    return sequence;
}

static Partition partition_by_sequences(const Steps* steps, ptrdiff_t panels, int k, int n) {
    return (Partition){sequence_of(steps, k, n), sequence_of(steps, k + 1, n), 0, panels, 0, 1};
}

static Partition partition_by_cells(const Steps* steps, ptrdiff_t panels, int k, int n) {
    const ptrdiff_t groups = panels_of(panels, GROUP);
    return (Partition){
        0, steps->batch, least(panels, groups * k / n * GROUP), least(panels, groups * (k + 1) / n * GROUP), k, n,
    };
}

// What a task computes: a partition of some directions.
typedef struct {
    Partition partition;
    int first, count;  // directions
    int workspace;     // the index of the first direction's workspace
} Assignment;

static Assignment assignment_of(Division division, const Steps* steps, int directions, ptrdiff_t panels, int task,
                                int tasks) {
    const Partition whole = {0, steps->batch, 0, panels, 0, 1};
    if (division.scheme == SERIAL) return (Assignment){whole, 0, directions, 0};
    if (division.scheme == BY_CELLS)
        return (Assignment){partition_by_cells(steps, panels, task, tasks), 0, directions, 0};
    const int direction = task / division.parts, k = task % division.parts;
    return (Assignment){partition_by_sequences(steps, panels, k, division.parts), direction, 1, task};
}

// Nanoseconds that one thread takes for so many multiplications, at least.
static int64_t expected_ns(ptrdiff_t work) { return work / 64; }

// ------------------------------------------------------------------------------------------- forward

typedef struct {
    const Kernels* kernels;
    const Forward* directions;
    int count;
    const Steps* steps;
    ptrdiff_t first, last, block, panels;
    Division division;
    void* const* workspaces;
} ForwardJob;

static void forward_task(void* data, int task, int tasks, Barrier* barrier) {
    const ForwardJob* job = data;
    const Assignment assignment = assignment_of(job->division, job->steps, job->count, job->panels, task, tasks);
    if (assignment.partition.first < assignment.partition.last)
        job->kernels->forward(job->directions + assignment.first, assignment.count, job->steps, job->first,
                              job->last, job->block, &assignment.partition, job->workspaces + assignment.workspace,
                              barrier);
}

static void run_forward_job(ForwardJob* job, int threads, ptrdiff_t work) {
    const ptrdiff_t T = job->steps->count;
    if (job->division.scheme == SERIAL) {
        job->last = T;
        forward_task(job, 0, 1, NULL);
    } else if (job->division.scheme == BY_CELLS) {
        ptrdiff_t steps = JOB_WORK / most(1, work * job->steps->batch * job->count);
        steps = most(1, steps / job->block) * job->block;
        for (; job->first < T; job->first = job->last) {
            job->last = least(T, job->first + steps);
            run_together(forward_task, job, job->division.parts,
                         expected_ns(work * job->steps->batch * job->count * (job->last - job->first)));
        }
    } else {
        job->last = T;
        run_each(forward_task, job, job->count * job->division.parts, threads,
                 expected_ns(work * job->count * job->steps->offsets[T]));
    }
}

bool run_forward(const Kernels* kernels, const Forward* directions, int count, const Steps* steps, int threads) {
    if (!steps->count || !steps->offsets[steps->count]) return true;
    const ptrdiff_t panels = panels_of(directions->H, kernels->lanes), Hp = panels * kernels->lanes;
    const ptrdiff_t work = 4 * Hp * (directions->I + directions->P), row = 4 * Hp * kernels->bits / 8;
    ForwardJob job = {kernels, directions, count, steps, .panels = panels};
    job.division = choose_division(steps, count, panels, work, threads, directions->weight_hr);
    const bool whole = job.division.scheme != BY_SEQUENCES;
    const int workspaces = whole ? count : count * job.division.parts;
    ptrdiff_t most_rows = whole ? steps->batch : 0;  // sequences of a partition
    for (int k = 0; k < job.division.parts && !whole; ++k) {
        Partition partition = partition_by_sequences(steps, panels, k, job.division.parts);
        most_rows = most(most_rows, partition.last - partition.first);
    }
    job.block = least(steps->count, most(1, most(BLOCK_ROWS, WORKSPACE_BYTES / row) / most(1, most_rows)));
    void* at[MAX_THREADS + 2] = {0};
    char* workspace = NULL;
    if (!directions->gates) {
        const ptrdiff_t bytes = job.block * most_rows * row;
        workspace = new_workspace((size_t)(bytes * workspaces));
        if (!workspace) return false;
        for (int k = 0; k < workspaces; ++k) at[k] = workspace + k * bytes;
    }
    job.workspaces = at;
    run_forward_job(&job, threads, work);
    free(workspace);
    return true;
}

// ------------------------------------------------------------------------------------------- backward

typedef struct {
    const Kernels* kernels;
    const Backward* directions;
    int count;
    const Steps* steps;
    ptrdiff_t first, last, panels;
    Division division;
} BackwardJob;

static void backward_task(void* data, int task, int tasks, Barrier* barrier) {
    const BackwardJob* job = data;
    const Assignment assignment = assignment_of(job->division, job->steps, job->count, job->panels, task, tasks);
    if (assignment.partition.first < assignment.partition.last)
        job->kernels->backward(job->directions + assignment.first, assignment.count, job->steps, job->first,
                               job->last, &assignment.partition, barrier);
}

bool run_backward(const Kernels* kernels, const Backward* directions, int count, const Steps* steps,
                  ptrdiff_t first, ptrdiff_t last, int threads) {
    if (first >= last) return true;
    const ptrdiff_t panels = panels_of(directions->H, kernels->lanes),
                    work = 4 * panels * kernels->lanes * directions->P;
    const Division division = choose_division(steps, count, panels, work, threads, directions->weight_hr);
    BackwardJob job = {kernels, directions, count, steps, first, last, panels, division};
    if (job.division.scheme == SERIAL) {
        backward_task(&job, 0, 1, NULL);
    } else if (job.division.scheme == BY_CELLS) {
        const ptrdiff_t some = most(1, JOB_WORK / most(1, work * steps->batch * count));
        for (; job.last > first; job.last = job.first) {
            job.first = most(first, job.last - some);
            run_together(backward_task, &job, job.division.parts,
                         expected_ns(work * steps->batch * count * (job.last - job.first)));
        }
    } else
        run_each(backward_task, &job, count * job.division.parts, threads,
                 expected_ns(work * count * steps->batch * (last - first)));
    return true;
}

// ------------------------------------------------------------------------------------------- sums over rows

typedef struct {
    const Kernels* kernels;
    const Sums* directions;
    int pieces;           // of each direction: of the weights' rows, then of the input's
    ptrdiff_t workspace;  // bytes
    char* workspaces;
} SumsJob;

// Where the k-th of n pieces of whole units begins.
static ptrdiff_t start_of_piece(ptrdiff_t count, ptrdiff_t unit, int k, int n) {
    return least(count, (count + unit - 1) / unit * k / n * unit);
}

static void sums_task(void* data, int task, int tasks, Barrier* barrier) {
    (void)tasks, (void)barrier;
    const SumsJob* job = data;
    const int n = job->pieces, direction = task / (2 * n), k = task % (2 * n);
    const Sums* sums = job->directions + direction;
    if (k < n) {
        const ptrdiff_t unit = job->kernels->lanes, G = 4 * panels_of(sums->H, unit) * unit;
        const ptrdiff_t first = start_of_piece(G, unit, k, n), last = start_of_piece(G, unit, k + 1, n);
        if (first < last) job->kernels->sum_weights(sums, first, last, job->workspaces + task * job->workspace);
    } else {
        const ptrdiff_t first = start_of_piece(sums->count, TILE_ROWS, k - n, n),
                        last = start_of_piece(sums->count, TILE_ROWS, k - n + 1, n);
        if (first < last) job->kernels->sum_input(sums, first, last);
    }
}

bool run_sums(const Kernels* kernels, const Sums* directions, int count, int threads) {
    const ptrdiff_t size = kernels->lanes,
                    wide = most(panels_of(directions->I, size), panels_of(directions->H, size)) * size;
    ptrdiff_t rows = 0;
    for (int k = 0; k < count; ++k) rows += directions[k].count;
    const ptrdiff_t work = rows * 4 * directions->H * (2 * directions->I + directions->P);
    if (work < PARALLEL_MIN_WORK) threads = 1;
    SumsJob job = {kernels, directions, threads > 1 ? PIECES * threads : 1, DEPTH * wide * kernels->bits / 8,
                   NULL};
    const int tasks = 2 * job.pieces * count;
    job.workspaces = new_workspace((size_t)(job.workspace * tasks));
    if (!job.workspaces) return false;
    run_each(sums_task, &job, tasks, threads, expected_ns(work));
    free(job.workspaces);
    return true;
}

// ------------------------------------------------------------------------------------------- real time

typedef struct {
    const Kernels* kernels;
    const Step* step;
} StepJob;

static void step_task(void* data, int task, int tasks, Barrier* barrier) {
    const StepJob* job = data;
    Partition partition = {0, 0, STEP_PARTS * task / tasks, STEP_PARTS * (task + 1) / tasks, task, tasks};
    job->kernels->step(job->step, &partition, barrier);
}

void run_step(const Kernels* kernels, const Step* step, ptrdiff_t work, int threads) {
    StepJob job = {kernels, step};
    int tasks = work < STEP_PARALLEL_MIN_WORK ? 1 : (int)least(threads, STEP_THREADS);
    if (tasks > 1)
        run_together(step_task, &job, tasks, expected_ns(work));
    else
        step_task(&job, 0, 1, NULL);
}
