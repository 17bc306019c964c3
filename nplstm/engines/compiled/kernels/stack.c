// Forward and backward pass of a stack of layers. See stack.h.
#include "stack.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_ROWS = 1024,      // rows of gradients at a time: enough for efficient sums, and a bound on the memory;
    BLOCK_BYTES = 1 << 22,  // or what fills so many bytes
    LEVEL_ROWS = 1 << 15,   // rows that are summed in one level: sums over very many rows keep their digits
};

// ------------------------------------------------------------------------------------------- sizes and memory

// Sizes of a pass in numbers, but for `number`.
typedef struct {
    ptrdiff_t L, D, T, B, N, H, P, Hp, Pp;
    ptrdiff_t number;  // bytes
} Sizes;

static Sizes sizes_of(const Kernels* kernels, const Stack* stack, const Steps* steps) {
    return (Sizes){
        stack->layers,
        stack->directions,
        steps->count,
        steps->batch,
        steps->offsets[steps->count],
        stack->H,
        stack->P,
        padded_width(kernels, stack->H),
        padded_width(kernels, stack->P),
        kernels->bits / 8,
    };
}

static ptrdiff_t width_of_input(const Stack* stack, ptrdiff_t layer) {
    return layer ? stack->directions * stack->P : stack->I;
}

ptrdiff_t kept_size(const Kernels* kernels, const Stack* stack, ptrdiff_t rows) {
    return rows * stack->directions *
           (stack->layers * 5 * padded_width(kernels, stack->H) + (stack->layers - 1) * stack->P);
}

static bool goes_on(const Pass* pass) { return !pass->goes_on || pass->goes_on(pass->asked); }

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GAP = CACHE_LINE };  // between arrays, where nothing may be read or written
#else
enum { GAP = 0 };
#endif

// Place `count` arrays of so many bytes in one piece of memory, which starts with the first; false if there is none.
static bool allocate(const ptrdiff_t* bytes, int count, char** arrays) {
    size_t size = 0;
    for (int k = 0; k < count; ++k) size += (size_t)panels_of(bytes[k], CACHE_LINE) * CACHE_LINE + GAP;
    char* at = new_workspace(size);
    if (!at) return false;
    for (int k = 0; k < count; ++k) {
        const ptrdiff_t whole = panels_of(bytes[k], CACHE_LINE) * CACHE_LINE + GAP;
        arrays[k] = at;
#ifdef __SANITIZE_ADDRESS__
        __asan_poison_memory_region(at + bytes[k], (size_t)(whole - bytes[k]));
#endif
        at += whole;
    }
    return true;
}

static void copy_rows(char* to, ptrdiff_t to_row, const char* from, ptrdiff_t from_row, ptrdiff_t bytes,
                      ptrdiff_t rows) {
    for (ptrdiff_t r = 0; r < rows; ++r) memcpy(to + r * to_row, from + r * from_row, (size_t)bytes);
}

// Copy rows to where they have more columns, which become zero.
static void pad_rows(char* to, ptrdiff_t to_row, const char* from, ptrdiff_t row, ptrdiff_t rows) {
    memset(to, 0, (size_t)(rows * to_row));
    copy_rows(to, to_row, from, row, row, rows);
}

static Matrix from_row(Matrix matrix, ptrdiff_t row, ptrdiff_t number) {
    return (Matrix){(char*)matrix.at + row * matrix.row * number, matrix.row};
}

// What a recording keeps of a layer and direction.
typedef struct {
    char *gates, *cells;
} Kept;

static Kept kept_of(const Pass* pass, const Sizes* n, ptrdiff_t layer, ptrdiff_t d) {
    char* at = (char*)pass->kept + (layer * n->D + d) * n->N * 5 * n->Hp * n->number;
    return (Kept){at, at + n->N * 4 * n->Hp * n->number};
}

