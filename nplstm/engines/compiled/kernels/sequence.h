// The time loop of the directions of one layer, forward and backward.
//
// Several threads may share a layer (see Partition). Those that share its cells wait for each other after each step,
// since the next one reads all of h; those that share its sequences are independent. No sum depends on how the work is
// divided.
#pragma once
#include "barrier.h"
#include "cell.h"
#include "product.h"
#include "rows.h"

#include <string.h>

// The rows and the gates of one step of one direction in a partition.
typedef struct {
    RowRange rows, before;
    REAL* gates;
} StepRows;

// x W_ih^T + b of some rows in a partition, written from `gates` on.
static void gates_from_input(const Forward* direction, ptrdiff_t row, ptrdiff_t rows, REAL* gates,
                             const Partition* partition, bool one_row) {
    const ptrdiff_t G = 4 * panels_of(direction->H, LANES) * LANES;
    const REAL* x = (const REAL*)direction->x.at + row * direction->x.row;
    for (ptrdiff_t p = partition->first_panel; p < partition->last_panel; ++p) {
        REAL* to = gates + p * GROUP * LANES;
        for (ptrdiff_t r = 0; r < rows; ++r)
            UNROLLED for (int v = 0; v < GROUP; ++v)
                store(to + r * G + v * LANES, load((const REAL*)direction->bias + (p * GROUP + v) * LANES));
        const REAL* weights = (const REAL*)direction->weight_ih + p * direction->I * GROUP * LANES;
        if (one_row)
            add_product_of_one_row(to, x, weights, direction->I);
        else
            add_product(to, G, x, direction->x.row, weights, direction->I, rows);
    }
}

// The gates of step s in a partition: in the layer's gates, or in the workspace of the block that begins with `first`.
static REAL* gates_of(const Forward* direction, const Steps* steps, ptrdiff_t s, ptrdiff_t first, ptrdiff_t last,
                      const Partition* partition, REAL* workspace) {
    const ptrdiff_t G = 4 * panels_of(direction->H, LANES) * LANES;
    ptrdiff_t row = rows_of_partition(rows_of(steps, s, direction->reverse), partition).first;
    if (direction->gates) return (REAL*)direction->gates + row * G;
    bool whole = partition->first == 0 && partition->last >= steps->batch;
    if (whole) return workspace + (row - lowest_row(steps, first, last, direction->reverse)) * G;
    return workspace + (s - first) * (partition->last - partition->first) * G;
}

// x W_ih^T + b of a block of steps: in one product where the partition has all rows.
static void block_from_input(const Forward* direction, const Steps* steps, ptrdiff_t first, ptrdiff_t last,
                             const Partition* partition, REAL* workspace) {
    if (partition->first == 0 && partition->last >= steps->batch) {
        ptrdiff_t lowest = direction->reverse ? last - 1 : first, highest = direction->reverse ? first : last - 1;
        RowRange end = rows_of(steps, highest, direction->reverse);
        ptrdiff_t row = rows_of(steps, lowest, direction->reverse).first;
        REAL* gates = gates_of(direction, steps, lowest, first, last, partition, workspace);
        gates_from_input(direction, row, end.first + end.count - row, gates, partition, false);
    } else
        for (ptrdiff_t s = first; s < last; ++s) {
            RowRange rows = rows_of_partition(rows_of(steps, s, direction->reverse), partition);
            if (rows.count)
                gates_from_input(direction, rows.first, rows.count,
                                 gates_of(direction, steps, s, first, last, partition, workspace), partition,
                                 false);
        }
}

