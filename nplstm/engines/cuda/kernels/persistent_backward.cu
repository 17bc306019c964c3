// Backward pass of whole sequences in one launch. The division among blocks is described in persistent.cuh.
//
// Reference: core/time_loop.py (sequence_backward) over core/cell.py (lstm_cell_backward).
// Axes as in persistent_forward.cu. "Steps" are those of the backward pass, from each sequence's end; what is sent is
// d loss / d a of a step, its 4H numbers in the order of cells, the four gates of one side by side.
//
//     grad_h_t = grad_out_t + grad_a_{t+1} W_hh (+ grad_a_t of the leader, the layer above, times its W_ih)
//     grad_a_t, grad_c_{t-1} = cell_backward(grad_h_t, grad_c_t)
#define OUTPUTS_PER_CELL 1
#include "persistent.cuh"

struct BackwardDirection {
    const STORED* weight_hh;  // (4H, H)
    const STORED* weight_ih;  // (4H, H)  the leader's, or null
    const STORED* grad_out;   // (N, H)   rows `grad_stride` apart; or null
    const STORED* gates;      // (N, 4H)
    const real* cells;        // (N, H)
    const STORED* c_0;        // (B, H)
    STORED* grad_a;           // (N, 4H)  receives d loss / d a_t, from row `grad_a_from` on
    STORED* grad_h;           // (B, H)   of the state after the steps, then of that before them
    real* grad_c;             // (B, H)
    long long grad_stride, grad_a_from;
    Exchange own, leader;
    const u32* follower;
    int reverse;  // the forward pass ran from the last step to the first
};

struct Backward {
    Shape shape;
    BackwardDirection direction[MAX_DIRECTIONS];
};

struct BackwardState {
    real grad_h[PASSES][CELLS_PER_PASS];  // of sequences that the steps have not reached, or have left
    real grad_c[PASSES][CELLS_PER_PASS];
    bool began[PASSES][CELLS_PER_PASS];  // whether the last step was one of this sequence's
};

struct Recorded {  // what a step needs of the forward pass
    Gates gate;
    real c, before, grad_out;
};

__device__ __forceinline__ void send_gates(const Shape& shape, const Exchange& own, int state, int row, int cell,
                                           Gates grad) {
    sent* place = own.numbers + slot(shape, state) + (size_t)row * shape.width + 4 * cell;
#if HALF_WORDS
    send((pair*)place,
         pair{{word_of(to_sent(grad.i), to_sent(grad.f)), word_of(to_sent(grad.g), to_sent(grad.o))}});
#else
    send((quad*)place, quad{{to_sent(grad.i), to_sent(grad.f), to_sent(grad.g), to_sent(grad.o)}});
#endif
}

__device__ __forceinline__ real sum_of(const Place& p, const float* sums, int column, int unit) {
    real total = 0;
    for (int w = 0; w < adding(p); ++w) total += take(sums + (w * PASS_ROWS + column) * SUM_STRIDE + unit);
    return total;
}

__device__ __forceinline__ Recorded recorded(const BackwardDirection& direction, int H, int row, int cell,
                                             Rows rows, Rows earlier) {
    const long long here = rows.first + row;
    Recorded r;
    r.gate = load_gates(direction.gates + here * 4 * H, cell, H);
    r.c = load(direction.cells + here * H + cell);
    r.before = earlier.has(row) ? load(direction.cells + (earlier.first + row) * H + cell)
                                : load_real(direction.c_0 + (size_t)row * H + cell);
    r.grad_out = direction.grad_out ? load_real(direction.grad_out + here * direction.grad_stride + cell)
                                    : (real)0;
    return r;
}

