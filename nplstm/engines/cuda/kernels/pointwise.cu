// One step of the time loop between two matrix products: a thread has one cell of one sequence.
//
// Reference: core/cell.py (lstm_cell_forward, lstm_cell_backward).
// Axes: n sequences of a step, B of the batch, H cells; 4H gates in blocks i, f, g, o.
#include "cell.cuh"

struct ForwardStep {
    const STORED* product;  // (n, 4H)  h_{t-1} W_hh^T
    STORED* gates;          // (n, 4H)  x_t W_ih^T; receives i, f, g, o where `cells` is there
    const STORED* bias_ih;  // (4H)     or null
    const STORED* bias_hh;  // (4H)
    STORED* h;              // (B, H)   receives h_t
    real* c;                // (B, H)   c_{t-1}, receives c_t
    STORED* out;            // (n, H)   rows `out_stride` apart; receives h_t
    real* cells;            // (n, H)   receives c_t, for the way back; or null
    long long out_stride;
    int n, H;
};

extern "C" __global__ void forward_step(const ForwardStep step) {
    const int H = step.H;
    const long long here = blockIdx.x * (long long)blockDim.x + threadIdx.x, row = here / H;
    const int cell = (int)(here - row * H);
    if (row >= step.n) return;
    STORED* gates = step.gates + row * 4 * H;
    const Gates bias = load_bias(step.bias_ih, step.bias_hh, cell, H);
    const Gates product = load_gates(step.product + row * 4 * H, cell, H);
    const Gates gate = gates_forward(load_gates(gates, cell, H) + product + bias);
    real c = load(step.c + here);
    const real h = cell_forward(gate, c);
    store(step.c + here, c);
    store_real(step.h + here, h);
    store_real(step.out + row * step.out_stride + cell, h);
    if (!step.cells) return;
    store_gates(gates, cell, H, gate);
    store(step.cells + here, c);
}

struct BackwardStep {
    const STORED* grad_out;  // (n, H)   d loss / d h_t without the part of step t + 1; or null
    const STORED* grad_h;    // (B, H)   that part, or d loss / d h_n
    real* grad_c;            // (B, H)   d loss / d c_t from step t + 1 or the end; receives d loss / d c_{t-1}
    const STORED* gates;     // (n, 4H)
    const real* cells;       // (n, H)   c_t
    const real* before;      // (.., H)  c_{t-1} of the sequences before `began`
    const STORED* c_0;       // (B, H)   c_{t-1} of those from there on, which begin here
    STORED* grad_a;          // (n, 4H)  receives d loss / d a_t
    long long grad_stride;   // between the rows of grad_out
    int began, n, H;
};

extern "C" __global__ void backward_step(const BackwardStep step) {
    const int H = step.H;
    const long long here = blockIdx.x * (long long)blockDim.x + threadIdx.x, row = here / H;
    const int cell = (int)(here - row * H);
    if (row >= step.n) return;
    real grad_h = load_real(step.grad_h + here);
    if (step.grad_out) grad_h += load_real(step.grad_out + row * step.grad_stride + cell);
    const real before = row < step.began ? load(step.before + here) : load_real(step.c_0 + here);
    real grad_c = load(step.grad_c + here);
    const Gates gate = load_gates(step.gates + row * 4 * H, cell, H);
    const Gates grad_a = cell_backward(grad_h, grad_c, gate, load(step.cells + here), before);
    store(step.grad_c + here, grad_c);
    store_gates(step.grad_a + row * 4 * H, cell, H, grad_a);
}
