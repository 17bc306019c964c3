// One step of the standard LSTM, and its derivative: the equations of core/cell for one vector of cells.
//
//     i = sigmoid(a_i)   f = sigmoid(a_f)   g = tanh(a_g)   o = sigmoid(a_o)
//     c_t = f * c_{t-1} + i * g
//     h_t = o * tanh(c_t)
#pragma once
#include "functions.h"

typedef struct {
    Vector i, f, g, o, c, h;
} Cell;

INLINE Cell cell_forward(const REAL *a, Vector c_before) {
    Cell now;
    now.i = sigmoid(load(a));
    now.f = sigmoid(load(a + LANES));
    now.g = hyperbolic_tangent(load(a + 2 * LANES));
    now.o = sigmoid(load(a + 3 * LANES));
    now.c = now.f * c_before + now.i * now.g;
    now.h = now.o * hyperbolic_tangent(now.c);
    return now;
}

// Write d loss / d a, and return d loss / d c_{t-1}. `gates` has i, f, g, o; grad_c is d loss / d c_t through all
// but h_t.
INLINE Vector cell_backward(Vector grad_h, Vector grad_c, const REAL *gates, Vector c, Vector c_before, REAL *grad_a) {
    Vector i = load(gates), f = load(gates + LANES), g = load(gates + 2 * LANES), o = load(gates + 3 * LANES);
    Vector tanh_c = hyperbolic_tangent(c);
    grad_c += grad_h * o * ((REAL)1 - tanh_c * tanh_c);
    store(grad_a, grad_c * g * i * ((REAL)1 - i));
    store(grad_a + LANES, grad_c * c_before * f * ((REAL)1 - f));
    store(grad_a + 2 * LANES, grad_c * i * ((REAL)1 - g * g));
    store(grad_a + 3 * LANES, grad_h * tanh_c * o * ((REAL)1 - o));
    return grad_c * f;
}
