// One layer, or one step of a stream: divides the work among threads and allocates workspaces.
#pragma once
#include "kernels.h"

// Each returns false if there was no memory; nothing is lost by trying again. `threads`: 1 to MAX_THREADS.

// Forward pass of the directions of one layer, which have the same sizes and steps.
bool run_forward(const Kernels*, const Forward* directions, int count, const Steps*, int threads);

// Backward pass of the steps `first` to `last`, counted in the order of processing of the forward pass.
bool run_backward(const Kernels*, const Backward* directions, int count, const Steps*, ptrdiff_t first,
                  ptrdiff_t last, int threads);

bool run_sums(const Kernels*, const Sums* directions, int count, int threads);

void run_step(const Kernels*, const Step*, ptrdiff_t work, int threads);

// Memory aligned to a cache line; NULL if there is none.
void* new_workspace(size_t bytes);
