// The time loop, forward and back through time, of the directions of one layer.
//
// Several threads may share a layer (see Share). Those that share its cells meet after each step, since the next
// one reads all of h; those that share its sequences have nothing to do with each other. No sum depends on how the
// work is shared.
#pragma once
#include "cell.h"
#include "meeting.h"
#include "product.h"
#include "rows.h"

#include <string.h>

// What a share has of one lane: where its gates of a step stand, and its rows.
typedef struct {
    Run rows, before;
    REAL* gates;
} Place;

// x W_ih^T + b of some rows of one share, written from `gates` on.
static void gates_from_input(const Forward* lane, ptrdiff_t row, ptrdiff_t rows, REAL* gates, const Share* share,
                             bool one_row) {
    const ptrdiff_t G = 4 * panels_of(lane->H, LANES) * LANES;
    const REAL* x = (const REAL*)lane->x.at + row * lane->x.row;
    for (ptrdiff_t p = share->first_panel; p < share->last_panel; ++p) {
        REAL* to = gates + p * GROUP * LANES;
        for (ptrdiff_t r = 0; r < rows; ++r)
            UNROLLED for (int v = 0; v < GROUP; ++v)
                store(to + r * G + v * LANES, load((const REAL*)lane->bias + (p * GROUP + v) * LANES));
        const REAL* weights = (const REAL*)lane->weight_ih + p * lane->I * GROUP * LANES;
        if (one_row)
            add_product_of_one_row(to, x, weights, lane->I);
        else
            add_product(to, G, x, lane->x.row, weights, lane->I, rows);
    }
}

// Where a share's gates of step s stand: with all the layer's, or in a room for the block that begins with `first`.
static REAL* gates_of(const Forward* lane, const Steps* steps, ptrdiff_t s, ptrdiff_t first, ptrdiff_t last,
                      const Share* share, REAL* room) {
    const ptrdiff_t G = 4 * panels_of(lane->H, LANES) * LANES;
    ptrdiff_t row = share_of(rows_of(steps, s, lane->reverse), share).first;
    if (lane->gates) return (REAL*)lane->gates + row * G;
    bool whole = share->first == 0 && share->last >= steps->batch;
    if (whole) return room + (row - lowest_row(steps, first, last, lane->reverse)) * G;
    return room + (s - first) * (share->last - share->first) * G;
}

// The input's part of a block of steps: in one product where the share has all rows.
static void block_from_input(const Forward* lane, const Steps* steps, ptrdiff_t first, ptrdiff_t last,
                             const Share* share, REAL* room) {
    if (share->first == 0 && share->last >= steps->batch) {
        ptrdiff_t lowest = lane->reverse ? last - 1 : first, highest = lane->reverse ? first : last - 1;
        Run end = rows_of(steps, highest, lane->reverse);
        ptrdiff_t row = rows_of(steps, lowest, lane->reverse).first;
        REAL* gates = gates_of(lane, steps, lowest, first, last, share, room);
        gates_from_input(lane, row, end.first + end.count - row, gates, share, false);
    } else
        for (ptrdiff_t s = first; s < last; ++s) {
            Run rows = share_of(rows_of(steps, s, lane->reverse), share);
            if (rows.count)
                gates_from_input(lane, rows.first, rows.count, gates_of(lane, steps, s, first, last, share, room),
                                 share, false);
        }
}

// h_{t-1} W_hh^T of one panel, added to its gates.
static void add_recurrent(const Forward* lane, const Steps* steps, Place at, ptrdiff_t p, const Share* share) {
    const ptrdiff_t G = 4 * panels_of(lane->H, LANES) * LANES, P = lane->P;
    const REAL* weights = (const REAL*)lane->weight_hh + p * P * GROUP * LANES;
    const REAL* h = (const REAL*)lane->out.at + at.before.first * lane->out.row;
    const REAL* h_0 = (const REAL*)lane->h_0.at + (share->first + at.before.count) * lane->h_0.row;
    REAL* gates = at.gates + p * GROUP * LANES;
    if (steps->batch == 1) {
        if (at.rows.count) add_product_of_one_row(gates, at.before.count ? h : h_0, weights, P);
        return;
    }
    add_product(gates, G, h, lane->out.row, weights, P, at.before.count);
    ptrdiff_t begin = at.rows.count - at.before.count;
    if (begin) add_product(gates + at.before.count * G, G, h_0, lane->h_0.row, weights, P, begin);
}

