// One case through the kernels of one instruction set, without Python: forward, back, sums, a stream.
//
//     run_case CASE RESULTS
//
// A case is a file of numbers, see driver.py: sizes, offsets of the steps, and the arrays of each direction. Results
// have whole panels, as the kernels write them; the first number tells how many elements a vector has. Arrays are as
// long as they have to be and no longer, so that AddressSanitizer sees where a kernel goes too far.
#include "layer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOINED(a, b, c) a##_##b##_##c
#define TABLE(set, bits) JOINED(kernels, set, bits)
extern const Kernels TABLE(INSTRUCTION_SET, 32), TABLE(INSTRUCTION_SET, 64);

enum { MAX_DIRECTIONS = 2 };

// In the order of the file.
typedef struct {
    int64_t bits, directions, I, H, P, B, T, threads, peephole, stream;
    double clip;
} Sizes;

typedef struct {
    int64_t reverse;
    char *weight_ih, *weight_hh, *bias, *peephole, *weight_hr, *weight_hr_t, *h_0, *c_0, *grad_out, *grad_h,
        *grad_c;
} Input;

// Kernel arguments of one direction.
typedef struct {
    Forward forward;
    Backward backward;
    Sums sums;
    char *c_0, *c_n;
} Direction;

static Sizes n;
static const Kernels* kernels;
static Steps steps;
static ptrdiff_t N, bytes, Hp, Ip, Pp, G;
static bool projected;

static void fail(const char* what) {
    fprintf(stderr, "run_case: %s\n", what);
    exit(1);
}

static void* zeros(ptrdiff_t size) {
    void* at = calloc((size_t)(size ? size : 1), 1);
    if (!at) fail("no memory");
    return at;
}

static void read_into(FILE* file, void* at, ptrdiff_t size) {
    if (fread(at, 1, (size_t)size, file) != (size_t)size) fail("the case is too short");
}

static char* read_array(FILE* file, ptrdiff_t size) {
    char* at = zeros(size * bytes);
    read_into(file, at, size * bytes);
    return at;
}

static void write_array(FILE* file, const void* at, ptrdiff_t size) {
    if (fwrite(at, 1, (size_t)size, file) != (size_t)size) fail("cannot write");
}

// (rows, width) with whole panels.
static char* padded(const char* from, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t wide) {
    char* to = zeros(rows * wide * bytes);
    for (ptrdiff_t r = 0; r < rows; ++r)
        memcpy(to + r * wide * bytes, from + r * width * bytes, (size_t)(width * bytes));
    return to;
}

typedef void Pack(Matrix, ptrdiff_t, ptrdiff_t, void*);

static char* packed(Pack* pack, char* weight, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t size) {
    char* to = zeros(size * bytes);
    pack((Matrix){weight, columns}, rows, columns, to);
    return to;
}

static Input read_direction(FILE* file) {
    Input direction;
    read_into(file, &direction.reverse, sizeof direction.reverse);
    direction.weight_ih = read_array(file, 4 * n.H * n.I), direction.weight_hh = read_array(file, 4 * n.H * n.P);
    direction.bias = read_array(file, 4 * n.H);
    direction.peephole = n.peephole ? read_array(file, 3 * n.H) : NULL;
    direction.weight_hr = projected ? read_array(file, n.P * n.H) : NULL;
    direction.weight_hr_t = projected ? read_array(file, n.H * n.P) : NULL;
    direction.h_0 = read_array(file, n.B * n.P), direction.c_0 = read_array(file, n.B * n.H);
    direction.grad_out = read_array(file, N * n.P);
    direction.grad_h = read_array(file, n.B * n.P), direction.grad_c = read_array(file, n.B * n.H);
    return direction;
}

static Variant variant_of(const Input* input) {
    return (Variant){input->peephole ? padded(input->peephole, 3, n.H, Hp) : NULL, n.clip};
}

static Forward forward_of(const Input* input, char* x, bool record) {
    return (Forward){
        .I = n.I,
        .H = n.H,
        .P = n.P,
        .reverse = input->reverse,
        .variant = variant_of(input),
        .x = {x, n.I},
        .weight_ih = packed(kernels->pack_forward, input->weight_ih, n.H, n.I, G * n.I),
        .weight_hh = packed(kernels->pack_forward, input->weight_hh, n.H, n.P, G * n.P),
        .bias = packed(kernels->pack_forward, input->bias, n.H, 1, G),
        .h_0 = {input->h_0, n.P},
        .c = padded(input->c_0, n.B, n.H, Hp),
        .out = {zeros(N * n.P * bytes), n.P},
        .gates = record ? zeros(N * G * bytes) : NULL,
        .cells = record ? zeros(N * Hp * bytes) : NULL,
        .weight_hr = projected ? packed(kernels->pack_columns, input->weight_hr_t, n.H, n.P, n.H * Pp) : NULL,
        .projected = projected ? zeros(n.B * (Hp + Pp) * bytes) : NULL,
    };
}

