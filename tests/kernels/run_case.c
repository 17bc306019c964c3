// One case through the kernels of one instruction set, without Python: forward, back, sums, a stream.
//
//     run_case CASE RESULTS
//
// A case is a file of numbers, see driver.py: sizes, offsets of the steps, and the arrays of each lane. Results have
// whole panels, as the kernels write them; the first number tells how many elements a vector has. Arrays are as long
// as they have to be and no longer, so that AddressSanitizer sees where a kernel goes too far.
#include "layer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOINED(a, b, c) a##_##b##_##c
#define TABLE(set, bits) JOINED(kernels, set, bits)
extern const Kernels TABLE(INSTRUCTION_SET, 32), TABLE(INSTRUCTION_SET, 64);

enum { MOST_LANES = 2 };

// In the order of the file.
typedef struct {
    int64_t bits, lanes, I, H, P, B, T, threads, peephole, stream;
    double clip;
} Sizes;

typedef struct {
    int64_t reverse;
    char *weight_ih, *weight_hh, *bias, *peephole, *weight_hr, *weight_hr_t, *h_0, *c_0, *grad_out, *grad_h,
        *grad_c;
} Given;

// One lane's arrays on the way.
typedef struct {
    Forward forward;
    Backward backward;
    Sums sums;
    char *c_0, *c_n;
} Lane;

static Sizes n;
static const Kernels* kernels;
static Steps steps;
static ptrdiff_t N, bytes, Hp, Ip, Pp, G;
static bool projected;

static void fail(const char* what) {
    fprintf(stderr, "run_case: %s\n", what);
    exit(1);
}

static void* room(ptrdiff_t size) {
    void* at = calloc((size_t)(size ? size : 1), 1);
    if (!at) fail("no memory");
    return at;
}

static void read_into(FILE* file, void* at, ptrdiff_t size) {
    if (fread(at, 1, (size_t)size, file) != (size_t)size) fail("the case is too short");
}

static char* read_array(FILE* file, ptrdiff_t size) {
    char* at = room(size * bytes);
    read_into(file, at, size * bytes);
    return at;
}

static void write_array(FILE* file, const void* at, ptrdiff_t size) {
    if (fwrite(at, 1, (size_t)size, file) != (size_t)size) fail("cannot write");
}

// (rows, width) with whole panels.
static char* padded(const char* from, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t wide) {
    char* to = room(rows * wide * bytes);
    for (ptrdiff_t r = 0; r < rows; ++r)
        memcpy(to + r * wide * bytes, from + r * width * bytes, (size_t)(width * bytes));
    return to;
}

typedef void Pack(Matrix, ptrdiff_t, ptrdiff_t, void*);

static char* packed(Pack* pack, char* weight, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t size) {
    char* to = room(size * bytes);
    pack((Matrix){weight, columns}, rows, columns, to);
    return to;
}

static Given read_lane(FILE* file) {
    Given lane;
    read_into(file, &lane.reverse, sizeof lane.reverse);
    lane.weight_ih = read_array(file, 4 * n.H * n.I), lane.weight_hh = read_array(file, 4 * n.H * n.P);
    lane.bias = read_array(file, 4 * n.H);
    lane.peephole = n.peephole ? read_array(file, 3 * n.H) : NULL;
    lane.weight_hr = projected ? read_array(file, n.P * n.H) : NULL;
    lane.weight_hr_t = projected ? read_array(file, n.H * n.P) : NULL;
    lane.h_0 = read_array(file, n.B * n.P), lane.c_0 = read_array(file, n.B * n.H);
    lane.grad_out = read_array(file, N * n.P);
    lane.grad_h = read_array(file, n.B * n.P), lane.grad_c = read_array(file, n.B * n.H);
    return lane;
}

static Variant variant_of(const Given* given) {
    return (Variant){given->peephole ? padded(given->peephole, 3, n.H, Hp) : NULL, n.clip};
}

static Forward forward_of(const Given* given, char* x, bool record) {
    return (Forward){
        .I = n.I,
        .H = n.H,
        .P = n.P,
        .reverse = given->reverse,
        .variant = variant_of(given),
        .x = {x, n.I},
        .weight_ih = packed(kernels->pack_forward, given->weight_ih, n.H, n.I, G * n.I),
        .weight_hh = packed(kernels->pack_forward, given->weight_hh, n.H, n.P, G * n.P),
        .bias = packed(kernels->pack_forward, given->bias, n.H, 1, G),
        .h_0 = {given->h_0, n.P},
        .c = padded(given->c_0, n.B, n.H, Hp),
        .out = {room(N * n.P * bytes), n.P},
        .gates = record ? room(N * G * bytes) : NULL,
        .cells = record ? room(N * Hp * bytes) : NULL,
        .weight_hr = projected ? packed(kernels->pack_columns, given->weight_hr_t, n.H, n.P, n.H * Pp) : NULL,
        .projected = projected ? room(n.B * (Hp + Pp) * bytes) : NULL,
    };
}