static char* kept_output(const Pass* pass, const Sizes* n, ptrdiff_t layer) {
    return (char*)pass->kept + n->N * n->D * (n->L * 5 * n->Hp + layer * n->P) * n->number;
}

// What a layer reads and writes in one direction; `joined` is the output (N, D * P) of the layer below, or of its own.
static Matrix input_of(const Pass* pass, const Sizes* n, ptrdiff_t layer, ptrdiff_t d, char* joined) {
    return layer ? (Matrix){joined, n->D * n->P} : pass->x[d];
}

static Matrix output_of(const Pass* pass, const Sizes* n, ptrdiff_t layer, ptrdiff_t d, char* joined) {
    if (layer + 1 == n->L) return pass->out[d];
    return (Matrix){joined + d * n->P * n->number, n->D * n->P};
}

// ------------------------------------------------------------------------------------------- forward

// Copy each sequence's h after its own last step; without any step, its initial one.
static void copy_last(char* h_n, Matrix out, const char* h_0, bool reverse, const Steps* steps, ptrdiff_t row,
                      ptrdiff_t number) {
    ptrdiff_t t = steps->count;
    for (ptrdiff_t j = 0; j < steps->batch; ++j) {
        while (t && steps->offsets[t] - steps->offsets[t - 1] <= j) --t;
        const char* last = h_0 + j * row;
        if (t) last = (const char*)out.at + (reverse ? j : steps->offsets[t - 1] + j) * out.row * number;
        memcpy(h_n + j * row, last, (size_t)row);
    }
}

bool stack_forward(const Kernels* kernels, const Stack* stack, const Pass* pass, void* h_n, void* c_n,
                   int threads) {
    const Sizes n = sizes_of(kernels, stack, &pass->steps);
    const ptrdiff_t row_c = n.H * n.number, row_cp = n.Hp * n.number, row_h = n.P * n.number;
    const ptrdiff_t between = pass->kept ? 0 : n.N * n.D * row_h;
    const ptrdiff_t projected = stack->parameters->weight_hr ? n.B * (n.Hp + n.Pp) * n.number : 0;
    const ptrdiff_t bytes[] = {n.D * n.B * row_cp, n.D * projected, n.L > 1 ? between : 0, n.L > 2 ? between : 0};
    char* at[4];
    if (!allocate(bytes, 4, at)) return false;
    bool done = true;
    char* below = NULL;
    for (ptrdiff_t layer = 0; layer < n.L && done; ++layer) {
        char* joined = pass->kept && layer + 1 < n.L ? kept_output(pass, &n, layer) : at[2 + layer % 2];
        Forward directions[2];
        for (ptrdiff_t d = 0; d < n.D; ++d) {
            const ptrdiff_t k = layer * n.D + d;
            const Parameters* parameters = stack->parameters + k;
            const Kept kept = pass->kept ? kept_of(pass, &n, layer, d) : (Kept){NULL, NULL};
            directions[d] = (Forward){
                .I = width_of_input(stack, layer),
                .H = n.H,
                .P = n.P,
                .reverse = pass->reverse[d],
                .variant = {parameters->peephole, stack->clip},
                .x = input_of(pass, &n, layer, d, below),
                .weight_ih = parameters->weight_ih,
                .weight_hh = parameters->weight_hh,
                .bias = parameters->bias,
                .h_0 = {(char*)pass->h_0 + k * n.B * row_h, n.P},
                .c = at[0] + d * n.B * row_cp,
                .out = output_of(pass, &n, layer, d, joined),
                .gates = kept.gates,
                .cells = kept.cells,
                .weight_hr = parameters->weight_hr,
                .projected = at[1] + d * projected,
            };
            pad_rows(directions[d].c, row_cp, (const char*)pass->c_0 + k * n.B * row_c, row_c, n.B);
        }
        done = (!layer || goes_on(pass)) && run_forward(kernels, directions, (int)n.D, &pass->steps, threads);
        for (ptrdiff_t d = 0; d < n.D && done; ++d) {
            const ptrdiff_t k = layer * n.D + d;
            copy_last((char*)h_n + k * n.B * row_h, directions[d].out, directions[d].h_0.at, pass->reverse[d],
                      &pass->steps, row_h, n.number);
            copy_rows((char*)c_n + k * n.B * row_c, row_c, directions[d].c, row_cp, row_c, n.B);
        }
        below = joined;
    }
    free(at[0]);
    return done;
}

