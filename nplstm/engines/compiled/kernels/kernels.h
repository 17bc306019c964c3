// What the kernels are given, and the table of them that each instruction set and element type has.
//
// Axes: T steps, N rows, B sequences, I input, H cells, P the width of h. Rows are packed: step t has the rows
// offsets[t] to offsets[t + 1], those of the longest sequences first. Cells stand in panels of LANES, the elements
// of a vector; Hp is H rounded up to whole panels. A row of gates has i, f, g, o of the first panel, then of the
// next: (Hp / LANES, 4, LANES).
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    void *at;
    ptrdiff_t row;  // elements from one row to the next
} Matrix;

typedef struct {
    const int64_t *offsets;  // (T + 1,)
    ptrdiff_t count;         // T
    ptrdiff_t batch;         // B
} Steps;

// What one thread does of a layer.
typedef struct {
    ptrdiff_t first, last;              // sequences
    ptrdiff_t first_panel, last_panel;  // of cells
    int member, members;                // of the threads that have the same sequences and meet after each step
} Share;

// One layer in one direction on its way forward.
typedef struct {
    ptrdiff_t I, H, P;
    bool reverse;
    Matrix x;                                    // (N, I)
    const void *weight_ih, *weight_hh, *bias;    // packed: pack_forward
    Matrix h_0;                                  // (B, P)
    void *c;                                     // (B, Hp)  overwritten step by step
    Matrix out;                                  // (N, P)  receives h_t, and is read for h_{t-1}
    void *gates, *cells;                         // (N, 4Hp), (N, Hp)  receive i, f, g, o and c_t; NULL: not kept
} Forward;

// The same on its way back.
typedef struct {
    ptrdiff_t I, H, P;
    bool reverse;
    Matrix grad_out;         // (N, P)  NULL: zeros
    const void *weight_hh;   // packed: pack_backward
    void *grad_h, *grad_c;   // (B, Pp), (B, Hp)  of the state after the steps; overwritten with that before them
    const void *c_0;         // (B, Hp)
    const void *gates, *cells;
    void *grad_a;            // (rows, 4Hp)  receives the gradients of the pre-activations of the rows from
    ptrdiff_t first_row;     // this one on
} Backward;

// What is summed over the rows of some steps.
typedef struct {
    ptrdiff_t I, H, P, count;                     // rows
    const void *grad_a;                           // (count, 4Hp)
    Matrix x;                                     // (count, I)
    const void *before;                           // (count, P)  h_{t-1}
    void *grad_weight_ih, *grad_weight_hh;        // (4Hp, Ip), (4Hp, Pp)  added to
    void *grad_bias;                              // (4Hp,)  added to
    const void *weight_ih;                        // packed: pack_backward
    void *grad_x;                                 // (count, Ip)
} Sums;

// One step through a stack of layers, each of which reads the output of the one below.
typedef struct {
    ptrdiff_t layers, batch;
    const int64_t *sizes;           // (1 + layers,)  I, and H of each layer
    const void *x;                  // (B, I)
    const void *weights, *biases;   // packed, of one layer after the other: W_ih, W_hh; b
    const void *h_before;           // (B, H) of one layer after the other
    void *h;                        // the same, after the step
    void *c;                        // (B, Hp) of one layer after the other; overwritten
    void *gates;                    // (B, 4 * the largest Hp)  work space
} Step;

struct Meeting;

typedef struct {
    const char *name;
    int bits;            // of an element
    ptrdiff_t lanes;     // of a vector
    void (*forward)(
        const Forward *lanes, int count, const Steps *, ptrdiff_t first, ptrdiff_t last, ptrdiff_t block,
        const Share *, void *const *rooms, struct Meeting *
    );
    void (*backward)(
        const Backward *lanes, int count, const Steps *, ptrdiff_t first, ptrdiff_t last, const Share *,
        struct Meeting *
    );
    void (*previous)(const Forward *, const Steps *, ptrdiff_t first, ptrdiff_t last, void *into);
    void (*sum_weights)(const Sums *, ptrdiff_t first, ptrdiff_t last, void *packed);  // rows of the weights
    void (*sum_input)(const Sums *, ptrdiff_t first, ptrdiff_t last);                  // rows of x
    void (*step)(const Step *, const Share *, struct Meeting *);  // the panels of a share in 64ths
    void (*pack_forward)(Matrix weight, ptrdiff_t H, ptrdiff_t K, void *packed);
    void (*pack_backward)(Matrix weight, ptrdiff_t H, ptrdiff_t K, void *packed);
    ptrdiff_t (*functions)(int which, const void *a, void *y, ptrdiff_t count);  // for tests
} Kernels;

enum { STEP_PARTS = 64, PACK_DEPTH = 256 };

static inline ptrdiff_t panels_of(ptrdiff_t width, ptrdiff_t lanes) { return (width + lanes - 1) / lanes; }

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

static inline ptrdiff_t most(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