static Backward backward_of(const Given* given, const Forward* forward, char* c_0) {
    return (Backward){
        .I = n.I,
        .H = n.H,
        .P = n.P,
        .reverse = given->reverse,
        .variant = forward->variant,
        .grad_out = {given->grad_out, n.P},
        .weight_hh = packed(kernels->pack_backward, given->weight_hh, n.H, n.P, G * Pp),
        .grad_h = padded(given->grad_h, n.B, n.P, Pp),
        .grad_c = padded(given->grad_c, n.B, n.H, Hp),
        .c_0 = c_0,
        .gates = forward->gates,
        .cells = forward->cells,
        .weight_hr = projected ? packed(kernels->pack_columns, given->weight_hr, n.P, n.H, n.P * Hp) : NULL,
        .grad_m = projected ? room(n.B * Hp * bytes) : NULL,
    };
}

static Sums sums_of(const Given* given) {
    return (Sums){
        .I = n.I,
        .H = n.H,
        .P = n.P,
        .grad_weight_ih = room(G * Ip * bytes),
        .grad_weight_hh = room(G * Pp * bytes),
        .grad_bias = room(G * bytes),
        .weight_ih = packed(kernels->pack_backward, given->weight_ih, n.H, n.I, G * Ip),
        .grad_x = room(N * Ip * bytes),
        .grad_peephole = n.peephole ? room(3 * Hp * bytes) : NULL,
        .grad_weight_hr = projected ? room(Pp * Hp * bytes) : NULL,
    };
}

// Both ways of running forward have to agree to the bit.
static void run_both_forwards(const Given* given, Lane* lanes, char* x) {
    Forward recorded[MOST_LANES], called[MOST_LANES];
    for (int k = 0; k < n.lanes; ++k)
        recorded[k] = forward_of(given + k, x, true), called[k] = forward_of(given + k, x, false);
    if (!run_forward(kernels, recorded, (int)n.lanes, &steps, (int)n.threads)) fail("no memory");
    if (!run_forward(kernels, called, (int)n.lanes, &steps, 1)) fail("no memory");
    for (int k = 0; k < n.lanes; ++k) {
        if (memcmp(recorded[k].out.at, called[k].out.at, (size_t)(N * n.P * bytes)) ||
            memcmp(recorded[k].c, called[k].c, (size_t)(n.B * Hp * bytes)))
            fail("a call and a recording differ");
        lanes[k].forward = recorded[k], lanes[k].c_n = recorded[k].c;
    }
}

// What the sums read of a block of steps beside the gradients.
static void prepare_sums(Lane* lane, ptrdiff_t first, ptrdiff_t last, ptrdiff_t row, ptrdiff_t rows) {
    const Forward* f = &lane->forward;
    Sums* s = &lane->sums;
    char *before = room(rows * n.P * bytes), *cells_before = room(rows * Hp * bytes), *m = room(rows * Hp * bytes);
    kernels->previous(f->out, f->h_0, n.P, f->reverse, &steps, first, last, before);
    kernels->previous((Matrix){f->cells, Hp}, (Matrix){lane->c_0, Hp}, Hp, f->reverse, &steps, first, last,
                      cells_before);
    const char *gates = (char*)f->gates + row * G * bytes, *cells = (char*)f->cells + row * Hp * bytes;
    kernels->outputs(gates, cells, rows, n.H, m);
    s->count = rows, s->grad_a = lane->backward.grad_a, s->before = before;
    s->x = (Matrix){(char*)f->x.at + row * n.I * bytes, n.I};
    s->cells = cells, s->cells_before = cells_before;
    s->grad_projected = lane->backward.grad_projected, s->m = m;
}

// In two blocks of steps, the last one first.
static void run_back(Lane* lanes) {
    const ptrdiff_t T = steps.count, block = (T + 1) / 2;
    for (ptrdiff_t last = T; last > 0; last -= block) {
        const ptrdiff_t first = most(0, last - block);
        Backward backward[MOST_LANES];
        Sums sums[MOST_LANES];
        ptrdiff_t row[MOST_LANES], rows[MOST_LANES];
        for (int k = 0; k < n.lanes; ++k) {
            const bool reverse = lanes[k].forward.reverse;
            row[k] = steps.offsets[reverse ? T - last : first];
            rows[k] = steps.offsets[reverse ? T - first : last] - row[k];
            lanes[k].backward.first_row = row[k], lanes[k].backward.grad_a = room(rows[k] * G * bytes);
            lanes[k].backward.grad_projected = projected ? room(rows[k] * Pp * bytes) : NULL;
            backward[k] = lanes[k].backward;
        }
        if (!run_backward(kernels, backward, (int)n.lanes, &steps, first, last, (int)n.threads)) fail("no memory");
        for (int k = 0; k < n.lanes; ++k) {
            prepare_sums(lanes + k, first, last, row[k], rows[k]);
            sums[k] = lanes[k].sums;
            sums[k].grad_x = (char*)lanes[k].sums.grad_x + row[k] * Ip * bytes;
        }
        if (!run_sums(kernels, sums, (int)n.lanes, (int)n.threads)) fail("no memory");
    }
}

