// Matrix products of a few rows with packed weights: nearly all the time of an LSTM is spent here.
//
//     c[r, v] += sum over k < K of a[r, k] * w[k, v]
//
// v counts columns in vectors. The sums of a tile stay in registers while k runs. Weights are packed once for many
// steps, in groups of up to GROUP vectors: (K, GROUP, LANES). A tile has up to TILE_ROWS rows and TILE_VECTORS
// vectors: with 32 registers 6 x 4, with 16 of them 6 x 2, so that the sums, the weights and a number of `a` fit.
//
// Sums begin at zero for each DEPTH of k and are added to c at its end: the group's weights of that depth stay in
// the nearest cache while all rows use them, and a sum over very many k keeps its digits. The order of each sum
// depends on K alone, not on how many rows there are.
#pragma once
#include "kernels.h"
#include "vector.h"

typedef struct {
    const REAL* at;
    ptrdiff_t row;  // from one r to the next
    ptrdiff_t k;    // from one k to the next
} Rows;

INLINE void tile(REAL* c, ptrdiff_t c_row, Rows a, const REAL* w, ptrdiff_t w_k, ptrdiff_t K, int rows,
                 int vectors) {
    Vector sums[TILE_ROWS][GROUP];
    UNROLLED for (int r = 0; r < rows; ++r) UNROLLED for (int v = 0; v < vectors; ++v) sums[r][v] = all(0);
    const REAL* row[TILE_ROWS];
    UNROLLED for (int r = 0; r < rows; ++r) row[r] = a.at + r * a.row;
    for (ptrdiff_t k = 0; k < K; ++k, w += w_k) {
        Vector weights[GROUP];
        UNROLLED for (int v = 0; v < vectors; ++v) weights[v] = load(w + v * LANES);
        UNROLLED for (int r = 0; r < rows; ++r) {
            Vector number = all(row[r][k * a.k]);
            UNROLLED for (int v = 0; v < vectors; ++v) sums[r][v] += number * weights[v];
        }
    }
    UNROLLED for (int r = 0; r < rows; ++r) UNROLLED for (int v = 0; v < vectors; ++v) {
        REAL* to = c + r * c_row + v * LANES;
        store(to, load(to) + sums[r][v]);
    }
}

// One row alone: even and odd k have sums of their own, so that no addition waits for the one before.
static void add_product_of_one_row(REAL* c, const REAL* a, const REAL* w, ptrdiff_t K) {
    Vector even[GROUP], odd[GROUP];
    UNROLLED for (int v = 0; v < GROUP; ++v) even[v] = load(c + v * LANES), odd[v] = all(0);
    ptrdiff_t k = 0;
    for (; k + 1 < K; k += 2, w += 2 * GROUP * LANES) {
        Vector first = all(a[k]), second = all(a[k + 1]);
        UNROLLED for (int v = 0; v < GROUP; ++v) even[v] += first * load(w + v * LANES);
        UNROLLED for (int v = 0; v < GROUP; ++v) odd[v] += second * load(w + (GROUP + v) * LANES);
    }
    if (k < K) UNROLLED for (int v = 0; v < GROUP; ++v) even[v] += a[k] * load(w + v * LANES);
    UNROLLED for (int v = 0; v < GROUP; ++v) store(c + v * LANES, even[v] + odd[v]);
}

// All rows with some vectors of a group, in tiles of nearly equal height.
INLINE void in_tiles(REAL* c, ptrdiff_t c_row, Rows a, const REAL* w, ptrdiff_t w_k, ptrdiff_t K, ptrdiff_t rows,
                     int vectors) {
    while (rows > 0) {
        ptrdiff_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, n = (rows + tiles - 1) / tiles;
        switch (n) {
        case 1: tile(c, c_row, a, w, w_k, K, 1, vectors); break;
        case 2: tile(c, c_row, a, w, w_k, K, 2, vectors); break;
        case 3: tile(c, c_row, a, w, w_k, K, 3, vectors); break;
        case 4: tile(c, c_row, a, w, w_k, K, 4, vectors); break;
        case 5: tile(c, c_row, a, w, w_k, K, 5, vectors); break;
        default: tile(c, c_row, a, w, w_k, K, 6, vectors);
        }
        rows -= n, c += n * c_row, a.at += n * a.row;
    }
}

// A group of `vectors` vectors, of which all are taken at once where the rows are few.
INLINE void of_group(REAL* c, ptrdiff_t c_row, Rows a, const REAL* w, ptrdiff_t K, ptrdiff_t rows, int vectors) {
    for (ptrdiff_t first = 0; first < K; first += DEPTH) {
        const ptrdiff_t depth = least(DEPTH, K - first);
        Rows part = {a.at + first * a.k, a.row, a.k};
        const REAL* weights = w + first * vectors * LANES;
        if (TILE_VECTORS < GROUP && vectors == GROUP && rows <= 2) {
            if (rows == 1) tile(c, c_row, part, weights, GROUP * LANES, depth, 1, GROUP);
            if (rows == 2) tile(c, c_row, part, weights, GROUP * LANES, depth, 2, GROUP);
            continue;
        }
        UNROLLED for (int v = 0; v < vectors; v += TILE_VECTORS) {
            int some = vectors - v < TILE_VECTORS ? vectors - v : TILE_VECTORS;
            in_tiles(c + v * LANES, c_row, part, weights + v * LANES, vectors * LANES, depth, rows, some);
        }
    }
}

// c (rows, GROUP vectors) += a (rows, K) w (K, GROUP vectors)
static void add_product(REAL* c, ptrdiff_t c_row, const REAL* a, ptrdiff_t a_row, const REAL* w, ptrdiff_t K,
                        ptrdiff_t rows) {
    of_group(c, c_row, (Rows){a, a_row, 1}, w, K, rows, GROUP);
}

// The groups of a packed matrix have GROUP vectors, and at its end 2 or 1.
INLINE int vectors_of_group(ptrdiff_t left) { return left >= GROUP ? GROUP : left >= 2 ? 2 : 1; }

INLINE void of_groups(REAL* c, ptrdiff_t c_row, Rows a, const REAL* w, ptrdiff_t K, ptrdiff_t rows,
                      ptrdiff_t first, ptrdiff_t last) {
    for (ptrdiff_t v = first; v < last;) {
        int n = vectors_of_group(last - v);
        REAL* to = c + v * LANES;
        const REAL* weights = w + v * K * LANES;
        if (n == GROUP)
            of_group(to, c_row, a, weights, K, rows, GROUP);
        else if (n == 2)
            of_group(to, c_row, a, weights, K, rows, 2);
        else
            of_group(to, c_row, a, weights, K, rows, 1);
        v += n;
    }
}

// c (rows, vectors `first` to `last`) += a (rows, K) w
static void add_products(REAL* c, ptrdiff_t c_row, const REAL* a, ptrdiff_t a_row, const REAL* w, ptrdiff_t K,
                         ptrdiff_t rows, ptrdiff_t first, ptrdiff_t last) {
    of_groups(c, c_row, (Rows){a, a_row, 1}, w, K, rows, first, last);
}

// The same with the transpose of a (K, rows), whose rows are `a_k` apart.
static void add_products_transposed(REAL* c, ptrdiff_t c_row, const REAL* a, ptrdiff_t a_k, const REAL* w,
                                    ptrdiff_t K, ptrdiff_t rows, ptrdiff_t vectors) {
    of_groups(c, c_row, (Rows){a, 1, a_k}, w, K, rows, 0, vectors);
}
