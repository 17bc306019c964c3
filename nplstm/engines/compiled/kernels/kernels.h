// Argument structures of the kernels, and the table of kernels of one instruction set and element type.
//
// Axes: T steps, N rows, B sequences, I input, H cells, P the width of h. Rows are packed: step t has the rows
// offsets[t] to offsets[t + 1], those of the longest sequences first. Cells stand in panels of LANES, the elements
// of a vector; Hp is H rounded up to whole panels. A row of gates has i, f, g, o of the first panel, then of the
// next: (Hp / LANES, 4, LANES). What is kept of i, f and o for the way back is the smaller of s and 1 - s, with a minus
// sign if it is 1 - s: see functions.h.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    void* at;
    ptrdiff_t row;  // elements from one row to the next
} Matrix;

typedef struct {
    const int64_t* offsets;  // (T + 1,)
    ptrdiff_t count;         // T
    ptrdiff_t batch;         // B
} Steps;

// The part of a layer that one thread computes.
typedef struct {
    ptrdiff_t first, last;              // sequences
    ptrdiff_t first_panel, last_panel;  // of cells
    int member, members;  // of the threads that share these sequences and wait for each other at each step
} Partition;

// Options of the cell beyond the standard LSTM. Coupled gates need nothing here: the forget gate's weights are
// those of the input gate with the other sign, since 1 - sigmoid(a) = sigmoid(-a).
typedef struct {
    const void* peephole;  // (3, Hp)  weights of i, f and o for the cell state, diagonal; NULL: none
    double clip;           // bound of the gates' pre-activations; 0: none
} Variant;

// Forward pass of one layer in one direction.
typedef struct {
    ptrdiff_t I, H, P;
    bool reverse;
    Variant variant;
    Matrix x;                                  // (N, I)
    const void *weight_ih, *weight_hh, *bias;  // packed: pack_forward
    Matrix h_0;                                // (B, P)
    void* c;                                   // (B, Hp)  overwritten step by step
    Matrix out;                                // (N, P)  receives h_t, and is read for h_{t-1}
    void *gates, *cells;                       // (N, 4Hp), (N, Hp)  receive i, f, g, o and c_t; NULL: not kept
    const void* weight_hr;                     // packed: pack_columns of W_hr^T (H, P); NULL: h is as wide as c
    void* projected;                           // (B, Hp + Pp)  work space with a projection
} Forward;

// Backward pass of one layer in one direction.
typedef struct {
    ptrdiff_t I, H, P;
    bool reverse;
    Variant variant;
    Matrix grad_out;        // (N, P)  NULL: zeros
    const void* weight_hh;  // packed: pack_backward
    void *grad_h, *grad_c;  // (B, Pp), (B, Hp)  of the state after the steps; overwritten with that before them
    const void* c_0;        // (B, Hp)
    const void *gates, *cells;
    void* grad_a;           // (rows, 4Hp)  receives the gradients of the pre-activations of the rows from
    ptrdiff_t first_row;    // this one on
    const void* weight_hr;  // packed: pack_columns of W_hr (P, H); NULL: no projection
    void* grad_projected;   // (rows, Pp)  with a projection receives the gradients of h of the same rows
    void* grad_m;           // (B, Hp)  work space with a projection
} Backward;

// Gradients that are sums over the rows of some steps.
typedef struct {
    ptrdiff_t I, H, P, count;               // rows
    const void* grad_a;                     // (count, 4Hp)
    Matrix x;                               // (count, I)
    const void* before;                     // (count, P)  h_{t-1}
    void *grad_weight_ih, *grad_weight_hh;  // (4Hp, Ip), (4Hp, Pp)  added to
    void* grad_bias;                        // (4Hp,)  added to
    const void* weight_ih;                  // packed: pack_backward
    void* grad_x;                           // (count, Ip)
    const void *cells, *cells_before;       // (count, Hp)  c_t and c_{t-1}, for peepholes
    void* grad_peephole;                    // (3, Hp)  added to; NULL: none
    const void *grad_projected, *m;         // (count, Pp), (count, Hp)  m: what was projected
    void* grad_weight_hr;                   // (Pp, Hp)  added to; NULL: none
} Sums;

// One step through a stack of layers, each of which reads the output of the one below.
typedef struct {
    ptrdiff_t layers, batch;
    const int64_t* sizes;  // (1 + 2 layers,)  I, then H and P of each layer; P < H: with a projection
    bool peephole;         // whether three rows (Hp,) follow each layer's b
    double clip;
    const void* x;                 // (B, I)
    const void *weights, *biases;  // packed, of one layer after the other: W_ih, W_hh, W_hr; b, peepholes
    const void* h_before;          // (B, P) of one layer after the other
    void* h;                       // the same, after the step
    void* c;                       // (B, Hp) of one layer after the other; overwritten
    void* gates;                   // (B, 6 * the largest Hp)  work space
} Step;

struct Barrier;

typedef struct {
    const char* name;
    int bits;         // of an element
    ptrdiff_t lanes;  // of a vector
    void (*forward)(const Forward* directions, int count, const Steps*, ptrdiff_t first, ptrdiff_t last,
                    ptrdiff_t block, const Partition*, void* const* workspaces, struct Barrier*);
    void (*backward)(const Backward* directions, int count, const Steps*, ptrdiff_t first, ptrdiff_t last,
                     const Partition*, struct Barrier*);
    void (*previous)(Matrix values, Matrix initial, ptrdiff_t width, bool reverse, const Steps*, ptrdiff_t first,
                     ptrdiff_t last, void* into);
    void (*outputs)(const void* gates, const void* cells, ptrdiff_t rows, ptrdiff_t H, void* into);
    void (*sum_weights)(const Sums*, ptrdiff_t first, ptrdiff_t last, void* packed);  // rows of the weights
    void (*sum_input)(const Sums*, ptrdiff_t first, ptrdiff_t last);                  // rows of x
    void (*step)(const Step*, const Partition*, struct Barrier*);  // the panels of a partition in 64ths
    void (*pack_forward)(Matrix weight, ptrdiff_t H, ptrdiff_t K, void* packed);
    void (*pack_backward)(Matrix weight, ptrdiff_t H, ptrdiff_t K, void* packed);
    void (*pack_columns)(Matrix values, ptrdiff_t K, ptrdiff_t width, void* packed);
    void (*functions)(bool tanh, const void* a, void* y, ptrdiff_t count);  // for tests
} Kernels;

enum {
    GROUP = 4,        // vectors of a group of packed columns: the four gates of a panel, or up to four panels
    TILE_ROWS = 6,    // rows of a product whose sums stay in registers
    DEPTH = 256,      // of k in a product that are summed before they are added to its result
    STEP_PARTS = 64,  // units of a partition of a step: layers may have different numbers of panels
};

static inline ptrdiff_t panels_of(ptrdiff_t width, ptrdiff_t lanes) { return (width + lanes - 1) / lanes; }

// A width rounded up to whole panels.
static inline ptrdiff_t padded_width(const Kernels* kernels, ptrdiff_t width) {
    return panels_of(width, kernels->lanes) * kernels->lanes;
}

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

static inline ptrdiff_t most(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
