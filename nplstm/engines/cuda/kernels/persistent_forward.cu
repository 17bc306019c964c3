// Forward pass of whole sequences in one launch. The division among blocks is described in persistent.cuh.
//
// Reference: core/time_loop.py (sequence_forward) over core/cell.py (lstm_cell_forward). Axes: N rows of packed data, B
// sequences, H cells, 4H gates in blocks i, f, g, o. The grid is (blocks, directions * tiles).
//
//     a_t = gates_t + b + h_{t-1} W_hh^T (+ h_t of the leader W_ih^T)        h_t, c_t = cell(a_t, c_{t-1})
#define OUTPUTS_PER_CELL 4
#include "persistent.cuh"

struct ForwardDirection {
    const STORED* weight_hh;  // (4H, H)
    const STORED* weight_ih;  // (4H, H)  where there is a leader
    const STORED* bias_ih;    // (4H)     or null
    const STORED* bias_hh;    // (4H)
    STORED* gates;            // (N, 4H)  x W_ih^T where `has_product`; receives i, f, g, o where `cells`
                              //          is there; from row `gates_from` on. Null where neither is.
    STORED* h;                // (B, H)   before and after
    real* c;                  // (B, H)   before and after
    STORED* out;              // (N, H)   rows `out_stride` apart
    real* cells;              // (N, H)   receives c_t, for the way back; or null
    long long out_stride, gates_from;
    Exchange own, leader;      // leader.numbers is null where there is none
    const u32* follower;       // the flags of the direction that this one leads, or null
    int reverse, has_product;  // has_product: `gates` has x W_ih^T
};

struct Forward {
    Shape shape;
    ForwardDirection direction[MAX_DIRECTIONS];
};

struct ForwardState {
    real h[PASSES][CELLS_PER_PASS], c[PASSES][CELLS_PER_PASS];
};

__device__ __forceinline__ void send_h(const Shape& shape, const Exchange& own, int state, int row, int cell,
                                       real h) {
    send(own.numbers + slot(shape, state) + (size_t)row * shape.width + cell, to_sent(h));
}

__device__ __forceinline__ Gates sum_of(const Place& p, const float* sums, int column, int unit) {
    Gates total = {0, 0, 0, 0};
    for (int w = 0; w < adding(p); ++w) {
        const quad part = take((const quad*)(sums + (w * PASS_ROWS + column) * SUM_STRIDE + 4 * unit));
        total = total + Gates{from_bits(part.word[0]), from_bits(part.word[1]), from_bits(part.word[2]),
                              from_bits(part.word[3])};
    }
    return total;
}

