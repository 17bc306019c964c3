// One step through a stack of layers, in real time.
#pragma once
#include "cell.h"
#include "meeting.h"
#include "product.h"
#include "rows.h"

#include <string.h>

// Threads that share a step have some panels of each layer, told in parts of all, and meet after each layer.
static void step(const Step *given, const Share *share, Meeting *meeting) {
    const ptrdiff_t B = given->batch;
    const REAL *weights = given->weights, *bias = given->biases, *h_before = given->h_before, *x = given->x;
    REAL *c = given->c, *h = given->h, *gates = given->gates;
    ptrdiff_t width = given->sizes[0];  // of what the layer reads
    for (ptrdiff_t layer = 0; layer < given->layers; ++layer) {
        const ptrdiff_t H = given->sizes[layer + 1], panels = panels_of(H, LANES), Hp = panels * LANES, G = 4 * Hp;
        const REAL *weight_hh = weights + width * G;
        for (ptrdiff_t p = panels * share->first_panel / STEP_PARTS; p < panels * share->last_panel / STEP_PARTS; ++p) {
            REAL *a = gates + p * GROUP * LANES;
            for (ptrdiff_t r = 0; r < B; ++r)
                UNROLLED for (int v = 0; v < GROUP; ++v)
                    store(a + r * G + v * LANES, load(bias + (p * GROUP + v) * LANES));
            const REAL *w_ih = weights + p * width * GROUP * LANES, *w_hh = weight_hh + p * H * GROUP * LANES;
            if (B == 1) {
                add_product_of_one_row(a, x, w_ih, width);
                add_product_of_one_row(a, h_before, w_hh, H);
            } else {
                add_product(a, G, x, width, w_ih, width, B);
                add_product(a, G, h_before, H, w_hh, H, B);
            }
            for (ptrdiff_t r = 0; r < B; ++r) {
                REAL *cell = c + r * Hp + p * LANES;
                Cell now = cell_forward(a + r * G, load(cell));
                store(cell, now.c);
                store_first(h + r * H + p * LANES, H - p * LANES, now.h);
            }
        }
        if (share->members > 1) meet(meeting, share->member);
        weights = weight_hh + H * G, bias += G, x = h;
        h += B * H, h_before += B * H, c += B * Hp, width = H;
    }
}
