// One step through a stack of layers, for streams: a step of the time loop for one layer after the other.
#pragma once
#include "sequence.h"

// Threads that share a step have some panels of each layer, in 64ths of all, and wait for each other after each layer.
static void step(const Step* call, const Partition* partition, Barrier* barrier) {
    const ptrdiff_t B = call->batch;
    const Steps steps = {NULL, 1, B};
    REAL *c = call->c, *h = call->h, *gates = call->gates;
    const REAL *h_before = call->h_before, *weights = call->weights, *bias = call->biases, *x = call->x;
    ptrdiff_t I = call->sizes[0];  // of what the layer reads
    for (ptrdiff_t k = 0; k < call->layers; ++k) {
        const ptrdiff_t H = call->sizes[2 * k + 1], P = call->sizes[2 * k + 2];
        const ptrdiff_t panels = panels_of(H, LANES), Hp = panels * LANES, G = 4 * Hp;
        const REAL *weight_hh = weights + I * G, *weight_hr = weight_hh + P * G, *peephole = bias + G;
        const Forward direction = {
            .I = I,
            .H = H,
            .P = P,
            .variant = {call->peephole ? peephole : NULL, call->clip},
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
        const Partition mine = {
            0,
            B,
            panels * partition->first_panel / STEP_PARTS,
            panels * partition->last_panel / STEP_PARTS,
            partition->member,
            partition->members,
        };
        const StepRows at = {{0, B}, {0, 0}, gates};
        // panel by panel: W_ih and W_hh are read side by side, which is faster where they do not fit into the cache
        for (Partition panel = mine; panel.first_panel < mine.last_panel; ++panel.first_panel) {
            panel.last_panel = panel.first_panel + 1;
            gates_from_input(&direction, 0, B, gates, &panel, B == 1);
            add_recurrent(&direction, &steps, at, panel.first_panel, &panel);
            cells_forward(&direction, at, panel.first_panel, &panel);
        }
        if (direction.weight_hr) {
            if (mine.members > 1) barrier_wait(barrier, mine.member);
            if (!mine.member) project(&direction, &steps, at, &mine);
        }
        if (mine.members > 1) barrier_wait(barrier, mine.member);
        weights = weight_hr + (P < H ? H * panels_of(P, LANES) * LANES : 0);
        bias = peephole + (call->peephole ? 3 * Hp : 0), x = h, I = P;
        h += B * P, h_before += B * P, c += B * Hp;
    }
}
