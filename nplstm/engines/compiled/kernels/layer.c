// How threads share a layer: by lanes, by sequences, by cells. See layer.h.
#include "layer.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>

enum {
    WORTH_SHARING = 400 * 1000,       // multiplications of a call below which it takes one thread less than two
    WORTH_MEETING = 50 * 1000,        // multiplications of a step below which meeting takes longer than it saves
    STEP_WORTH_SHARING = 400 * 1000,  // the same for a step in real time
    STEP_THREADS = 8,                 // of a step in real time, at most
    MANY = 8,
    FEW = 4,                         // sequences of a share
    FAR = 4 * 1000 * 1000,           // numbers in a layer's weights: more than a core's own cache holds
    BLOCK_ROWS = 64,                 // rows of input transformed at once, at least
    ROOM_BYTES = 1 << 18,            // of gates, which a core's own cache holds beside weights
    MEETING_WORK = 4 * 1000 * 1000,  // multiplications after which threads that slept may join
    PIECES = 2,                      // of the sums, for each thread
};

void* new_room(size_t bytes) {
    size_t whole = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return aligned_alloc(CACHE_LINE, whole ? whole : CACHE_LINE);
}

// ------------------------------------------------------------------------------------------- how to cut a layer

typedef enum { ALONE, BY_LANES, BY_SEQUENCES, BY_CELLS } Way;

typedef struct {
    Way way;
    int shares;  // of each lane
} Cut;

// `work`: multiplications of one sequence in one step of one lane
static Cut cut_of(const Steps* steps, int lanes, ptrdiff_t panels, ptrdiff_t work, int threads, bool projected) {
    const ptrdiff_t rows = steps->offsets[steps->count], groups = panels_of(panels, GROUP);
    if (threads < 2 || work * rows * lanes < WORTH_SHARING) return (Cut){ALONE, 1};
    if (threads <= lanes) return (Cut){BY_LANES, 1};
    int many = (int)least(threads / lanes, steps->batch / MANY),
        few = (int)least(threads / lanes, steps->batch / FEW);
    int cells = !projected && work * steps->batch * lanes >= WORTH_MEETING ? (int)least(threads, groups) : 1;
    // threads that share sequences read all the weights each, which costs where they come from far
    if (work > FAR && cells > 1 && cells >= many * lanes) return (Cut){BY_CELLS, cells};
    if (many * lanes >= cells && many > 1) return (Cut){BY_SEQUENCES, many};
    if (cells > lanes && cells > few * lanes) return (Cut){BY_CELLS, cells};
    if (few > 1) return (Cut){BY_SEQUENCES, few};
    return lanes > 1 ? (Cut){BY_LANES, 1} : (Cut){ALONE, 1};
}

// Where the k-th of n runs of sequences with about as many rows begins; the longest sequences stand first.
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

static Share share_by_sequences(const Steps* steps, ptrdiff_t panels, int k, int n) {
    return (Share){sequence_of(steps, k, n), sequence_of(steps, k + 1, n), 0, panels, 0, 1};
}

static Share share_by_cells(const Steps* steps, ptrdiff_t panels, int k, int n) {
    const ptrdiff_t groups = panels_of(panels, GROUP);
    return (Share){
        0, steps->batch, least(panels, groups * k / n * GROUP), least(panels, groups * (k + 1) / n * GROUP), k, n,
    };
}

// What a task has of a layer: some of the sequences or of the cells of some lanes.
typedef struct {
    Share share;
    int first, count;  // lanes
    int room;          // the first lane's work space among all
} Part;

static Part part_of(Cut cut, const Steps* steps, int lanes, ptrdiff_t panels, int task, int tasks) {
    const Share whole = {0, steps->batch, 0, panels, 0, 1};
    if (cut.way == ALONE) return (Part){whole, 0, lanes, 0};
    if (cut.way == BY_CELLS) return (Part){share_by_cells(steps, panels, task, tasks), 0, lanes, 0};
    const int lane = task / cut.shares, k = task % cut.shares;
    return (Part){share_by_sequences(steps, panels, k, cut.shares), lane, 1, task};
}

