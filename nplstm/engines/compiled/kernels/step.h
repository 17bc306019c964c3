// One step through a stack of layers, in real time.
#pragma once
#include "cell.h"
#include "meeting.h"
#include "product.h"
#include "rows.h"

#include <string.h>

typedef struct {
    ptrdiff_t B, I, H, P, Hp;
    const REAL *x, *h_before, *weights, *bias;
    Variant variant;
    REAL *h, *c, *gates;
} LayerStep;

// h_t = W_hr m_t; m (B, Hp) and a room for h (B, Pp) stand behind the gates.
static void step_projection(const LayerStep* layer, const REAL* weight_hr) {
    const ptrdiff_t panels = panels_of(layer->P, LANES), Pp = panels * LANES;
    const REAL* m = layer->gates + layer->B * 4 * layer->Hp;
    REAL* h = layer->gates + layer->B * 5 * layer->Hp;
    memset(h, 0, (size_t)(layer->B * Pp) * sizeof(REAL));
    add_products(h, Pp, m, layer->Hp, weight_hr, layer->H, layer->B, 0, panels);
    for (ptrdiff_t r = 0; r < layer->B; ++r)
        memcpy(layer->h + r * layer->P, h + r * Pp, (size_t)layer->P * sizeof(REAL));
}

static void step_panel(const LayerStep* layer, ptrdiff_t p) {
    const ptrdiff_t B = layer->B, I = layer->I, P = layer->P, G = 4 * layer->Hp;
    const REAL* weight_ih = layer->weights + p * I * GROUP * LANES;
    const REAL* weight_hh = layer->weights + I * G + p * P * GROUP * LANES;
    REAL* a = layer->gates + p * GROUP * LANES;
    for (ptrdiff_t r = 0; r < B; ++r)
        UNROLLED for (int v = 0; v < GROUP; ++v)
            store(a + r * G + v * LANES, load(layer->bias + (p * GROUP + v) * LANES));
    if (B == 1) {
        add_product_of_one_row(a, layer->x, weight_ih, I);
        add_product_of_one_row(a, layer->h_before, weight_hh, P);
    } else {
        add_product(a, G, layer->x, I, weight_ih, I, B);
        add_product(a, G, layer->h_before, P, weight_hh, P, B);
    }
    const Options options = options_of(&layer->variant, layer->Hp, p * LANES);
    for (ptrdiff_t r = 0; r < B; ++r) {
        REAL* cell = layer->c + r * layer->Hp + p * LANES;
        Cell now = cell_forward(a + r * G, load(cell), &options);
        store(cell, now.c);
        if (P < layer->H)
            store(layer->gates + B * G + r * layer->Hp + p * LANES, now.h);
        else
            store_first(layer->h + r * P + p * LANES, P - p * LANES, now.h);
    }
}

// Threads that share a step have some panels of each layer, told in parts of all, and meet after each layer.
static void step(const Step* given, const Share* share, Meeting* meeting) {
    LayerStep layer = {
        given->batch,
        given->sizes[0],
        0,
        0,
        0,
        given->x,
        given->h_before,
        given->weights,
        given->biases,
        {NULL, given->clip},
        given->h,
        given->c,
        given->gates,
    };
    for (ptrdiff_t k = 0; k < given->layers; ++k) {
        const ptrdiff_t H = given->sizes[2 * k + 1], P = given->sizes[2 * k + 2], panels = panels_of(H, LANES);
        layer.H = H, layer.P = P, layer.Hp = panels * LANES;
        const REAL* after = layer.bias + 4 * layer.Hp;
        if (given->peephole) layer.variant.peephole = after, after += 3 * layer.Hp;
        const ptrdiff_t first = panels * share->first_panel / STEP_PARTS,
                        last = panels * share->last_panel / STEP_PARTS;
        for (ptrdiff_t p = first; p < last; ++p) step_panel(&layer, p);
        const REAL* weight_hr = layer.weights + (layer.I + P) * 4 * layer.Hp;
        layer.weights = weight_hr;
        if (share->members > 1 && P < H) meet(meeting, share->member);
        if (P < H) {
            if (!share->member) step_projection(&layer, weight_hr);
            layer.weights += H * panels_of(P, LANES) * LANES;
        }
        if (share->members > 1) meet(meeting, share->member);
        layer.bias = after, layer.x = layer.h, layer.I = P;
        layer.h += layer.B * P, layer.h_before += layer.B * P, layer.c += layer.B * layer.Hp;
    }
}