// ------------------------------------------------------------------------------------------- backward

// Sums of the gradients of one direction's parameters, in one piece of memory.
typedef struct {
    char *weight_ih, *weight_hh, *bias, *peephole, *weight_hr;  // (4Hp, Ip), (4Hp, Pp), (4Hp,), (3, Hp), (Pp, Hp)
} SumsOfParameters;

static ptrdiff_t sums_size(const Sizes* n, const Stack* stack, ptrdiff_t Ip) {
    return 4 * n->Hp * (Ip + n->Pp + 1) + (stack->parameters->peephole ? 3 * n->Hp : 0) +
           (stack->parameters->weight_hr ? n->Pp * n->Hp : 0);
}

static SumsOfParameters sums_at(char* at, const Sizes* n, const Stack* stack, ptrdiff_t Ip) {
    SumsOfParameters sums = {.weight_ih = at};
    sums.weight_hh = sums.weight_ih + 4 * n->Hp * Ip * n->number;
    sums.bias = sums.weight_hh + 4 * n->Hp * n->Pp * n->number;
    char* end = sums.bias + 4 * n->Hp * n->number;
    if (stack->parameters->peephole) sums.peephole = end, end += 3 * n->Hp * n->number;
    if (stack->parameters->weight_hr) sums.weight_hr = end;
    return sums;
}

static void add(const Kernels* kernels, void* to, const void* from, ptrdiff_t count) {
    if (kernels->bits == 32)
        for (ptrdiff_t k = 0; k < count; ++k) ((float*)to)[k] += ((const float*)from)[k];
    else
        for (ptrdiff_t k = 0; k < count; ++k) ((double*)to)[k] += ((const double*)from)[k];
}

// Write gates' rows (4Hp, at least `width`), by panels of cells, in torch's order (4H, width).
static void unpack(const Kernels* kernels, const Sizes* n, const char* from, ptrdiff_t from_width, ptrdiff_t width,
                   char* to) {
    const ptrdiff_t panel = kernels->lanes, row = width * n->number;
    for (ptrdiff_t gate = 0; gate < 4; ++gate)
        for (ptrdiff_t cell = 0; cell < n->H; ++cell, to += row) {
            const ptrdiff_t r = (cell / panel * 4 + gate) * panel + cell % panel;
            memcpy(to, from + r * from_width * n->number, (size_t)row);
        }
}

static void write_gradients(const Kernels* kernels, const Sizes* n, const SumsOfParameters* sums, ptrdiff_t I,
                            ptrdiff_t Ip, void* const* to) {
    const ptrdiff_t row = n->H * n->number, padded_row = n->Hp * n->number;
    unpack(kernels, n, sums->weight_ih, Ip, I, to[0]);
    unpack(kernels, n, sums->weight_hh, n->Pp, n->P, to[1]);
    for (int bias = 2; bias < 4; ++bias)
        if (to[bias]) unpack(kernels, n, sums->bias, 1, 1, to[bias]);
    if (sums->peephole) copy_rows(to[4], row, sums->peephole, padded_row, row, 3);
    if (sums->weight_hr) copy_rows(to[5], row, sums->weight_hr, padded_row, row, n->P);
}

// Work space of one direction; arrays of rows are of one block of steps.
enum {
    GRAD_H,
    GRAD_C,
    C_0,
    GRAD_M,
    GRAD_A,
    BEFORE,
    CELLS_BEFORE,
    PROJECTED,
    M,
    SUMS,
    TOTAL,
    BELOW,
    OTHER_BELOW,
    ARRAYS
};