static char* joined(const void* a, ptrdiff_t a_size, const void* b, ptrdiff_t b_size, const void* c,
                    ptrdiff_t c_size) {
    char* to = room((a_size + b_size + c_size) * bytes);
    memcpy(to, a, (size_t)(a_size * bytes));
    if (b) memcpy(to + a_size * bytes, b, (size_t)(b_size * bytes));
    if (c) memcpy(to + (a_size + b_size) * bytes, c, (size_t)(c_size * bytes));
    return to;
}

static void run_stream(FILE* file, const Given* given, char* x) {
    const Forward of = forward_of(given, x, false);
    const int64_t sizes[] = {n.I, n.H, n.P};
    const ptrdiff_t weights = G * (n.I + n.P) + (projected ? n.H * Pp : 0);
    char* states[] = {padded(given->h_0, n.B, n.P, n.P), room(n.B * n.P * bytes)};
    Step step = {
        .layers = 1,
        .batch = n.B,
        .sizes = sizes,
        .peephole = n.peephole,
        .clip = n.clip,
        .weights = joined(of.weight_ih, G * n.I, of.weight_hh, G * n.P, of.weight_hr, projected ? n.H * Pp : 0),
        .biases = joined(of.bias, G, of.variant.peephole, n.peephole ? 3 * Hp : 0, NULL, 0),
        .c = of.c,
        .gates = room(n.B * 6 * Hp * bytes),
    };
    for (ptrdiff_t t = 0; t < n.T; ++t) {
        step.x = x + t * n.B * n.I * bytes, step.h_before = states[t % 2], step.h = states[1 - t % 2];
        run_step(kernels, &step, weights * n.B, (int)n.threads);
        write_array(file, step.h, n.B * n.P * bytes);
    }
}

static void write_lane(FILE* file, const Lane* lane) {
    write_array(file, lane->forward.out.at, N * n.P * bytes);
    write_array(file, lane->c_n, n.B * Hp * bytes);
    write_array(file, lane->sums.grad_x, N * Ip * bytes);
    write_array(file, lane->backward.grad_h, n.B * Pp * bytes);
    write_array(file, lane->backward.grad_c, n.B * Hp * bytes);
    write_array(file, lane->sums.grad_weight_ih, G * Ip * bytes);
    write_array(file, lane->sums.grad_weight_hh, G * Pp * bytes);
    write_array(file, lane->sums.grad_bias, G * bytes);
    if (n.peephole) write_array(file, lane->sums.grad_peephole, 3 * Hp * bytes);
    if (projected) write_array(file, lane->sums.grad_weight_hr, Pp * Hp * bytes);
}

static void read_sizes(FILE* file) {
    read_into(file, &n, sizeof n);
    kernels = n.bits == 32 ? &TABLE(INSTRUCTION_SET, 32) : &TABLE(INSTRUCTION_SET, 64);
    bytes = n.bits / 8, projected = n.P < n.H;
    Hp = panels_of(n.H, kernels->lanes) * kernels->lanes, Ip = panels_of(n.I, kernels->lanes) * kernels->lanes;
    Pp = panels_of(n.P, kernels->lanes) * kernels->lanes, G = 4 * Hp;
    int64_t* offsets = room((n.T + 1) * (ptrdiff_t)sizeof(int64_t));
    read_into(file, offsets, (n.T + 1) * (ptrdiff_t)sizeof(int64_t));
    steps = (Steps){offsets, n.T, n.B}, N = offsets[n.T];
}

int main(int count, char** names) {
    if (count != 3) fail("expected a case and where results go");
    FILE *file = fopen(names[1], "rb"), *results = fopen(names[2], "wb");
    if (!file || !results) fail("cannot open a file");
    read_sizes(file);
    char* x = read_array(file, N * n.I);
    Given given[MOST_LANES];
    Lane lanes[MOST_LANES] = {0};
    for (int k = 0; k < n.lanes; ++k) given[k] = read_lane(file);
    run_both_forwards(given, lanes, x);
    for (int k = 0; k < n.lanes; ++k) {
        lanes[k].c_0 = padded(given[k].c_0, n.B, n.H, Hp);
        lanes[k].backward = backward_of(given + k, &lanes[k].forward, lanes[k].c_0);
        lanes[k].sums = sums_of(given + k);
    }
    run_back(lanes);
    const int64_t vector = kernels->lanes;
    write_array(results, &vector, sizeof vector);
    for (int k = 0; k < n.lanes; ++k) write_lane(results, lanes + k);
    if (n.stream) run_stream(results, given, x);
    return fclose(results) ? 1 : 0;
}