// Nanoseconds that one thread takes for so many multiplications, at least.
static int64_t expected_ns(ptrdiff_t work) { return work / 64; }

// ------------------------------------------------------------------------------------------- forward

typedef struct {
    const Kernels* kernels;
    const Forward* lanes;
    int count;
    const Steps* steps;
    ptrdiff_t first, last, block, panels;
    Cut cut;
    void* const* rooms;
} ForwardJob;

static void forward_task(void* given, int task, int tasks, Meeting* meeting) {
    const ForwardJob* job = given;
    const Part part = part_of(job->cut, job->steps, job->count, job->panels, task, tasks);
    if (part.share.first < part.share.last)
        job->kernels->forward(job->lanes + part.first, part.count, job->steps, job->first, job->last, job->block,
                              &part.share, job->rooms + part.room, meeting);
}

static void run_forward_job(ForwardJob* job, int threads, ptrdiff_t work) {
    const ptrdiff_t T = job->steps->count;
    if (job->cut.way == ALONE) {
        job->last = T;
        forward_task(job, 0, 1, NULL);
    } else if (job->cut.way == BY_CELLS) {
        ptrdiff_t steps = MEETING_WORK / most(1, work * job->steps->batch * job->count);
        steps = most(1, steps / job->block) * job->block;
        for (; job->first < T; job->first = job->last) {
            job->last = least(T, job->first + steps);
            run_together(forward_task, job, job->cut.shares,
                         expected_ns(work * job->steps->batch * job->count * (job->last - job->first)));
        }
    } else {
        job->last = T;
        run_each(forward_task, job, job->count * job->cut.shares, threads,
                 expected_ns(work * job->count * job->steps->offsets[T]));
    }
}

bool run_forward(const Kernels* kernels, const Forward* lanes, int count, const Steps* steps, int threads) {
    if (!steps->count || !steps->offsets[steps->count]) return true;
    const ptrdiff_t panels = panels_of(lanes->H, kernels->lanes), Hp = panels * kernels->lanes;
    const ptrdiff_t work = 4 * Hp * (lanes->I + lanes->P), row = 4 * Hp * kernels->bits / 8;
    ForwardJob job = {kernels, lanes, count, steps, .panels = panels};
    job.cut = cut_of(steps, count, panels, work, threads, lanes->weight_hr);
    const bool whole = job.cut.way != BY_SEQUENCES;
    const int rooms = whole ? count : count * job.cut.shares;
    ptrdiff_t most_rows = whole ? steps->batch : 0;  // sequences of a share
    for (int k = 0; k < job.cut.shares && !whole; ++k) {
        Share share = share_by_sequences(steps, panels, k, job.cut.shares);
        most_rows = most(most_rows, share.last - share.first);
    }
    job.block = least(steps->count, most(1, most(BLOCK_ROWS, ROOM_BYTES / row) / most(1, most_rows)));
    void* at[MOST_THREADS + 2] = {0};
    char* room = NULL;
    if (!lanes->gates) {
        const ptrdiff_t bytes = job.block * most_rows * row;
        room = new_room((size_t)(bytes * rooms));
        if (!room) return false;
        for (int k = 0; k < rooms; ++k) at[k] = room + k * bytes;
    }
    job.rooms = at;
    run_forward_job(&job, threads, work);
    free(room);
    return true;
}

// ------------------------------------------------------------------------------------------- backward

typedef struct {
    const Kernels* kernels;
    const Backward* lanes;
    int count;
    const Steps* steps;
    ptrdiff_t first, last, panels;
    Cut cut;
} BackwardJob;

static void backward_task(void* given, int task, int tasks, Meeting* meeting) {
    const BackwardJob* job = given;
    const Part part = part_of(job->cut, job->steps, job->count, job->panels, task, tasks);
    if (part.share.first < part.share.last)
        job->kernels->backward(job->lanes + part.first, part.count, job->steps, job->first, job->last, &part.share,
                               meeting);
}

