// The forward pass of whole sequences in one launch. How blocks share the work is in persistent.cuh.
//
// Reference: sequence.py (sequence_forward) over cells/lstm.py (lstm_cell_forward). Axes: N rows of packed data, B
// sequences, H cells, 4H gates in blocks i, f, g, o. The grid is (blocks, lanes * tiles).
//
//     a_t = gates_t + b + h_{t-1} W_hh^T (+ h_t of the leader W_ih^T)        h_t, c_t = cell(a_t, c_{t-1})
#define OUTPUTS_PER_CELL 4
#include "persistent.cuh"

struct ForwardLane {
    const STORED* weight_hh;  // (4H, H)
    const STORED* weight_ih;  // (4H, H)  where there is a leader
    const STORED* bias_ih;    // (4H)     or null
    const STORED* bias_hh;    // (4H)
    STORED* gates;  // (N, 4H)  the input's share, but of what a leader gives; receives i, f, g, o where `cells`
                    //          is there; from row `gates_from` on. Null where neither is.
    STORED* h;      // (B, H)   before and after
    real* c;        // (B, H)   before and after
    STORED* out;    // (N, H)   rows `out_stride` apart
    real* cells;    // (N, H)   receives c_t, for the way back; or null
    long long out_stride, gates_from;
    Board own, leader;    // leader.numbers is null where there is none
    const u32* follower;  // the flags of the lane that this one leads, or null
    int reverse, given;   // given: `gates` has the input's share
};

struct Forward {
    Shape shape;
    ForwardLane lane[MAX_LANES];
};

struct ForwardState {
    real h[PASSES][OWN], c[PASSES][OWN];
};

__device__ __forceinline__ void send_h(const Shape& shape, const Board& own, int state, int row, int cell,
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

// A wait was given up: what was not computed must not look like numbers.
__device__ void spoil(const Shape& shape, const ForwardLane& lane, const Place& p, Own own, int from) {
    give_up(shape, from);
    const real nan = not_a_number();
    const int cell = p.first_cell + own.unit, H = shape.H;
    for (int s = from; s < shape.first + shape.steps; ++s) {
        const Rows rows = rows_of(shape, lane.reverse ? shape.T - 1 - s : s);
        own.each(p, [&](int, int, int row) {
            if (cell >= H || !rows.has(row)) return;
            store_real(lane.out + (rows.first + row) * lane.out_stride + cell, nan);
            if (!lane.cells) return;
            store_gates(lane.gates + (rows.first - lane.gates_from + row) * 4 * H, cell, H, {nan, nan, nan, nan});
            store(lane.cells + (rows.first + row) * H + cell, nan);
        });
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    persistent_forward(const __grid_constant__ Forward forward) {
    const Shape& shape = forward.shape;
    const ForwardLane& lane = forward.lane[blockIdx.y / shape.tiles];
    const int H = shape.H;
    const Place p = place_of(blockIdx.y % shape.tiles, H, lane.leader.numbers);
    const Own own;
    const int cell = p.first_cell + own.unit;
    const bool is_cell = cell < H;
    float* sums = (float*)block_memory();

    Weights weights;
    weights.fill(p, block_memory() + SUMS * sizeof(float), [&](int m, int g, int k) {
        // rows of a tile are the four gates of one cell, then those of the next
        const int of = p.first_cell + m / 4, number = (g < p.led ? g : g - p.led) * GROUP + k;
        const STORED* weight = g < p.led ? lane.weight_ih : lane.weight_hh;
        return of < H && number < H ? load_real(weight + (size_t)(m % 4 * H + of) * H + number) : (real)0;
    });
    const Gates bias = is_cell ? load_bias(lane.bias_ih, lane.bias_hh, cell, H) : Gates{0, 0, 0, 0};

    ForwardState state;
    own.each(p, [&](int pass, int o, int row) {
        const bool real_one = is_cell && row < shape.B;
        state.h[pass][o] = real_one ? load_real(lane.h + (size_t)row * H + cell) : (real)0;
        state.c[pass][o] = real_one ? load(lane.c + (size_t)row * H + cell) : (real)0;
        send_h(shape, lane.own, 0, row, cell, state.h[pass][o]);
    });
    clear_padding(shape, p, lane.own, UNITS);
    __syncthreads();
    announce_state(shape, p, lane.own, 0);

    bool came = true;
    for (int s = 0; s < shape.steps && came; ++s) {
        const Rows rows = rows_of(shape, lane.reverse ? shape.T - 1 - shape.first - s : shape.first + s);
        const long long first_gates = rows.first - lane.gates_from;
        StoredGates given[PASSES][OWN];  // the input's share, asked for ahead of the wait
        own.each(p, [&](int pass, int o, int row) {
            given[pass][o] = StoredGates{};
            if (lane.given && is_cell && rows.has(row))
                given[pass][o] = load_stored(lane.gates + (first_gates + row) * 4 * H, cell, H);
        });
        Gates gate[PASSES][OWN];
        came = wait_for_step(shape, p, lane.own, lane.leader, lane.follower, UNITS, s);
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            warp_product(p, weights, Numbers(shape, p, lane.own, lane.leader, s, pass), sums);
            came = __syncthreads_and(came);
            own.each(p, pass, [&](int pass, int o, int row) {
                if (is_cell && rows.has(row)) {
                    const Gates product = sum_of(p, sums, own.column_of(o), own.unit);
                    gate[pass][o] = gates_forward(to_gates(given[pass][o]) + bias + product);
                    state.h[pass][o] = cell_forward(gate[pass][o], state.c[pass][o]);
                }
                // where a wait was given up, others may still read what stands there
                if (came) send_h(shape, lane.own, s + 1, row, cell, state.h[pass][o]);
            });
            __syncthreads();
        }
        if (!came) {
            spoil(shape, lane, p, own, shape.first + s);
            break;
        }
        announce_state(shape, p, lane.own, s + 1);
        own.each(p, [&](int pass, int o, int row) {  // what no other block waits for
            if (!is_cell || !rows.has(row)) return;
            store_real(lane.out + (rows.first + row) * lane.out_stride + cell, state.h[pass][o]);
            if (!lane.cells) return;
            store_gates(lane.gates + (first_gates + row) * 4 * H, cell, H, gate[pass][o]);
            store(lane.cells + (rows.first + row) * H + cell, state.c[pass][o]);
        });
    }
    own.each(p, [&](int pass, int o, int row) {
        if (!is_cell || row >= shape.B) return;
        store_real(lane.h + (size_t)row * H + cell, came ? state.h[pass][o] : not_a_number());
        store(lane.c + (size_t)row * H + cell, came ? state.c[pass][o] : not_a_number());
    });
}