// A wait has timed out: write NaN where results were not computed.
__device__ void fill_with_nan(const Shape& shape, const ForwardDirection& direction, const Place& p,
                              ThreadCells mine, int from) {
    report_timeout(shape, from);
    const real nan = not_a_number();
    const int cell = p.first_cell + mine.unit, H = shape.H;
    for (int s = from; s < shape.first + shape.steps; ++s) {
        const Rows rows = rows_of(shape, direction.reverse ? shape.T - 1 - s : s);
        mine.each(p, [&](int, int, int row) {
            if (cell >= H || !rows.has(row)) return;
            store_real(direction.out + (rows.first + row) * direction.out_stride + cell, nan);
            if (!direction.cells) return;
            store_gates(direction.gates + (rows.first - direction.gates_from + row) * 4 * H, cell, H,
                        {nan, nan, nan, nan});
            store(direction.cells + (rows.first + row) * H + cell, nan);
        });
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    persistent_forward(const __grid_constant__ Forward forward) {
    const Shape& shape = forward.shape;
    const ForwardDirection& direction = forward.direction[blockIdx.y / shape.tiles];
    const int H = shape.H;
    const Place p = place_of(blockIdx.y % shape.tiles, H, direction.leader.numbers);
    const ThreadCells mine;
    const int cell = p.first_cell + mine.unit;
    const bool is_cell = cell < H;
    float* sums = (float*)block_memory();

    Weights weights;
    weights.fill(p, block_memory() + SUMS * sizeof(float), [&](int m, int g, int k) {
        // rows of a tile are the four gates of one cell, then those of the next
        const int of = p.first_cell + m / 4, number = (g < p.leader_groups ? g : g - p.leader_groups) * GROUP + k;
        const STORED* weight = g < p.leader_groups ? direction.weight_ih : direction.weight_hh;
        return of < H && number < H ? load_real(weight + (size_t)(m % 4 * H + of) * H + number) : (real)0;
    });
    const Gates bias = is_cell ? load_bias(direction.bias_ih, direction.bias_hh, cell, H) : Gates{0, 0, 0, 0};

    ForwardState state;
    mine.each(p, [&](int pass, int o, int row) {
        const bool real_one = is_cell && row < shape.B;
        state.h[pass][o] = real_one ? load_real(direction.h + (size_t)row * H + cell) : (real)0;
        state.c[pass][o] = real_one ? load(direction.c + (size_t)row * H + cell) : (real)0;
        send_h(shape, direction.own, 0, row, cell, state.h[pass][o]);
    });
    clear_padding(shape, p, direction.own, UNITS);
    __syncthreads();
    announce_state(shape, p, direction.own, 0);

    bool arrived = true;
    for (int s = 0; s < shape.steps && arrived; ++s) {
        const Rows rows = rows_of(shape, direction.reverse ? shape.T - 1 - shape.first - s : shape.first + s);
        const long long first_gates = rows.first - direction.gates_from;
        StoredGates input_gates[PASSES][CELLS_PER_PASS];  // x W_ih^T, loaded before the wait
        mine.each(p, [&](int pass, int o, int row) {
            input_gates[pass][o] = StoredGates{};
            if (direction.has_product && is_cell && rows.has(row))
                input_gates[pass][o] = load_stored(direction.gates + (first_gates + row) * 4 * H, cell, H);
        });
        Gates gate[PASSES][CELLS_PER_PASS];
        arrived = wait_for_step(shape, p, direction.own, direction.leader, direction.follower, UNITS, s);
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            warp_product(p, weights, Numbers(shape, p, direction.own, direction.leader, s, pass), sums);
            arrived = __syncthreads_and(arrived);
            mine.each(p, pass, [&](int pass, int o, int row) {
                if (is_cell && rows.has(row)) {
                    const Gates product = sum_of(p, sums, mine.column_of(o), mine.unit);
                    gate[pass][o] = gates_forward(to_gates(input_gates[pass][o]) + bias + product);
                    state.h[pass][o] = cell_forward(gate[pass][o], state.c[pass][o]);
                }
                // where a wait has timed out, other blocks may still read the slot
                if (arrived) send_h(shape, direction.own, s + 1, row, cell, state.h[pass][o]);
            });
            __syncthreads();
        }
        if (!arrived) {
            fill_with_nan(shape, direction, p, mine, shape.first + s);
            break;
        }
        announce_state(shape, p, direction.own, s + 1);
        mine.each(p, [&](int pass, int o, int row) {  // results that no other block waits for
            if (!is_cell || !rows.has(row)) return;
            store_real(direction.out + (rows.first + row) * direction.out_stride + cell, state.h[pass][o]);
            if (!direction.cells) return;
            store_gates(direction.gates + (first_gates + row) * 4 * H, cell, H, gate[pass][o]);
            store(direction.cells + (rows.first + row) * H + cell, state.c[pass][o]);
        });
    }
    mine.each(p, [&](int pass, int o, int row) {
        if (!is_cell || row >= shape.B) return;
        store_real(direction.h + (size_t)row * H + cell, arrived ? state.h[pass][o] : not_a_number());
        store(direction.c + (size_t)row * H + cell, arrived ? state.c[pass][o] : not_a_number());
    });
}