bool run_backward(const Kernels* kernels, const Backward* lanes, int count, const Steps* steps, ptrdiff_t first,
                  ptrdiff_t last, int threads) {
    if (first >= last) return true;
    const ptrdiff_t panels = panels_of(lanes->H, kernels->lanes), work = 4 * panels * kernels->lanes * lanes->P;
    const Cut cut = cut_of(steps, count, panels, work, threads, lanes->weight_hr);
    BackwardJob job = {kernels, lanes, count, steps, first, last, panels, cut};
    if (job.cut.way == ALONE) {
        backward_task(&job, 0, 1, NULL);
    } else if (job.cut.way == BY_CELLS) {
        const ptrdiff_t some = most(1, MEETING_WORK / most(1, work * steps->batch * count));
        for (; job.last > first; job.last = job.first) {
            job.first = most(first, job.last - some);
            run_together(backward_task, &job, job.cut.shares,
                         expected_ns(work * steps->batch * count * (job.last - job.first)));
        }
    } else
        run_each(backward_task, &job, count * job.cut.shares, threads,
                 expected_ns(work * count * steps->batch * (last - first)));
    return true;
}

// ------------------------------------------------------------------------------------------- sums over rows

typedef struct {
    const Kernels* kernels;
    const Sums* lanes;
    int pieces;      // of each lane, of the weights' rows and then of the input's
    ptrdiff_t room;  // bytes
    char* rooms;
} SumsJob;

// Where the k-th of n runs of whole units begins.
static ptrdiff_t run_of(ptrdiff_t count, ptrdiff_t unit, int k, int n) {
    return least(count, (count + unit - 1) / unit * k / n * unit);
}

static void sums_task(void* given, int task, int tasks, Meeting* meeting) {
    (void)tasks, (void)meeting;
    const SumsJob* job = given;
    const int n = job->pieces, lane = task / (2 * n), k = task % (2 * n);
    const Sums* sums = job->lanes + lane;
    if (k < n) {
        const ptrdiff_t lanes = job->kernels->lanes, G = 4 * panels_of(sums->H, lanes) * lanes;
        const ptrdiff_t first = run_of(G, lanes, k, n), last = run_of(G, lanes, k + 1, n);
        if (first < last) job->kernels->sum_weights(sums, first, last, job->rooms + task * job->room);
    } else {
        const ptrdiff_t first = run_of(sums->count, TILE_ROWS, k - n, n),
                        last = run_of(sums->count, TILE_ROWS, k - n + 1, n);
        if (first < last) job->kernels->sum_input(sums, first, last);
    }
}

bool run_sums(const Kernels* kernels, const Sums* lanes, int count, int threads) {
    const ptrdiff_t size = kernels->lanes,
                    wide = most(panels_of(lanes->I, size), panels_of(lanes->H, size)) * size;
    ptrdiff_t rows = 0;
    for (int k = 0; k < count; ++k) rows += lanes[k].count;
    const ptrdiff_t work = rows * 4 * lanes->H * (2 * lanes->I + lanes->P);
    if (work < WORTH_SHARING) threads = 1;
    SumsJob job = {kernels, lanes, threads > 1 ? PIECES * threads : 1, DEPTH * wide * kernels->bits / 8, NULL};
    const int tasks = 2 * job.pieces * count;
    job.rooms = new_room((size_t)(job.room * tasks));
    if (!job.rooms) return false;
    run_each(sums_task, &job, tasks, threads, expected_ns(work));
    free(job.rooms);
    return true;
}

// ------------------------------------------------------------------------------------------- real time

typedef struct {
    const Kernels* kernels;
    const Step* step;
} StepJob;

static void step_task(void* given, int task, int tasks, Meeting* meeting) {
    const StepJob* job = given;
    Share share = {0, 0, STEP_PARTS * task / tasks, STEP_PARTS * (task + 1) / tasks, task, tasks};
    job->kernels->step(job->step, &share, meeting);
}

void run_step(const Kernels* kernels, const Step* step, ptrdiff_t work, int threads) {
    StepJob job = {kernels, step};
    int tasks = work < STEP_WORTH_SHARING ? 1 : (int)least(threads, STEP_THREADS);
    if (tasks > 1)
        run_together(step_task, &job, tasks, expected_ns(work));
    else
        step_task(&job, 0, 1, NULL);
}

