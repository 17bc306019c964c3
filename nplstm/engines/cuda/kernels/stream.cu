// One step of one layer of a stream: both products, the gates and the cell in one launch.
//
// Reference: core/cell.py (lstm_cell_forward) on x_t W_ih^T + h_{t-1} W_hh^T + b.
// Axes: B sequences, I input, H cells, 4H gates in blocks i, f, g, o.
//
// The grid is (batches, cells): a warp has one cell for SEQUENCES sequences, and its lanes share the inputs between
// them. All blocks read h, so it has two arrays that alternate: `h` before the step and `h_next` after it.
#include "cell.cuh"

constexpr int SEQUENCES = 4, CELLS = 4;  // of a warp; of a block, one for each of its warps

struct StreamStep {
    const STORED* weight_ih;  // (4H, I)
    const STORED* weight_hh;  // (4H, H)
    const STORED* bias_ih;    // (4H) or null
    const STORED* bias_hh;    // (4H)
    const STORED* x;          // (B, I)
    const STORED* h;          // (B, H)
    STORED* h_next;           // (B, H)
    real* c;                  // (B, H)  before and after
    STORED* y;                // (B, H)  where the stream shows its output; or null
    int B, I, H;
};

// Add to `sum` what K of a sequence's numbers give to the four gates of a cell: each lane takes every 32nd.
__device__ __forceinline__ void add_product(Gates (&sum)[SEQUENCES], const STORED* weight, const STORED* numbers,
                                            int K, int H, int cell, int first, int B) {
    const size_t gate = (size_t)H * K;
    for (int k = threadIdx.x % 32; k < K; k += 32) {
        const STORED* of_cell = weight + (size_t)cell * K + k;
        const Gates w = {load_real(of_cell), load_real(of_cell + gate), load_real(of_cell + 2 * gate),
                         load_real(of_cell + 3 * gate)};
#pragma unroll
        for (int b = 0; b < SEQUENCES; ++b) {
            const real value = first + b < B ? load_real(numbers + (size_t)(first + b) * K + k) : (real)0;
            sum[b] = sum[b] + Gates{w.i * value, w.f * value, w.g * value, w.o * value};
        }
    }
}

__device__ __forceinline__ real over_lanes(real x) {
#pragma unroll
    for (int far = 16; far; far /= 2) x += __shfl_xor_sync(0xffffffffu, x, far);
    return x;
}

extern "C" __global__ void stream_step(const StreamStep step) {
    const int cell = blockIdx.y * CELLS + threadIdx.x / 32, first = blockIdx.x * SEQUENCES;
    if (cell >= step.H) return;  // a whole warp
    Gates sum[SEQUENCES] = {};
    add_product(sum, step.weight_ih, step.x, step.I, step.H, cell, first, step.B);
    add_product(sum, step.weight_hh, step.h, step.H, step.H, cell, first, step.B);
#pragma unroll
    for (int b = 0; b < SEQUENCES; ++b) {
        const Gates a = {over_lanes(sum[b].i), over_lanes(sum[b].f), over_lanes(sum[b].g), over_lanes(sum[b].o)};
        if (threadIdx.x % 32 != b || first + b >= step.B) continue;  // one lane for each sequence
        const Gates bias = load_bias(step.bias_ih, step.bias_hh, cell, step.H);
        const size_t here = (size_t)(first + b) * step.H + cell;
        real c = load(step.c + here);
        const real h = cell_forward(gates_forward(a + bias), c);
        store(step.c + here, c);
        store_real(step.h_next + here, h);
        if (step.y) store_real(step.y + here, h);
    }
}
