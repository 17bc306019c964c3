// Forward and backward pass of a stack of layers, each of which reads the whole output of the one below.
//
// Axes as in kernels.h; L layers of D directions. A single layer is a stack of one.
#pragma once
#include "layer.h"

// Packed parameters of one layer in one direction. For the way forward: pack_forward, and pack_columns of W_hr^T; for
// the way back: pack_backward, and pack_columns of W_hr.
typedef struct {
    const void *weight_ih, *weight_hh;
    const void* bias;       // (4Hp,)  NULL for the way back
    const void* peephole;   // (3, Hp)  NULL: none
    const void* weight_hr;  // NULL: no projection
} Parameters;

typedef struct {
    ptrdiff_t layers, directions, I, H, P;  // a layer above the first reads directions * P numbers
    double clip;                            // 0: none
    const Parameters* parameters;           // by layer, then by direction
} Stack;

// What both passes read or write; arrays of each direction are of those of the first or the last layer.
typedef struct {
    Steps steps;
    bool reverse[2];
    Matrix x[2], out[2];     // (N, I), (N, P)
    const void *h_0, *c_0;   // (L, D, B, P), (L, D, B, H)
    void* kept;              // kept_size numbers for the way back; NULL: nothing is kept
    bool (*goes_on)(void*);  // asked between layers, and on the way back between blocks of steps; NULL: never
    void* asked;             // its argument
} Pass;

enum { GRADIENTS = 6 };  // of the parameters of a layer and direction

// Gradients of the states are those of the final ones, overwritten with those of the initial ones. `grads` has by layer
// and direction GRADIENTS arrays in torch's order: W_ih (4H, I), W_hh (4H, P), b_ih and b_hh (4H,), peepholes (3, H),
// W_hr (P, H); NULL: there is no such parameter.
typedef struct {
    Matrix grad_out[2];     // (N, P)  NULL: zeros
    void *grad_h, *grad_c;  // (L, D, B, P), (L, D, B, H)
    void* grad_x[2];        // (N, Ip)
    void* const* grads;
} PassGradients;

// Numbers that a pass over so many rows keeps: by layer and direction, i, f, g, o (N, 4Hp) and c_t (N, Hp); then the
// outputs (N, D * P) of all layers but the last.
ptrdiff_t kept_size(const Kernels*, const Stack*, ptrdiff_t rows);

// Each returns false if there was no memory, or if goes_on returned false; then arrays that it writes may be partly
// written. `threads`: 1 to MAX_THREADS.

bool stack_forward(const Kernels*, const Stack*, const Pass*, void* h_n, void* c_n, int threads);

bool stack_backward(const Kernels*, const Stack*, const Pass*, const PassGradients*, int threads);
