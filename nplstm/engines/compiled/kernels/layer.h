// A layer as the caller has it: the work is cut among threads here, and work space is made.
#pragma once
#include "kernels.h"

// Each returns false if there was no memory; nothing is lost by trying again. `threads`: 1 to MOST_THREADS.

// Lanes are the directions of one layer: of the same sizes, over the same steps.
bool run_forward(const Kernels*, const Forward* lanes, int count, const Steps*, int threads);

// The steps `first` to `last` back, in the order of processing.
bool run_backward(const Kernels*, const Backward* lanes, int count, const Steps*, ptrdiff_t first, ptrdiff_t last,
                  int threads);

bool run_sums(const Kernels*, const Sums* lanes, int count, int threads);

void run_step(const Kernels*, const Step*, ptrdiff_t work, int threads);

// A whole stack without recording, over sequences of one length; arrays as the user has them.
typedef struct {
    ptrdiff_t layers, directions, T, B, I, H;
    const bool* reverse;         // (directions,)
    const void* const* weights;  // W_ih, W_hh, b, packed, of each layer and direction
    const void* x;               // (T, B, I)
    const void *h_0, *c_0;       // (layers * directions, B, H)  NULL: zeros
    void* out;                   // (T, B, directions * H)
    void *h_n, *c_n;             // (layers * directions, B, H)
} Stack;

bool run_stack(const Kernels*, const Stack*, int threads);

// Memory that begins where a cache line begins; NULL if there is none.
void* new_room(size_t bytes);
