// One cell of the standard LSTM for one step, and its derivative.
//
// The same equations in the same operations as core/cell.py (lstm_cell_forward, lstm_cell_backward, gates_forward,
// gates_backward), with which the tests compare this file.
#pragma once
#include "numbers.cuh"

struct Gates {
    real i, f, g, o;
};

__device__ __forceinline__ float tanh_of(float x) { return tanhf(x); }
__device__ __forceinline__ double tanh_of(double x) { return tanh(x); }

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }

// Keeps its digits where a gate is almost closed. Where exp(-a) is inf, the gate is 0.
__device__ __forceinline__ real sigmoid(real a) { return (real)1 / ((real)1 + exp_of(-a)); }

// i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o); g = tanh(a_g)
__device__ __forceinline__ Gates gates_forward(Gates a) {
    return {sigmoid(a.i), sigmoid(a.f), tanh_of(a.g), sigmoid(a.o)};
}

// c_t = f c_{t-1} + i g; returns h_t = o tanh(c_t)
__device__ __forceinline__ real cell_forward(Gates gate, real& c) {
    c = gate.f * c + gate.i * gate.g;
    return gate.o * tanh_of(c);
}

// Takes d loss / d h_t and, in grad_c, d loss / d c_t from all that reads c_t but h_t. Returns d loss / d a_t, and
// leaves d loss / d c_{t-1} in grad_c.
__device__ __forceinline__ Gates cell_backward(real grad_h, real& grad_c, Gates gate, real c, real c_before) {
    const real tanh_c = tanh_of(c), one = 1;
    const real grad = grad_c + grad_h * gate.o * (one - tanh_c * tanh_c);
    grad_c = grad * gate.f;
    return {grad * gate.g * gate.i * (one - gate.i), grad * c_before * gate.f * (one - gate.f),
            grad * gate.i * (one - gate.g * gate.g), grad_h * tanh_c * gate.o * (one - gate.o)};
}

// Gates as they are stored: a load does not wait until the values are converted.
struct StoredGates {
    STORED i, f, g, o;
};

// A row of gates, (4H): the blocks i, f, g, o.
__device__ __forceinline__ StoredGates load_stored(const STORED* row, int cell, int H) {
    return {load(row + cell), load(row + H + cell), load(row + 2 * H + cell), load(row + 3 * H + cell)};
}

__device__ __forceinline__ Gates to_gates(StoredGates a) {
    return {to_real(a.i), to_real(a.f), to_real(a.g), to_real(a.o)};
}

__device__ __forceinline__ Gates load_gates(const STORED* row, int cell, int H) {
    return to_gates(load_stored(row, cell, H));
}

__device__ __forceinline__ Gates operator+(Gates a, Gates b) {
    return {a.i + b.i, a.f + b.f, a.g + b.g, a.o + b.o};
}

// b_ih + b_hh; nothing where there are none.
__device__ __forceinline__ Gates load_bias(const STORED* bias_ih, const STORED* bias_hh, int cell, int H) {
    if (!bias_ih) return {0, 0, 0, 0};
    return load_gates(bias_ih, cell, H) + load_gates(bias_hh, cell, H);
}

__device__ __forceinline__ void store_gates(STORED* row, int cell, int H, Gates gate) {
    store_real(row + cell, gate.i);
    store_real(row + H + cell, gate.f);
    store_real(row + 2 * H + cell, gate.g);
    store_real(row + 3 * H + cell, gate.o);
}