// A wait has timed out: write NaN where results were not computed.
__device__ void fill_with_nan(const Shape& shape, const BackwardDirection& direction, const Place& p,
                              ThreadCells mine, int from) {
    report_timeout(shape, from);
    const real nan = not_a_number();
    const int cell = p.first_cell + mine.unit;
    for (int s = from; s < shape.first + shape.steps; ++s) {
        const Rows rows = rows_of(shape, direction.reverse ? s : shape.T - 1 - s);
        mine.each(p, [&](int, int, int row) {
            if (cell < shape.H && rows.has(row))
                store_gates(direction.grad_a + (rows.first - direction.grad_a_from + row) * 4 * shape.H, cell,
                            shape.H, Gates{nan, nan, nan, nan});
        });
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    persistent_backward(const __grid_constant__ Backward backward) {
    const Shape& shape = backward.shape;
    const BackwardDirection& direction = backward.direction[blockIdx.y / shape.tiles];
    const int H = shape.H;
    const Place p = place_of(blockIdx.y % shape.tiles, 4 * H, direction.leader.numbers);
    const ThreadCells mine;
    const int cell = p.first_cell + mine.unit;
    const bool is_cell = cell < H;
    float* sums = (float*)block_memory();

    Weights weights;
    weights.fill(p, block_memory() + SUMS * sizeof(float), [&](int m, int g, int k) {
        const int of = p.first_cell + m, number = (g < p.leader_groups ? g : g - p.leader_groups) * GROUP + k;
        const STORED* weight = g < p.leader_groups ? direction.weight_ih : direction.weight_hh;
        return of < H && number < 4 * H ? load_real(weight + (size_t)(number % 4 * H + number / 4) * H + of)
                                        : (real)0;
    });

    BackwardState state;
    mine.each(p, [&](int pass, int o, int row) {
        const bool real_one = is_cell && row < shape.B;
        state.grad_h[pass][o] = real_one ? load_real(direction.grad_h + (size_t)row * H + cell) : (real)0;
        state.grad_c[pass][o] = real_one ? load(direction.grad_c + (size_t)row * H + cell) : (real)0;
        state.began[pass][o] = false;
        send_gates(shape, direction.own, 0, row, cell, Gates{0, 0, 0, 0});
    });
    clear_padding(shape, p, direction.own, 4 * UNITS);
    __syncthreads();
    announce_state(shape, p, direction.own, 0);

    // one step more: the numbers sent by the last step give the gradient of the state before it
    bool arrived = true;
    for (int s = 0; s <= shape.steps && arrived; ++s) {
        const bool more = s < shape.steps;
        const int t = direction.reverse ? shape.first + s : shape.T - 1 - shape.first - s;
        const Rows rows = more ? rows_of(shape, t) : Rows{0, 0};
        const Rows earlier = rows_of(shape, direction.reverse ? t + 1 : t - 1);
        Recorded kept[PASSES][CELLS_PER_PASS];
        mine.each(p, [&](int pass, int o, int row) {  // loaded before the wait
            if (is_cell && rows.has(row)) kept[pass][o] = recorded(direction, H, row, cell, rows, earlier);
        });
        arrived = wait_for_step(shape, p, direction.own, direction.leader, direction.follower, 4 * UNITS, s);
        Gates grad_a[PASSES][CELLS_PER_PASS];
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            warp_product(p, weights, Numbers(shape, p, direction.own, direction.leader, s, pass), sums);
            arrived = __syncthreads_and(arrived);
            mine.each(p, pass, [&](int pass, int o, int row) {
                real grad_h = sum_of(p, sums, mine.column_of(o), mine.unit);
                if (!state.began[pass][o]) grad_h += state.grad_h[pass][o];
                state.grad_h[pass][o] = grad_h;
                state.began[pass][o] = is_cell && rows.has(row);
                grad_a[pass][o] = Gates{0, 0, 0, 0};
                if (state.began[pass][o]) {
                    const Recorded& r = kept[pass][o];
                    grad_a[pass][o] = cell_backward(grad_h + r.grad_out, state.grad_c[pass][o], r.gate, r.c,
                                                    r.before);
                }
                // where a wait has timed out, other blocks may still read the slot
                if (more && arrived) send_gates(shape, direction.own, s + 1, row, cell, grad_a[pass][o]);
            });
            __syncthreads();
        }
        if (!arrived) {
            fill_with_nan(shape, direction, p, mine, shape.first + s);
            break;
        }
        if (!more) break;
        announce_state(shape, p, direction.own, s + 1);
        mine.each(p, [&](int pass, int o, int row) {  // results that no other block waits for
            if (state.began[pass][o])
                store_gates(direction.grad_a + (rows.first - direction.grad_a_from + row) * 4 * H, cell, H,
                            grad_a[pass][o]);
        });
    }
    mine.each(p, [&](int pass, int o, int row) {
        if (!is_cell || row >= shape.B) return;
        store_real(direction.grad_h + (size_t)row * H + cell, arrived ? state.grad_h[pass][o] : not_a_number());
        store(direction.grad_c + (size_t)row * H + cell, arrived ? state.grad_c[pass][o] : not_a_number());
    });
}