// The backward pass of one layer.
typedef struct {
    const Kernels* kernels;
    const Stack* stack;
    const Pass* pass;
    Sizes n;
    ptrdiff_t layer, I, Ip;
    ptrdiff_t block;  // steps
    Matrix x[2], out[2], grad_out[2];
    char* grad_x[2];  // (N, Ip)
    char** arrays[2];
    bool levels;  // whether TOTAL has sums
} LayerBack;

static void take_states(const LayerBack* of, const PassGradients* gradients, ptrdiff_t d) {
    const Sizes* n = &of->n;
    const ptrdiff_t k = (of->layer * n->D + d) * n->B, row_h = n->P * n->number, row_c = n->H * n->number;
    pad_rows(of->arrays[d][GRAD_H], n->Pp * n->number, (char*)gradients->grad_h + k * row_h, row_h, n->B);
    pad_rows(of->arrays[d][GRAD_C], n->Hp * n->number, (char*)gradients->grad_c + k * row_c, row_c, n->B);
    pad_rows(of->arrays[d][C_0], n->Hp * n->number, (const char*)of->pass->c_0 + k * row_c, row_c, n->B);
}

static void return_states(const LayerBack* of, const PassGradients* gradients, ptrdiff_t d) {
    const Sizes* n = &of->n;
    const ptrdiff_t k = (of->layer * n->D + d) * n->B, row_h = n->P * n->number, row_c = n->H * n->number;
    copy_rows((char*)gradients->grad_h + k * row_h, row_h, of->arrays[d][GRAD_H], n->Pp * n->number, row_h, n->B);
    copy_rows((char*)gradients->grad_c + k * row_c, row_c, of->arrays[d][GRAD_C], n->Hp * n->number, row_c, n->B);
}

static Backward backward_of(const LayerBack* of, ptrdiff_t d, ptrdiff_t first_row) {
    const Parameters* parameters = of->stack->parameters + of->layer * of->n.D + d;
    const Kept kept = kept_of(of->pass, &of->n, of->layer, d);
    char** at = of->arrays[d];
    return (Backward){
        .H = of->n.H,
        .P = of->n.P,
        .reverse = of->pass->reverse[d],
        .variant = {parameters->peephole, of->stack->clip},
        .grad_out = of->grad_out[d],
        .weight_hh = parameters->weight_hh,
        .grad_h = at[GRAD_H],
        .grad_c = at[GRAD_C],
        .c_0 = at[C_0],
        .gates = kept.gates,
        .cells = kept.cells,
        .grad_a = at[GRAD_A],
        .first_row = first_row,
        .weight_hr = parameters->weight_hr,
        .grad_projected = at[PROJECTED],
        .grad_m = at[GRAD_M],
    };
}