// ------------------------------------------------------------------------------------------- a whole stack

// Work space of a stack: offsets of the steps, c, an initial h of zeros, the output of two layers that take turns.
typedef struct {
    char* all;  // NULL: there is no memory
    int64_t* offsets;
    char *c, *h, *out[2];
} StackRoom;

static StackRoom stack_room(const Stack* stack, ptrdiff_t Hp, ptrdiff_t bytes) {
    const ptrdiff_t states = stack->directions * stack->B, between = stack->T * states * stack->H * bytes;
    const ptrdiff_t sizes[] = {
        (stack->T + 1) * (ptrdiff_t)sizeof(int64_t),
        states * Hp * bytes,
        stack->B * stack->H * bytes,
        stack->layers > 1 ? between : 0,
        stack->layers > 2 ? between : 0,
    };
    ptrdiff_t starts[6] = {0};
    for (int k = 0; k < 5; ++k) starts[k + 1] = starts[k] + panels_of(sizes[k], CACHE_LINE) * CACHE_LINE;
    char* all = new_room((size_t)starts[5]);
    if (!all) return (StackRoom){0};
    StackRoom room = {all, (int64_t*)all, all + starts[1], all + starts[2], {all + starts[3], all + starts[4]}};
    for (ptrdiff_t t = 0; t <= stack->T; ++t) room.offsets[t] = t * stack->B;
    memset(room.h, 0, (size_t)sizes[2]);
    return room;
}

static void copy_rows(char* to, ptrdiff_t to_row, const char* from, ptrdiff_t from_row, ptrdiff_t bytes,
                      ptrdiff_t rows) {
    for (ptrdiff_t r = 0; r < rows; ++r) memcpy(to + r * to_row, from + r * from_row, (size_t)bytes);
}

bool run_stack(const Kernels* kernels, const Stack* stack, int threads) {
    const ptrdiff_t D = stack->directions, T = stack->T, B = stack->B, H = stack->H, bytes = kernels->bits / 8;
    const ptrdiff_t Hp = panels_of(H, kernels->lanes) * kernels->lanes, row = H * bytes, state = B * row;
    const StackRoom room = stack_room(stack, Hp, bytes);
    const Steps steps = {room.offsets, T, B};
    bool done = room.all;
    const char* x = stack->x;
    ptrdiff_t width = stack->I;
    for (ptrdiff_t layer = 0; layer < stack->layers && done; ++layer) {
        Forward lanes[2];
        char* out = layer + 1 == stack->layers ? (char*)stack->out : room.out[layer % 2];
        memset(room.c, 0, (size_t)(D * B * Hp * bytes));
        for (ptrdiff_t d = 0; d < D; ++d) {
            const ptrdiff_t k = layer * D + d;
            char* c = room.c + d * B * Hp * bytes;
            if (stack->c_0) copy_rows(c, Hp * bytes, (const char*)stack->c_0 + k * state, row, row, B);
            lanes[d] = (Forward){
                .I = width,
                .H = H,
                .P = H,
                .reverse = stack->reverse[d],
                .x = {(void*)x, width},
                .weight_ih = stack->weights[3 * k],
                .weight_hh = stack->weights[3 * k + 1],
                .bias = stack->weights[3 * k + 2],
                .h_0 = {stack->h_0 ? (char*)stack->h_0 + k * state : room.h, H},
                .c = c,
                .out = {out + d * row, D * H},
            };
        }
        done = run_forward(kernels, lanes, (int)D, &steps, threads);
        for (ptrdiff_t d = 0; d < D && done; ++d) {
            const ptrdiff_t k = layer * D + d, last = stack->reverse[d] ? 0 : (T - 1) * B;
            copy_rows((char*)stack->h_n + k * state, row, out + (last * D + d) * row, D * row, row, B);
            copy_rows((char*)stack->c_n + k * state, row, lanes[d].c, Hp * bytes, row, B);
        }
        x = out, width = D * H;
    }
    free(room.all);
    return done;
}
