// Gradients of the parameters and of the input, as sums over the rows of many steps; packing of weights.
#pragma once
#include "product.h"
#include "rows.h"

// Rows (K, width) as add_products reads them: in groups of vectors of columns, with zeros past the width.
static void pack_columns(Matrix values, ptrdiff_t K, ptrdiff_t width, void* into) {
    REAL* packed = into;
    const ptrdiff_t vectors = panels_of(width, LANES);
    for (ptrdiff_t v = 0; v < vectors;) {
        int n = vectors_of_group(vectors - v);
        for (ptrdiff_t k = 0; k < K; ++k)
            for (int j = 0; j < n; ++j, packed += LANES) {
                const REAL* from = (const REAL*)values.at + k * values.row + (v + j) * LANES;
                store(packed, load_first(from, width - (v + j) * LANES));
            }
        v += n;
    }
}

// Row r of a gate's rows in the order of the kernels, (panels, 4, LANES): where it is in torch's, (4, H); -1: nowhere.
static inline ptrdiff_t torch_row(ptrdiff_t r, ptrdiff_t H) {
    ptrdiff_t panel = r / (GROUP * LANES), gate = r / LANES % GROUP, cell = panel * LANES + r % LANES;
    return cell < H ? gate * H + cell : -1;
}

// A weight (4H, K) for the forward pass: by panel of cells (K, 4 gates, LANES).
static void pack_forward(Matrix weight, ptrdiff_t H, ptrdiff_t K, void* packed) {
    const ptrdiff_t G = 4 * panels_of(H, LANES) * LANES;
    for (ptrdiff_t r = 0; r < G; ++r) {
        REAL* to = (REAL*)packed + r / (GROUP * LANES) * K * GROUP * LANES + r % (GROUP * LANES);
        ptrdiff_t row = torch_row(r, H);
        const REAL* from = (const REAL*)weight.at + row * weight.row;
        for (ptrdiff_t k = 0; k < K; ++k) to[k * GROUP * LANES] = row < 0 ? 0 : from[k];
    }
}

// The same weight for the backward pass: its rows in the kernels' order, packed by groups of columns.
static void pack_backward(Matrix weight, ptrdiff_t H, ptrdiff_t K, void* packed) {
    const ptrdiff_t G = 4 * panels_of(H, LANES) * LANES, vectors = panels_of(K, LANES);
    REAL* to = packed;
    for (ptrdiff_t v = 0; v < vectors;) {
        int n = vectors_of_group(vectors - v);
        for (ptrdiff_t r = 0; r < G; ++r) {
            ptrdiff_t row = torch_row(r, H);
            for (int j = 0; j < n; ++j, to += LANES) {
                ptrdiff_t k = (v + j) * LANES;
                store(to, row < 0 ? all(0) : load_first((const REAL*)weight.at + row * weight.row + k, K - k));
            }
        }
        v += n;
    }
}

// Peepholes: d loss / d a_i c_{t-1}, and so for f; d loss / d a_o c_t. For one vector of the rows of the gates,
// over the rows `begin` to `end` of the data.
static void sum_peephole(const Sums* sums, ptrdiff_t r, ptrdiff_t begin, ptrdiff_t end) {
    const ptrdiff_t Hp = panels_of(sums->H, LANES) * LANES, G = 4 * Hp;
    const ptrdiff_t gate = r / LANES % GROUP, cell = r / (GROUP * LANES) * LANES;
    if (gate == 2) return;  // the candidate has none
    const REAL* cells = (const REAL*)(gate == 3 ? sums->cells : sums->cells_before) + cell;
    REAL* to = (REAL*)sums->grad_peephole + (gate == 3 ? 2 : gate) * Hp + cell;
    Vector total = all(0);
    for (ptrdiff_t k = begin; k < end; ++k)
        total += load((const REAL*)sums->grad_a + k * G + r) * load(cells + k * Hp);
    store(to, load(to) + total);
}

// The projection's weight, all of it: d loss / d h^T m.
static void sum_projection(const Sums* sums, void* packed) {
    const ptrdiff_t panels = panels_of(sums->H, LANES), Hp = panels * LANES,
                    Pp = panels_of(sums->P, LANES) * LANES;
    for (ptrdiff_t k = 0; k < sums->count; k += DEPTH) {
        const ptrdiff_t depth = least(DEPTH, sums->count - k);
        pack_columns((Matrix){(REAL*)sums->m + k * Hp, Hp}, depth, Hp, packed);
        const REAL* grad = (const REAL*)sums->grad_projected + k * Pp;
        add_products_transposed(sums->grad_weight_hr, Hp, grad, Pp, packed, depth, sums->P, panels);
    }
}

// What the rows contribute to the gradients of the rows `first` to `last` of W_ih, W_hh and b: d loss / d a^T x and
// d loss / d a^T h_{t-1}.
static void sum_weights(const Sums* sums, ptrdiff_t first, ptrdiff_t last, void* packed) {
    const ptrdiff_t G = 4 * panels_of(sums->H, LANES) * LANES;
    const REAL* grad_a = sums->grad_a;
    REAL* bias = sums->grad_bias;
    if (sums->grad_weight_hr && !first) sum_projection(sums, packed);
    for (ptrdiff_t k = 0; k < sums->count; k += DEPTH) {
        const ptrdiff_t depth = least(DEPTH, sums->count - k);
        for (ptrdiff_t r = first; r < last; r += LANES) {
            Vector total = all(0);
            for (ptrdiff_t j = k; j < k + depth; ++j) total += load(grad_a + j * G + r);
            store(bias + r, load(bias + r) + total);
            if (sums->grad_peephole) sum_peephole(sums, r, k, k + depth);
        }
        const Matrix x = {(REAL*)sums->x.at + k * sums->x.row, sums->x.row};
        const Matrix before = {(REAL*)sums->before + k * sums->P, sums->P};
        for (int which = 0; which < 2; ++which) {
            const ptrdiff_t width = which ? sums->P : sums->I, vectors = panels_of(width, LANES);
            REAL* into = (REAL*)(which ? sums->grad_weight_hh : sums->grad_weight_ih) + first * vectors * LANES;
            pack_columns(which ? before : x, depth, width, packed);
            add_products_transposed(into, vectors * LANES, grad_a + k * G + first, G, packed, depth, last - first,
                                    vectors);
        }
    }
}

// d loss / d x = d loss / d a W_ih of the rows `first` to `last`.
static void sum_input(const Sums* sums, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t G = 4 * panels_of(sums->H, LANES) * LANES, vectors = panels_of(sums->I, LANES);
    REAL* grad_x = (REAL*)sums->grad_x + first * vectors * LANES;
    for (ptrdiff_t k = 0; k < (last - first) * vectors; ++k) store(grad_x + k * LANES, all(0));
    add_products(grad_x, vectors * LANES, (const REAL*)sums->grad_a + first * G, G, sums->weight_ih, G,
                 last - first, 0, vectors);
}