// What some steps' rows, from `first_row` on, add to the gradients of the parameters.
static Sums sums_of(const LayerBack* of, ptrdiff_t d, ptrdiff_t first, ptrdiff_t last, ptrdiff_t first_row,
                    ptrdiff_t rows) {
    const Sizes* n = &of->n;
    const Kernels* kernels = of->kernels;
    const Steps* steps = &of->pass->steps;
    const Kept kept = kept_of(of->pass, n, of->layer, d);
    const bool reverse = of->pass->reverse[d];
    const SumsOfParameters sums = sums_at(of->arrays[d][SUMS], n, of->stack, of->Ip);
    const Matrix cells = {kept.cells, n->Hp}, c_0 = {of->arrays[d][C_0], n->Hp};
    const Matrix h_0 = {(char*)of->pass->h_0 + (of->layer * n->D + d) * n->B * n->P * n->number, n->P};
    char** at = of->arrays[d];
    const char* cells_of_rows = kept.cells + first_row * n->Hp * n->number;
    kernels->previous(of->out[d], h_0, n->P, reverse, steps, first, last, at[BEFORE]);
    if (sums.peephole) kernels->previous(cells, c_0, n->Hp, reverse, steps, first, last, at[CELLS_BEFORE]);
    if (sums.weight_hr)
        kernels->outputs(kept.gates + first_row * 4 * n->Hp * n->number, cells_of_rows, rows, n->H, at[M]);
    return (Sums){
        .I = of->I,
        .H = n->H,
        .P = n->P,
        .count = rows,
        .grad_a = at[GRAD_A],
        .x = from_row(of->x[d], first_row, n->number),
        .before = at[BEFORE],
        .grad_weight_ih = sums.weight_ih,
        .grad_weight_hh = sums.weight_hh,
        .grad_bias = sums.bias,
        .weight_ih = of->stack->parameters[of->layer * n->D + d].weight_ih,
        .grad_x = of->grad_x[d] + first_row * of->Ip * n->number,
        .cells = cells_of_rows,
        .cells_before = at[CELLS_BEFORE],
        .grad_peephole = sums.peephole,
        .grad_projected = at[PROJECTED],
        .m = at[M],
        .grad_weight_hr = sums.weight_hr,
    };
}

// Run some steps of a layer back, counted in the order of processing.
static bool steps_back(const LayerBack* of, ptrdiff_t first, ptrdiff_t last, int threads) {
    const Steps* steps = &of->pass->steps;
    Backward directions[2];
    Sums sums[2];
    ptrdiff_t first_row[2], rows[2];
    for (ptrdiff_t d = 0; d < of->n.D; ++d) {
        const ptrdiff_t from = of->pass->reverse[d] ? of->n.T - last : first, to = from + last - first;
        first_row[d] = steps->offsets[from], rows[d] = steps->offsets[to] - first_row[d];
        directions[d] = backward_of(of, d, first_row[d]);
    }
    if (!run_backward(of->kernels, directions, (int)of->n.D, steps, first, last, threads)) return false;
    for (ptrdiff_t d = 0; d < of->n.D; ++d) sums[d] = sums_of(of, d, first, last, first_row[d], rows[d]);
    return run_sums(of->kernels, sums, (int)of->n.D, threads);
}

// Add the sums to those of the level above, and begin again from zero.
static void raise_sums(LayerBack* of) {
    const ptrdiff_t size = sums_size(&of->n, of->stack, of->Ip);
    for (ptrdiff_t d = 0; d < of->n.D; ++d) {
        char** at = of->arrays[d];
        if (!of->levels) memset(at[TOTAL], 0, (size_t)(size * of->n.number));
        add(of->kernels, at[TOTAL], at[SUMS], size);
        memset(at[SUMS], 0, (size_t)(size * of->n.number));
    }
    of->levels = true;
}

static bool layer_back(LayerBack* of, const PassGradients* gradients, int threads) {
    const Sizes* n = &of->n;
    for (ptrdiff_t d = 0; d < n->D; ++d) {
        take_states(of, gradients, d);
        memset(of->arrays[d][SUMS], 0, (size_t)(sums_size(n, of->stack, of->Ip) * n->number));
    }
    of->levels = false;
    ptrdiff_t summed = 0;
    for (ptrdiff_t last = n->T, first; last > 0; last = first) {
        first = most(0, last - of->block);
        if (last < n->T && !goes_on(of->pass)) return false;
        if (!steps_back(of, first, last, threads)) return false;
        summed += (last - first) * n->B;
        if (summed >= LEVEL_ROWS && first) raise_sums(of), summed = 0;
    }
    if (of->levels) raise_sums(of);
    for (ptrdiff_t d = 0; d < n->D; ++d) {
        const SumsOfParameters sums = sums_at(of->arrays[d][of->levels ? TOTAL : SUMS], n, of->stack, of->Ip);
        write_gradients(of->kernels, n, &sums, of->I, of->Ip,
                        gradients->grads + (of->layer * n->D + d) * GRADIENTS);
        return_states(of, gradients, d);
    }
    return true;
}