static void cells_forward(const Forward* lane, Place at, ptrdiff_t p, const Share* share) {
    const ptrdiff_t Hp = panels_of(lane->H, LANES) * LANES, there = lane->H - p * LANES;
    const Options options = options_of(&lane->variant, Hp, p * LANES);
    REAL* c = (REAL*)lane->c + share->first * Hp + p * LANES;
    REAL* h = (REAL*)lane->out.at + at.rows.first * lane->out.row + p * LANES;
    ptrdiff_t h_row = lane->out.row;
    if (lane->weight_hr) h = (REAL*)lane->projected + share->first * Hp + p * LANES, h_row = Hp;
    for (ptrdiff_t r = 0; r < at.rows.count; ++r, c += Hp, h += h_row) {
        REAL* gates = at.gates + r * 4 * Hp + p * GROUP * LANES;
        Cell now = cell_forward(gates, load(c), &options);
        store(c, now.c);
        if (lane->weight_hr)
            store(h, now.h);
        else
            store_first(h, there, now.h);
        if (lane->gates) {
            store(gates, now.i), store(gates + LANES, now.f);
            store(gates + 2 * LANES, now.g), store(gates + 3 * LANES, now.o);
            store((REAL*)lane->cells + (at.rows.first + r) * Hp + p * LANES, now.c);
        }
    }
}

// h_t = W_hr m_t, where m_t is what the cell puts out, (rows, Hp) for the share's sequences.
static void project(const Forward* lane, const Steps* steps, Place at, const Share* share) {
    const ptrdiff_t Hp = panels_of(lane->H, LANES) * LANES, panels = panels_of(lane->P, LANES),
                    Pp = panels * LANES;
    const REAL* m = (const REAL*)lane->projected + share->first * Hp;
    REAL* h = (REAL*)lane->projected + steps->batch * Hp + share->first * Pp;
    memset(h, 0, (size_t)(at.rows.count * Pp) * sizeof(REAL));
    add_products(h, Pp, m, Hp, lane->weight_hr, lane->H, at.rows.count, 0, panels);
    REAL* out = (REAL*)lane->out.at + at.rows.first * lane->out.row;
    for (ptrdiff_t r = 0; r < at.rows.count; ++r)
        memcpy(out + r * lane->out.row, h + r * Pp, (size_t)lane->P * sizeof(REAL));
}

// The steps `first` to `last`, in the order of processing, of lanes that run side by side; `block` of them have
// their input transformed at once. `rooms` has a work space for each lane whose gates are not kept.
static void forward(const Forward* lanes, int count, const Steps* steps, ptrdiff_t first, ptrdiff_t last,
                    ptrdiff_t block, const Share* share, void* const* rooms, Meeting* meeting) {
    Share now = *share;
    for (ptrdiff_t begin = first; begin < last; begin += block) {
        ptrdiff_t end = least(begin + block, last);
        for (int k = 0; k < count; ++k) block_from_input(lanes + k, steps, begin, end, &now, rooms[k]);
        for (ptrdiff_t s = begin; s < end; ++s) {
            for (int k = 0; k < count; ++k) {
                const Forward* lane = lanes + k;
                Place at;
                at.rows = share_of(rows_of(steps, s, lane->reverse), &now);
                at.before = rows_before(steps, s, at.rows, lane->reverse, &now);
                at.gates = gates_of(lane, steps, s, begin, end, &now, rooms[k]);
                for (ptrdiff_t i = now.first_panel; i < now.last_panel; ++i) {
                    // every other step in the other order: the weights read last are still in the cache
                    ptrdiff_t p = s % 2 ? now.first_panel + now.last_panel - 1 - i : i;
                    add_recurrent(lane, steps, at, p, &now);
                    cells_forward(lane, at, p, &now);
                }
                if (lane->weight_hr) project(lane, steps, at, &now);
            }
            if (now.members > 1 && !meet_and_go_on(meeting, now.member)) {
                if (now.member) return;
                now = (Share){now.first, now.last, 0, panels_of(lanes[0].H, LANES), 0, 1};
            }
        }
    }
}

// With a projection: from d loss / d h_t, of which `rows` are kept, to d loss / d m_t = d loss / d h_t W_hr.
static void project_backward(const Backward* lane, Run rows, const Share* share) {
    const ptrdiff_t panels = panels_of(lane->H, LANES), Hp = panels * LANES,
                    Pp = panels_of(lane->P, LANES) * LANES;
    const REAL* grad_h = (const REAL*)lane->grad_h + share->first * Pp;
    REAL* kept = (REAL*)lane->grad_projected + (rows.first - lane->first_row) * Pp;
    REAL* grad_m = (REAL*)lane->grad_m + share->first * Hp;
    for (ptrdiff_t r = 0; r < rows.count; ++r)
        for (ptrdiff_t k = 0; k < Pp; k += LANES) {
            Vector grad = load(grad_h + r * Pp + k);
            if (lane->grad_out.at)
                grad += load_first((const REAL*)lane->grad_out.at + (rows.first + r) * lane->grad_out.row + k,
                                   lane->P - k);
            store(kept + r * Pp + k, grad);
        }
    memset(grad_m, 0, (size_t)(rows.count * Hp) * sizeof(REAL));
    add_products(grad_m, Hp, kept, Pp, lane->weight_hr, lane->P, rows.count, 0, panels);
}

// What fills up the last panel is summed with the rest: zero, also where an infinite input has made it NaN.
static inline void keep(REAL* values, Integers mask) { store(values, (Vector)((Integers)load(values) & mask)); }