// h_{t-1} W_hh^T of one panel, added to its gates.
static void add_recurrent(const Forward* direction, const Steps* steps, StepRows at, ptrdiff_t p,
                          const Partition* partition) {
    const ptrdiff_t G = 4 * panels_of(direction->H, LANES) * LANES, P = direction->P;
    const REAL* weights = (const REAL*)direction->weight_hh + p * P * GROUP * LANES;
    const REAL* h = (const REAL*)direction->out.at + at.before.first * direction->out.row;
    const REAL* h_0 = (const REAL*)direction->h_0.at + (partition->first + at.before.count) * direction->h_0.row;
    REAL* gates = at.gates + p * GROUP * LANES;
    if (steps->batch == 1) {
        if (at.rows.count) add_product_of_one_row(gates, at.before.count ? h : h_0, weights, P);
        return;
    }
    add_product(gates, G, h, direction->out.row, weights, P, at.before.count);
    ptrdiff_t begin = at.rows.count - at.before.count;
    if (begin) add_product(gates + at.before.count * G, G, h_0, direction->h_0.row, weights, P, begin);
}

static void cells_forward(const Forward* direction, StepRows at, ptrdiff_t p, const Partition* partition) {
    const ptrdiff_t Hp = panels_of(direction->H, LANES) * LANES, there = direction->H - p * LANES;
    const Options options = options_of(&direction->variant, Hp, p * LANES);
    REAL* c = (REAL*)direction->c + partition->first * Hp + p * LANES;
    REAL* h = (REAL*)direction->out.at + at.rows.first * direction->out.row + p * LANES;
    ptrdiff_t h_row = direction->out.row;
    if (direction->weight_hr) h = (REAL*)direction->projected + partition->first * Hp + p * LANES, h_row = Hp;
    for (ptrdiff_t r = 0; r < at.rows.count; ++r, c += Hp, h += h_row) {
        REAL* gates = at.gates + r * 4 * Hp + p * GROUP * LANES;
        Cell now = cell_forward(gates, load(c), &options);
        store(c, now.c);
        if (direction->weight_hr)
            store(h, now.h);
        else
            store_first(h, there, now.h);
        if (direction->gates) {
            store(gates, now.i), store(gates + LANES, now.f);
            store(gates + 2 * LANES, now.g), store(gates + 3 * LANES, now.o);
            store((REAL*)direction->cells + (at.rows.first + r) * Hp + p * LANES, now.c);
        }
    }
}

// h_t = W_hr m_t, where m_t is what the cell puts out, (rows, Hp) for the sequences of the partition.
static void project(const Forward* direction, const Steps* steps, StepRows at, const Partition* partition) {
    const ptrdiff_t Hp = panels_of(direction->H, LANES) * LANES, panels = panels_of(direction->P, LANES),
                    Pp = panels * LANES;
    const REAL* m = (const REAL*)direction->projected + partition->first * Hp;
    REAL* h = (REAL*)direction->projected + steps->batch * Hp + partition->first * Pp;
    memset(h, 0, (size_t)(at.rows.count * Pp) * sizeof(REAL));
    add_products(h, Pp, m, Hp, direction->weight_hr, direction->H, at.rows.count, 0, panels);
    REAL* out = (REAL*)direction->out.at + at.rows.first * direction->out.row;
    for (ptrdiff_t r = 0; r < at.rows.count; ++r)
        memcpy(out + r * direction->out.row, h + r * Pp, (size_t)direction->P * sizeof(REAL));
}

// The steps `first` to `last`, in the order of processing, of directions side by side; x W_ih^T + b is computed for
// `block` of them at once. `workspaces` has one for each direction whose gates are not kept.
static void forward(const Forward* directions, int count, const Steps* steps, ptrdiff_t first, ptrdiff_t last,
                    ptrdiff_t block, const Partition* partition, void* const* workspaces, Barrier* barrier) {
    Partition now = *partition;
    for (ptrdiff_t begin = first; begin < last; begin += block) {
        ptrdiff_t end = least(begin + block, last);
        for (int k = 0; k < count; ++k) block_from_input(directions + k, steps, begin, end, &now, workspaces[k]);
        for (ptrdiff_t s = begin; s < end; ++s) {
            for (int k = 0; k < count; ++k) {
                const Forward* direction = directions + k;
                StepRows at;
                at.rows = rows_of_partition(rows_of(steps, s, direction->reverse), &now);
                at.before = rows_before(steps, s, at.rows, direction->reverse, &now);
                at.gates = gates_of(direction, steps, s, begin, end, &now, workspaces[k]);
                for (ptrdiff_t i = now.first_panel; i < now.last_panel; ++i) {
                    // every other step in the other order: the weights read last are still in the cache
                    ptrdiff_t p = s % 2 ? now.first_panel + now.last_panel - 1 - i : i;
                    add_recurrent(direction, steps, at, p, &now);
                    cells_forward(direction, at, p, &now);
                }
                if (direction->weight_hr) project(direction, steps, at, &now);
            }
            if (now.members > 1 && !barrier_wait_or_dissolve(barrier, now.member)) {
                if (now.member) return;
                now = (Partition){now.first, now.last, 0, panels_of(directions[0].H, LANES), 0, 1};
            }
        }
    }
}