// Place the work space of all directions, of blocks of so many rows; what is not needed has no bytes.
static bool allocate_back(const Kernels* kernels, const Stack* stack, const Sizes* n, ptrdiff_t rows,
                          char** arrays) {
    const ptrdiff_t Ip = padded_width(kernels, stack->I), Wp = padded_width(kernels, n->D * n->P),
                    number = n->number;
    const ptrdiff_t sums = sums_size(n, stack, n->L > 1 ? most(Ip, Wp) : Ip);
    const bool peephole = stack->parameters->peephole, projected = stack->parameters->weight_hr;
    ptrdiff_t bytes[2 * ARRAYS] = {0};
    for (ptrdiff_t d = 0; d < n->D; ++d) {
        ptrdiff_t* of = bytes + d * ARRAYS;
        of[GRAD_H] = n->B * n->Pp * number;
        of[GRAD_C] = of[C_0] = n->B * n->Hp * number;
        of[GRAD_A] = rows * 4 * n->Hp * number;
        of[BEFORE] = rows * n->P * number;
        if (peephole) of[CELLS_BEFORE] = rows * n->Hp * number;
        if (projected) {
            of[GRAD_M] = n->B * n->Hp * number;
            of[PROJECTED] = rows * n->Pp * number;
            of[M] = rows * n->Hp * number;
        }
        of[SUMS] = sums * number;
        if (n->T * n->B > LEVEL_ROWS) of[TOTAL] = sums * number;
        if (n->L > 1) of[BELOW] = n->N * Wp * number;
        if (n->L > 2) of[OTHER_BELOW] = n->N * Wp * number;
    }
    return allocate(bytes, (int)n->D * ARRAYS, arrays);
}

bool stack_backward(const Kernels* kernels, const Stack* stack, const Pass* pass, const PassGradients* gradients,
                    int threads) {
    LayerBack of = {
        .kernels = kernels,
        .stack = stack,
        .pass = pass,
        .n = sizes_of(kernels, stack, &pass->steps),
    };
    const Sizes* n = &of.n;
    of.block = most(1, most(BLOCK_ROWS, BLOCK_BYTES / (4 * n->Hp * n->number)) / most(1, n->B));
    char* all[2 * ARRAYS];
    if (!allocate_back(kernels, stack, n, least(n->N, of.block * n->B), all)) return false;
    bool done = true;
    for (ptrdiff_t layer = n->L - 1; layer >= 0 && done; --layer) {
        of.layer = layer, of.I = width_of_input(stack, layer), of.Ip = padded_width(kernels, of.I);
        char* below = layer ? kept_output(pass, n, layer - 1) : NULL;
        char* joined = layer + 1 < n->L ? kept_output(pass, n, layer) : NULL;
        const int turn = layer % 2 ? BELOW : OTHER_BELOW, other = layer % 2 ? OTHER_BELOW : BELOW;
        for (ptrdiff_t d = 0; d < n->D; ++d) {
            of.arrays[d] = all + d * ARRAYS;
            of.x[d] = input_of(pass, n, layer, d, below), of.out[d] = output_of(pass, n, layer, d, joined);
            of.grad_x[d] = layer ? of.arrays[d][turn] : gradients->grad_x[d];
            of.grad_out[d] = gradients->grad_out[d];
            if (joined)  // both directions above have added up what they say of it
                of.grad_out[d] = (Matrix){all[other] + d * n->P * n->number, padded_width(kernels, n->D * n->P)};
        }
        done = (layer + 1 == n->L || goes_on(pass)) && layer_back(&of, gradients, threads);
        if (done && layer && n->D == 2) add(kernels, of.grad_x[0], of.grad_x[1], n->N * of.Ip);
    }
    free(all[0]);
    return done;
}
