// The LSTM cell for one vector of cells, forward and backward: the equations of core/cell.py.
//
//     i = sigmoid(a_i + p_i * c_{t-1})    f = sigmoid(a_f + p_f * c_{t-1})    g = tanh(a_g)
//     c_t = f * c_{t-1} + i * g
//     o = sigmoid(a_o + p_o * c_t)
//     h_t = o * tanh(c_t)
//
// With peepholes p; without, p is zero. With a clip the arguments of all four gates are bounded to [-clip, clip].
#pragma once
#include "functions.h"
#include "kernels.h"

typedef struct {
    Vector i, f, g, o;  // i, f and o by their smaller sides
    Vector c, h;
} Cell;

// A variant's numbers for one panel of cells.
typedef struct {
    const REAL *p_i, *p_f, *p_o;  // NULL: no peepholes
    REAL clip;
    Vector least_side, most_tanh;  // of a gate that was clipped
} Options;

INLINE Options options_of(const Variant* variant, ptrdiff_t Hp, ptrdiff_t cell) {
    Options options = {0};
    const REAL* peephole = variant->peephole;
    if (peephole) options.p_i = peephole + cell, options.p_f = options.p_i + Hp, options.p_o = options.p_f + Hp;
    options.clip = (REAL)variant->clip;
    if (options.clip > 0) {
        options.least_side = absolute(smaller_side(all(options.clip)));
        options.most_tanh = hyperbolic_tangent(all(options.clip));
    }
    return options;
}

INLINE Vector clipped(Vector a, const Options* options) {
    return options->clip > 0 ? with_sign(at_most(absolute(a), options->clip), a) : a;
}

INLINE Cell cell_forward(const REAL* a, Vector c_before, const Options* options) {
    Cell now;
    Vector a_i = load(a), a_f = load(a + LANES), a_g = load(a + 2 * LANES), a_o = load(a + 3 * LANES);
    if (options->p_i) a_i += load(options->p_i) * c_before, a_f += load(options->p_f) * c_before;
    now.i = smaller_side(clipped(a_i, options));
    now.f = smaller_side(clipped(a_f, options));
    now.g = hyperbolic_tangent(clipped(a_g, options));
    now.c = of_smaller_side(now.f) * c_before + of_smaller_side(now.i) * now.g;
    if (options->p_i) a_o += load(options->p_o) * now.c;
    now.o = smaller_side(clipped(a_o, options));
    now.h = of_smaller_side(now.o) * hyperbolic_tangent(now.c);
    return now;
}

// d loss / d a of a sigmoid by its smaller side, or of a tanh t. Where it was clipped, and at the bound, it is zero.
INLINE Vector through_sigmoid(Vector grad, Vector side, const Options* options) {
    grad *= slope_of_smaller_side(side);
    if (options->clip > 0) grad = choose(absolute(side) <= options->least_side, all(0), grad);
    return grad;
}

INLINE Vector through_tanh(Vector grad, Vector t, const Options* options) {
    grad *= (REAL)1 - t * t;
    if (options->clip > 0) grad = choose(absolute(t) >= options->most_tanh, all(0), grad);
    return grad;
}

// Write d loss / d a, and return d loss / d c_{t-1}. `gates` has i, f, g, o as they were kept; grad_c is
// d loss / d c_t through all but h_t.
INLINE Vector cell_backward(Vector grad_h, Vector grad_c, const REAL* gates, Vector c, Vector c_before,
                            REAL* grad_a, const Options* options) {
    Vector i = load(gates), f = load(gates + LANES), g = load(gates + 2 * LANES), o = load(gates + 3 * LANES);
    Vector tanh_c = hyperbolic_tangent(c);
    Vector grad_o = through_sigmoid(grad_h * tanh_c, o, options);
    grad_c += grad_h * of_smaller_side(o) * ((REAL)1 - tanh_c * tanh_c);
    if (options->p_i) grad_c += grad_o * load(options->p_o);
    Vector grad_i = through_sigmoid(grad_c * g, i, options),
           grad_f = through_sigmoid(grad_c * c_before, f, options);
    store(grad_a, grad_i);
    store(grad_a + LANES, grad_f);
    store(grad_a + 2 * LANES, through_tanh(grad_c * of_smaller_side(i), g, options));
    store(grad_a + 3 * LANES, grad_o);
    grad_c *= of_smaller_side(f);
    if (options->p_i) grad_c += grad_i * load(options->p_i) + grad_f * load(options->p_f);
    return grad_c;
}