// With a projection: from d loss / d h_t, of which `rows` are kept, to d loss / d m_t = d loss / d h_t W_hr.
static void project_backward(const Backward* direction, RowRange rows, const Partition* partition) {
    const ptrdiff_t panels = panels_of(direction->H, LANES), Hp = panels * LANES,
                    Pp = panels_of(direction->P, LANES) * LANES;
    const REAL* grad_h = (const REAL*)direction->grad_h + partition->first * Pp;
    REAL* kept = (REAL*)direction->grad_projected + (rows.first - direction->first_row) * Pp;
    REAL* grad_m = (REAL*)direction->grad_m + partition->first * Hp;
    for (ptrdiff_t r = 0; r < rows.count; ++r)
        for (ptrdiff_t k = 0; k < Pp; k += LANES) {
            Vector grad = load(grad_h + r * Pp + k);
            if (direction->grad_out.at)
                grad += load_first((const REAL*)direction->grad_out.at +
                                       (rows.first + r) * direction->grad_out.row + k,
                                   direction->P - k);
            store(kept + r * Pp + k, grad);
        }
    memset(grad_m, 0, (size_t)(rows.count * Hp) * sizeof(REAL));
    add_products(grad_m, Hp, kept, Pp, direction->weight_hr, direction->P, rows.count, 0, panels);
}

// The padding of the last panel is summed with the rest: it has to be zero, also where an infinite input made it NaN.
static inline void keep(REAL* values, Integers mask) { store(values, (Vector)((Integers)load(values) & mask)); }

static void cells_backward(const Backward* direction, const Steps* steps, ptrdiff_t s, REAL* grad_a,
                           const Partition* partition) {
    const ptrdiff_t Hp = panels_of(direction->H, LANES) * LANES;
    const RowRange rows = rows_of_partition(rows_of(steps, s, direction->reverse), partition);
    const RowRange before = rows_before(steps, s, rows, direction->reverse, partition);
    const bool direct = !direction->weight_hr;  // whether h is what the cell puts out
    if (!direct) project_backward(direction, rows, partition);
    for (ptrdiff_t p = partition->first_panel; p < partition->last_panel; ++p) {
        const ptrdiff_t cell = p * LANES;
        const Options options = options_of(&direction->variant, Hp, cell);
        Integers there = {0};  // -1 for each cell of the panel
        for (ptrdiff_t k = 0; k < least(LANES, direction->H - cell); ++k) there[k] = -1;
        for (ptrdiff_t r = 0; r < rows.count; ++r) {
            const ptrdiff_t sequence = partition->first + r, row = rows.first + r;
            REAL* grad_c = (REAL*)direction->grad_c + sequence * Hp + cell;
            const REAL* c_before = r < before.count ? (const REAL*)direction->cells + (before.first + r) * Hp
                                                    : (const REAL*)direction->c_0 + sequence * Hp;
            Vector grad_h = load((const REAL*)(direct ? direction->grad_h : direction->grad_m) + sequence * Hp +
                                 cell);
            if (direct && direction->grad_out.at)
                grad_h += load_first((const REAL*)direction->grad_out.at + row * direction->grad_out.row + cell,
                                     direction->H - cell);
            store(grad_c,
                  cell_backward(grad_h, load(grad_c), (const REAL*)direction->gates + row * 4 * Hp + GROUP * cell,
                                load((const REAL*)direction->cells + row * Hp + cell), load(c_before + cell),
                                grad_a + r * 4 * Hp + GROUP * cell, &options));
            if (direction->H - cell < LANES) {
                UNROLLED for (int v = 0; v < GROUP; ++v)
                    keep(grad_a + r * 4 * Hp + GROUP * cell + v * LANES, there);
                keep(grad_c, there);
            }
        }
    }
}