static Backward backward_of(const Input* input, const Forward* forward, char* c_0) {
    return (Backward){
        .I = n.I,
        .H = n.H,
        .P = n.P,
        .reverse = input->reverse,
        .variant = forward->variant,
        .grad_out = {input->grad_out, n.P},
        .weight_hh = packed(kernels->pack_backward, input->weight_hh, n.H, n.P, G * Pp),
        .grad_h = padded(input->grad_h, n.B, n.P, Pp),
        .grad_c = padded(input->grad_c, n.B, n.H, Hp),
        .c_0 = c_0,
        .gates = forward->gates,
        .cells = forward->cells,
        .weight_hr = projected ? packed(kernels->pack_columns, input->weight_hr, n.P, n.H, n.P * Hp) : NULL,
        .grad_m = projected ? zeros(n.B * Hp * bytes) : NULL,
    };
}

static Sums sums_of(const Input* input) {
    return (Sums){
        .I = n.I,
        .H = n.H,
        .P = n.P,
        .grad_weight_ih = zeros(G * Ip * bytes),
        .grad_weight_hh = zeros(G * Pp * bytes),
        .grad_bias = zeros(G * bytes),
        .weight_ih = packed(kernels->pack_backward, input->weight_ih, n.H, n.I, G * Ip),
        .grad_x = zeros(N * Ip * bytes),
        .grad_peephole = n.peephole ? zeros(3 * Hp * bytes) : NULL,
        .grad_weight_hr = projected ? zeros(Pp * Hp * bytes) : NULL,
    };
}

// Both ways of running forward have to agree to the bit.
static void run_both_forwards(const Input* input, Direction* directions, char* x) {
    Forward recorded[MAX_DIRECTIONS], called[MAX_DIRECTIONS];
    for (int k = 0; k < n.directions; ++k)
        recorded[k] = forward_of(input + k, x, true), called[k] = forward_of(input + k, x, false);
    if (!run_forward(kernels, recorded, (int)n.directions, &steps, (int)n.threads)) fail("no memory");
    if (!run_forward(kernels, called, (int)n.directions, &steps, 1)) fail("no memory");
    for (int k = 0; k < n.directions; ++k) {
        if (memcmp(recorded[k].out.at, called[k].out.at, (size_t)(N * n.P * bytes)) ||
            memcmp(recorded[k].c, called[k].c, (size_t)(n.B * Hp * bytes)))
            fail("a call and a recording differ");
        directions[k].forward = recorded[k], directions[k].c_n = recorded[k].c;
    }
}

// What the sums read of a block of steps beside the gradients.
static void prepare_sums(Direction* direction, ptrdiff_t first, ptrdiff_t last, ptrdiff_t row, ptrdiff_t rows) {
    const Forward* f = &direction->forward;
    Sums* s = &direction->sums;
    char *before = zeros(rows * n.P * bytes), *cells_before = zeros(rows * Hp * bytes),
         *m = zeros(rows * Hp * bytes);
    kernels->previous(f->out, f->h_0, n.P, f->reverse, &steps, first, last, before);
    kernels->previous((Matrix){f->cells, Hp}, (Matrix){direction->c_0, Hp}, Hp, f->reverse, &steps, first, last,
                      cells_before);
    const char *gates = (char*)f->gates + row * G * bytes, *cells = (char*)f->cells + row * Hp * bytes;
    kernels->outputs(gates, cells, rows, n.H, m);
    s->count = rows, s->grad_a = direction->backward.grad_a, s->before = before;
    s->x = (Matrix){(char*)f->x.at + row * n.I * bytes, n.I};
    s->cells = cells, s->cells_before = cells_before;
    s->grad_projected = direction->backward.grad_projected, s->m = m;
}

// In two blocks of steps, the last one first.
static void run_back(Direction* directions) {
    const ptrdiff_t T = steps.count, block = (T + 1) / 2;
    for (ptrdiff_t last = T; last > 0; last -= block) {
        const ptrdiff_t first = most(0, last - block);
        Backward backward[MAX_DIRECTIONS];
        Sums sums[MAX_DIRECTIONS];
        ptrdiff_t row[MAX_DIRECTIONS], rows[MAX_DIRECTIONS];
        for (int k = 0; k < n.directions; ++k) {
            const bool reverse = directions[k].forward.reverse;
            row[k] = steps.offsets[reverse ? T - last : first];
            rows[k] = steps.offsets[reverse ? T - first : last] - row[k];
            directions[k].backward.first_row = row[k], directions[k].backward.grad_a = zeros(rows[k] * G * bytes);
            directions[k].backward.grad_projected = projected ? zeros(rows[k] * Pp * bytes) : NULL;
            backward[k] = directions[k].backward;
        }
        if (!run_backward(kernels, backward, (int)n.directions, &steps, first, last, (int)n.threads))
            fail("no memory");
        for (int k = 0; k < n.directions; ++k) {
            prepare_sums(directions + k, first, last, row[k], rows[k]);
            sums[k] = directions[k].sums;
            sums[k].grad_x = (char*)directions[k].sums.grad_x + row[k] * Ip * bytes;
        }
        if (!run_sums(kernels, sums, (int)n.directions, (int)n.threads)) fail("no memory");
    }
}