static void cells_backward(const Backward* lane, const Steps* steps, ptrdiff_t s, REAL* grad_a,
                           const Share* share) {
    const ptrdiff_t Hp = panels_of(lane->H, LANES) * LANES;
    const Run rows = share_of(rows_of(steps, s, lane->reverse), share);
    const Run before = rows_before(steps, s, rows, lane->reverse, share);
    const bool direct = !lane->weight_hr;  // whether h is what the cell puts out
    if (!direct) project_backward(lane, rows, share);
    for (ptrdiff_t p = share->first_panel; p < share->last_panel; ++p) {
        const ptrdiff_t cell = p * LANES;
        const Options options = options_of(&lane->variant, Hp, cell);
        Integers there = {0};  // -1 for each cell of the panel
        for (ptrdiff_t k = 0; k < least(LANES, lane->H - cell); ++k) there[k] = -1;
        for (ptrdiff_t r = 0; r < rows.count; ++r) {
            const ptrdiff_t sequence = share->first + r, row = rows.first + r;
            REAL* grad_c = (REAL*)lane->grad_c + sequence * Hp + cell;
            const REAL* c_before = r < before.count ? (const REAL*)lane->cells + (before.first + r) * Hp
                                                    : (const REAL*)lane->c_0 + sequence * Hp;
            Vector grad_h = load((const REAL*)(direct ? lane->grad_h : lane->grad_m) + sequence * Hp + cell);
            if (direct && lane->grad_out.at)
                grad_h += load_first((const REAL*)lane->grad_out.at + row * lane->grad_out.row + cell,
                                     lane->H - cell);
            store(grad_c,
                  cell_backward(grad_h, load(grad_c), (const REAL*)lane->gates + row * 4 * Hp + GROUP * cell,
                                load((const REAL*)lane->cells + row * Hp + cell), load(c_before + cell),
                                grad_a + r * 4 * Hp + GROUP * cell, &options));
            if (lane->H - cell < LANES) {
                UNROLLED for (int v = 0; v < GROUP; ++v)
                    keep(grad_a + r * 4 * Hp + GROUP * cell + v * LANES, there);
                keep(grad_c, there);
            }
        }
    }
}

// d loss / d h_{t-1} = d loss / d a_t W_hh, of the share's panels.
static void state_backward(const Backward* lane, Run rows, const REAL* grad_a, const Share* share) {
    const ptrdiff_t G = 4 * panels_of(lane->H, LANES) * LANES, panels = panels_of(lane->P, LANES),
                    Pp = panels * LANES;
    // with a projection h has fewer panels than c, and no two threads share the cells
    const ptrdiff_t first = share->first_panel, last = lane->weight_hr ? panels : share->last_panel;
    REAL* grad_h = (REAL*)lane->grad_h + share->first * Pp;
    for (ptrdiff_t r = 0; r < rows.count; ++r)
        for (ptrdiff_t p = first; p < last; ++p) store(grad_h + r * Pp + p * LANES, all(0));
    add_products(grad_h, Pp, grad_a, G, lane->weight_hh, G, rows.count, first, last);
}

// The steps `last` to `first`, from the last one back.
static void backward(const Backward* lanes, int count, const Steps* steps, ptrdiff_t first, ptrdiff_t last,
                     const Share* share, Meeting* meeting) {
    Share now = *share;
    const ptrdiff_t G = 4 * panels_of(lanes[0].H, LANES) * LANES;
    for (ptrdiff_t s = last - 1; s >= first; --s) {
        REAL* grad_a[2];
        Run rows[2];
        for (int k = 0; k < count; ++k) {
            rows[k] = share_of(rows_of(steps, s, lanes[k].reverse), &now);
            grad_a[k] = (REAL*)lanes[k].grad_a + (rows[k].first - lanes[k].first_row) * G;
            cells_backward(lanes + k, steps, s, grad_a[k], &now);
        }
        if (now.members > 1) meet(meeting, now.member);
        for (int k = 0; k < count; ++k) state_backward(lanes + k, rows[k], grad_a[k], &now);
        if (now.members > 1 && !meet_and_go_on(meeting, now.member)) {
            if (now.member) return;
            now = (Share){now.first, now.last, 0, panels_of(lanes[0].H, LANES), 0, 1};
        }
    }
}

// The values (N, width) of the step before, of all rows of some steps in the order in which they stand; `initial`
// (B, width) where a sequence begins.
static void previous(Matrix values, Matrix initial, ptrdiff_t width, bool reverse, const Steps* steps,
                     ptrdiff_t first, ptrdiff_t last, void* into) {
    const Share everything = {0, steps->batch, 0, 0, 0, 1};
    const ptrdiff_t base = lowest_row(steps, first, last, reverse);
    for (ptrdiff_t s = first; s < last; ++s) {
        const Run rows = rows_of(steps, s, reverse), before = rows_before(steps, s, rows, reverse, &everything);
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