// d loss / d h_{t-1} = d loss / d a_t W_hh, of the panels of the partition.
static void state_backward(const Backward* direction, RowRange rows, const REAL* grad_a,
                           const Partition* partition) {
    const ptrdiff_t G = 4 * panels_of(direction->H, LANES) * LANES, panels = panels_of(direction->P, LANES),
                    Pp = panels * LANES;
    // with a projection h has fewer panels than c, and no two threads share the cells
    const ptrdiff_t first = partition->first_panel, last = direction->weight_hr ? panels : partition->last_panel;
    REAL* grad_h = (REAL*)direction->grad_h + partition->first * Pp;
    for (ptrdiff_t r = 0; r < rows.count; ++r)
        for (ptrdiff_t p = first; p < last; ++p) store(grad_h + r * Pp + p * LANES, all(0));
    add_products(grad_h, Pp, grad_a, G, direction->weight_hh, G, rows.count, first, last);
}

// The steps `last` to `first`, from the last one to the first.
static void backward(const Backward* directions, int count, const Steps* steps, ptrdiff_t first, ptrdiff_t last,
                     const Partition* partition, Barrier* barrier) {
    Partition now = *partition;
    const ptrdiff_t G = 4 * panels_of(directions[0].H, LANES) * LANES;
    for (ptrdiff_t s = last - 1; s >= first; --s) {
        REAL* grad_a[2];
        RowRange rows[2];
        for (int k = 0; k < count; ++k) {
            rows[k] = rows_of_partition(rows_of(steps, s, directions[k].reverse), &now);
            grad_a[k] = (REAL*)directions[k].grad_a + (rows[k].first - directions[k].first_row) * G;
            cells_backward(directions + k, steps, s, grad_a[k], &now);
        }
        if (now.members > 1) barrier_wait(barrier, now.member);
        for (int k = 0; k < count; ++k) state_backward(directions + k, rows[k], grad_a[k], &now);
        if (now.members > 1 && !barrier_wait_or_dissolve(barrier, now.member)) {
            if (now.member) return;
            now = (Partition){now.first, now.last, 0, panels_of(directions[0].H, LANES), 0, 1};
        }
    }
}

// The values (N, width) of the step before, of all rows of some steps in the order in which they stand; `initial`
// (B, width) where a sequence begins.
static void previous(Matrix values, Matrix initial, ptrdiff_t width, bool reverse, const Steps* steps,
                     ptrdiff_t first, ptrdiff_t last, void* into) {
    const Partition everything = {0, steps->batch, 0, 0, 0, 1};
    const ptrdiff_t base = lowest_row(steps, first, last, reverse);
    for (ptrdiff_t s = first; s < last; ++s) {
        const RowRange rows = rows_of(steps, s, reverse),
                       before = rows_before(steps, s, rows, reverse, &everything);
        for (ptrdiff_t r = 0; r < rows.count; ++r) {
            const REAL* from = r < before.count ? (const REAL*)values.at + (before.first + r) * values.row
                                                : (const REAL*)initial.at + r * initial.row;
            memcpy((REAL*)into + (rows.first - base + r) * width, from, (size_t)width * sizeof(REAL));
        }
    }
}

// What the cells put out, o * tanh(c), (rows, Hp), from what was kept.
static void outputs(const void* gates, const void* cells, ptrdiff_t rows, ptrdiff_t H, void* into) {
    const ptrdiff_t Hp = panels_of(H, LANES) * LANES;
    for (ptrdiff_t k = 0; k < rows * Hp; k += LANES) {
        const Vector o = load((const REAL*)gates + GROUP * k + 3 * LANES);
        store((REAL*)into + k, of_smaller_side(o) * hyperbolic_tangent(load((const REAL*)cells + k)));
    }
}