static char* joined(const void* a, ptrdiff_t a_size, const void* b, ptrdiff_t b_size, const void* c,
                    ptrdiff_t c_size) {
    char* to = zeros((a_size + b_size + c_size) * bytes);
    memcpy(to, a, (size_t)(a_size * bytes));
    if (b) memcpy(to + a_size * bytes, b, (size_t)(b_size * bytes));
    if (c) memcpy(to + (a_size + b_size) * bytes, c, (size_t)(c_size * bytes));
    return to;
}

static void run_stream(FILE* file, const Input* input, char* x) {
    const Forward of = forward_of(input, x, false);
    const int64_t sizes[] = {n.I, n.H, n.P};
    const ptrdiff_t weights = G * (n.I + n.P) + (projected ? n.H * Pp : 0);
    char* states[] = {padded(input->h_0, n.B, n.P, n.P), zeros(n.B * n.P * bytes)};
    Step step = {
        .layers = 1,
        .batch = n.B,
        .sizes = sizes,
        .peephole = n.peephole,
        .clip = n.clip,
        .weights = joined(of.weight_ih, G * n.I, of.weight_hh, G * n.P, of.weight_hr, projected ? n.H * Pp : 0),
        .biases = joined(of.bias, G, of.variant.peephole, n.peephole ? 3 * Hp : 0, NULL, 0),
        .c = of.c,
        .gates = zeros(n.B * 6 * Hp * bytes),
    };
    for (ptrdiff_t t = 0; t < n.T; ++t) {
        step.x = x + t * n.B * n.I * bytes, step.h_before = states[t % 2], step.h = states[1 - t % 2];
        run_step(kernels, &step, weights * n.B, (int)n.threads);
        write_array(file, step.h, n.B * n.P * bytes);
    }
}

static void write_direction(FILE* file, const Direction* direction) {
    write_array(file, direction->forward.out.at, N * n.P * bytes);
    write_array(file, direction->c_n, n.B * Hp * bytes);
    write_array(file, direction->sums.grad_x, N * Ip * bytes);
    write_array(file, direction->backward.grad_h, n.B * Pp * bytes);
    write_array(file, direction->backward.grad_c, n.B * Hp * bytes);
    write_array(file, direction->sums.grad_weight_ih, G * Ip * bytes);
    write_array(file, direction->sums.grad_weight_hh, G * Pp * bytes);
    write_array(file, direction->sums.grad_bias, G * bytes);
    if (n.peephole) write_array(file, direction->sums.grad_peephole, 3 * Hp * bytes);
    if (projected) write_array(file, direction->sums.grad_weight_hr, Pp * Hp * bytes);
}

static void read_sizes(FILE* file) {
    read_into(file, &n, sizeof n);
    kernels = n.bits == 32 ? &TABLE(INSTRUCTION_SET, 32) : &TABLE(INSTRUCTION_SET, 64);
    bytes = n.bits / 8, projected = n.P < n.H;
    Hp = panels_of(n.H, kernels->lanes) * kernels->lanes, Ip = panels_of(n.I, kernels->lanes) * kernels->lanes;
    Pp = panels_of(n.P, kernels->lanes) * kernels->lanes, G = 4 * Hp;
    int64_t* offsets = zeros((n.T + 1) * (ptrdiff_t)sizeof(int64_t));
    read_into(file, offsets, (n.T + 1) * (ptrdiff_t)sizeof(int64_t));
    steps = (Steps){offsets, n.T, n.B}, N = offsets[n.T];
}

int main(int count, char** names) {
    if (count != 3) fail("expected a case and where results go");
    FILE *file = fopen(names[1], "rb"), *results = fopen(names[2], "wb");
    if (!file || !results) fail("cannot open a file");
    read_sizes(file);
    char* x = read_array(file, N * n.I);
    Input input[MAX_DIRECTIONS];
    Direction directions[MAX_DIRECTIONS] = {0};
    for (int k = 0; k < n.directions; ++k) input[k] = read_direction(file);
    run_both_forwards(input, directions, x);
    for (int k = 0; k < n.directions; ++k) {
        directions[k].c_0 = padded(input[k].c_0, n.B, n.H, Hp);
        directions[k].backward = backward_of(input + k, &directions[k].forward, directions[k].c_0);
        directions[k].sums = sums_of(input + k);
    }
    run_back(directions);
    const int64_t vector = kernels->lanes;
    write_array(results, &vector, sizeof vector);
    for (int k = 0; k < n.directions; ++k) write_direction(results, directions + k);
    if (n.stream) run_stream(results, input, x);
    return fclose(results) ? 1 : 0;
}
