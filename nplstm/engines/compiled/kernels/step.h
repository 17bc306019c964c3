// One step through a stack of layers, in real time: a step of the time loop for one layer after the other.
#pragma once
#include "sequence.h"

// Threads that share a step have some panels of each layer, told in parts of all, and meet after each layer.
static void step(const Step* given, const Share* share, Meeting* meeting) {
    const ptrdiff_t B = given->batch;
    const Steps steps = {NULL, 1, B};
    REAL *c = given->c, *h = given->h, *gates = given->gates;
    const REAL *h_before = given->h_before, *weights = given->weights, *bias = given->biases, *x = given->x;
    ptrdiff_t I = given->sizes[0];  // of what the layer reads
    for (ptrdiff_t k = 0; k < given->layers; ++k) {
        const ptrdiff_t H = given->sizes[2 * k + 1], P = given->sizes[2 * k + 2];
        const ptrdiff_t panels = panels_of(H, LANES), Hp = panels * LANES, G = 4 * Hp;
        const REAL *weight_hh = weights + I * G, *weight_hr = weight_hh + P * G, *peephole = bias + G;
        const Forward lane = {
            .I = I,
            .H = H,
            .P = P,
            .variant = {given->peephole ? peephole : NULL, given->clip},
            .x = {(REAL*)x, I},
            .weight_ih = weights,
            .weight_hh = weight_hh,
            .bias = bias,
            .h_0 = {(REAL*)h_before, P},
            .c = c,
            .out = {h, P},
            .weight_hr = P < H ? weight_hr : NULL,
            .projected = gates + B * G,
        };
        const Share mine = {
            0,
            B,
            panels * share->first_panel / STEP_PARTS,
            panels * share->last_panel / STEP_PARTS,
            share->member,
            share->members,
        };
        const Place at = {{0, B}, {0, 0}, gates};
        // panel by panel: W_ih and W_hh are read side by side, which is faster where they come from far
        for (Share panel = mine; panel.first_panel < mine.last_panel; ++panel.first_panel) {
            panel.last_panel = panel.first_panel + 1;
            gates_from_input(&lane, 0, B, gates, &panel, B == 1);
            add_recurrent(&lane, &steps, at, panel.first_panel, &panel);
            cells_forward(&lane, at, panel.first_panel, &panel);
        }
        if (lane.weight_hr) {
            if (mine.members > 1) meet(meeting, mine.member);
            if (!mine.member) project(&lane, &steps, at, &mine);
        }
        if (mine.members > 1) meet(meeting, mine.member);
        weights = weight_hr + (P < H ? H * panels_of(P, LANES) * LANES : 0);
        bias = peephole + (given->peephole ? 3 * Hp : 0), x = h, I = P;
        h += B * P, h_before += B * P, c += B * Hp;
    }
}
