// Code of both persistent kernels: a whole sequence in one launch, all blocks of which run at once.
//
// A direction is one layer in one direction: those of a launch are the directions of a layer, or the layers of a
// chain. A block computes UNITS cells of one direction for ROWS sequences: it keeps the weights of these cells in
// registers and shared memory, and their state in registers, over all steps. After each step it sends its results to
// the blocks that have the direction's other cells for the same sequences, and sets its flag; before each step it waits
// for their flags. Blocks of other sequences never wait for one another, nor do the directions of one layer. In a chain
// a direction has a leader, the layer whose results it reads one step after they are computed; it is that layer's
// follower.
//
// A step is a product of the block's weights, OUTPUTS rows of `numbers` numbers, with the numbers that were sent. Its 8
// warps share the numbers between them, a warp waits only for the blocks that send its own, and the sums of the warps
// are added up in shared memory.
//
// Exchange buffers in global memory, numbers of type `sent`: (ring, rows, width) for each direction; state v is in slot
// v % ring. State v - ring is overwritten only after all blocks have read it: those of the direction itself have, once
// state v - 1 is complete; the flags of the follower tell when the follower has.
#pragma once
#include "arithmetic.cuh"
#include "cell.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int OUTPUTS = 16 * M_TILES;              // rows of weights in a block
constexpr int PASS_ROWS = 8 * N_TILES;             // sequences that a block takes at once
constexpr int ROWS = PASS_ROWS * PASSES;           // and in a step
constexpr int UNITS = OUTPUTS / OUTPUTS_PER_CELL;  // cells of a block
constexpr int CELLS_PER_PASS = (UNITS * PASS_ROWS + THREADS - 1) / THREADS;  // cells of a thread in a pass
constexpr int SUM_STRIDE = OUTPUTS + 4;  // avoids bank conflicts between the warps' sums; in steps of 16 bytes
constexpr int SUMS = WARPS * PASS_ROWS * SUM_STRIDE;
// Groups that a warp loads at once.
constexpr int AHEAD = ARITHMETIC == FLOAT32 || N_TILES > 1 ? 1 : 2;
constexpr int MAX_DIRECTIONS = 8;

static_assert(THREADS % UNITS == 0, "a thread has the same cell in all its sequences");
static_assert(KEPT % AHEAD == 0, "registers are found by constants");

struct Exchange {   // exchange buffer and flags of the blocks of a direction
    sent* numbers;  // (ring, rows, width)
    u32* flags;     // (tiles, blocks)
};

struct Shape {
    const long long* bounds;  // (T + 1): step t has the rows bounds[t] to bounds[t + 1]; null where all have B
    u32* status;              // in the host's memory
    int T, first, steps;      // this launch runs `steps` steps from `first` on, in the order of processing
    int B, H;
    int tiles, blocks;      // of ROWS sequences; of UNITS cells
    int ring, rows, width;  // ring is a power of two
    u32 base;               // a flag of base + 1 + v means that state v is complete
    u32 patience;           // reads of a flag before a wait times out
};

// ---------------------------------------------------------------------------------------------------- steps

struct Rows {
    long long first;
    int count;
    __device__ __forceinline__ bool has(int sequence) const { return sequence < count; }
};

__device__ __forceinline__ Rows rows_of(const Shape& shape, int t) {
    if (t < 0 || t >= shape.T) return {0, 0};
    if (!shape.bounds) return {(long long)t * shape.B, shape.B};
    const long long first = load(shape.bounds + t);
    return {first, (int)(load(shape.bounds + t + 1) - first)};
}

// ------------------------------------------------------------------------------------------------ division of the work

struct Place {
    int warp, lane, r, q;  // r and q: the warp lane's row and column in a tile
    int tile, first_row;   // sequences
    int first_cell;
    int groups, leader_groups;  // of all the numbers; of the leader's, which come first
    int first_group, count;     // this warp's
    int most;                   // of the warp that has most
};

__device__ __forceinline__ Place place_of(int tile, int numbers, bool has_leader) {
    Place p;
    p.warp = threadIdx.x / 32;
    p.lane = threadIdx.x % 32;
    p.r = p.lane / 4;
    p.q = p.lane % 4;
    p.tile = tile;
    p.first_row = tile * ROWS;
    p.first_cell = blockIdx.x * UNITS;
    const int groups = (numbers + GROUP - 1) / GROUP;
    p.leader_groups = has_leader ? groups : 0;
    p.groups = groups + p.leader_groups;
    const int each = p.groups / WARPS, more = p.groups % WARPS;
    p.first_group = p.warp * each + min(p.warp, more);
    p.count = each + (p.warp < more);
    p.most = each + (more > 0);
    return p;
}

// The cell of a thread, the same in all its sequences: CELLS_PER_PASS of them in each of PASSES.
struct ThreadCells {
    int unit, column;  // in the block; in a pass

    __device__ __forceinline__ ThreadCells() : unit(threadIdx.x % UNITS), column(threadIdx.x / UNITS) {}

    __device__ __forceinline__ int column_of(int o) const { return column + o * (THREADS / UNITS); }

    // Call `f(pass, o, row)` for the thread's sequences, of one pass or of all; row B and those behind it are
    // padding.
    template <typename F>
    __device__ __forceinline__ void each(const Place& p, int pass, F f) const {
#pragma unroll
        for (int o = 0; o < CELLS_PER_PASS; ++o)
            if (column_of(o) < PASS_ROWS) f(pass, o, p.first_row + pass * PASS_ROWS + column_of(o));
    }

    template <typename F>
    __device__ __forceinline__ void each(const Place& p, F f) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) each(p, pass, f);
    }
};

// ---------------------------------------------------------------------------------------------------- weights

// Tiles of 16 rows for each of a warp's groups: the first KEPT groups in registers, the others in the block's
// memory.
struct Weights {
    Piece kept[KEPT][M_TILES];
    quad* rest;

    // `weight(m, g, k)` is that of row m for number k of group g.
    template <typename Weight>
    __device__ __forceinline__ void fill(const Place& p, unsigned char* memory, Weight weight) {
        rest = (quad*)memory + (size_t)p.warp * max(p.most - KEPT, 0) * M_TILES * 64;
#pragma unroll
        for (int i = 0; i < KEPT; ++i)
#pragma unroll
            for (int m = 0; m < M_TILES; ++m)
                if (i < p.count) kept[i][m] = piece(p, p.first_group + i, m, weight);
        for (int i = KEPT; i < p.count; ++i)
            for (int m = 0; m < M_TILES; ++m) {
                const Piece made = piece(p, p.first_group + i, m, weight);
                for (int j = 0; j < 2; ++j)
                    put(rest_of(p, i, m, j),
                        quad{made.half[j][0], made.half[j][1], made.half[j][2], made.half[j][3]});
            }
    }

    template <typename Weight>
    static __device__ __forceinline__ Piece piece(const Place& p, int group, int m, Weight weight) {
        Piece made;
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) {  // register k: row r, or r + 8, of word 2j, or 2j + 1
                const int row = 16 * m + p.r + 8 * (k % 2), first = PER_WORD * (4 * p.q + 2 * j + k / 2);
                made.half[j][k] = word_of(to_sent(weight(row, group, first)),
                                          PER_WORD == 2 ? to_sent(weight(row, group, first + 1)) : sent(0));
            }
        return made;
    }

    __device__ __forceinline__ quad* rest_of(const Place& p, int i, int m, int j) const {
        return rest + (((i - KEPT) * M_TILES + m) * 2 + j) * 32 + p.lane;
    }

    __device__ __forceinline__ Piece from_memory(const Place& p, int i, int m) const {
        Piece piece;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const quad q = take(rest_of(p, i, m, j));
#pragma unroll
            for (int k = 0; k < 4; ++k) piece.half[j][k] = q.word[k];
        }
        return piece;
    }
};

// ---------------------------------------------------------------------------------------------------- waiting

__device__ __forceinline__ u32 ready(const Shape& shape, int state) { return shape.base + 1u + (u32)state; }

// Wait, as a warp, until flags `first` to `last` have reached `value`; false if they time out.
__device__ __forceinline__ bool wait(const Shape& shape, const u32* flags, int first, int last, u32 value) {
    bool arrived = true;
    for (int b = first + (int)(threadIdx.x % 32); b <= last; b += 32) {
        u32 looks = 0;
        while (arrived && (int)(look(flags + b) - value) < 0) arrived = ++looks < shape.patience;
    }
    arrived = __all_sync(0xffffffffu, arrived);
    __syncwarp();  // what one lane of the warp has seen, all may read
    return arrived;
}

// Wait for the blocks that send groups `first` to `last` of a direction's numbers.
__device__ __forceinline__ bool wait_for_groups(const Shape& shape, const Exchange& exchange, int tile, int first,
                                                int last, int numbers_per_block, u32 value) {
    const int from = first * GROUP / numbers_per_block, to = (last * GROUP + GROUP - 1) / numbers_per_block;
    return wait(shape, exchange.flags + (size_t)tile * shape.blocks, min(from, shape.blocks - 1),
                min(to, shape.blocks - 1), value);
}

// Wait for all that a warp needs for step `s` of this launch: state s of its own direction and, except in the step
// after the last one, state s + 1 of its leader.
__device__ __forceinline__ bool wait_for_step(const Shape& shape, const Place& p, const Exchange& own,
                                              const Exchange& leader, const u32* follower, int numbers_per_block,
                                              int s) {
    const int last = p.first_group + p.count - 1;
    bool arrived = true;
    if (p.count && p.first_group < p.leader_groups && s < shape.steps)
        arrived = wait_for_groups(shape, leader, p.tile, p.first_group, min(last, p.leader_groups - 1),
                                  numbers_per_block, ready(shape, s + 1));
    if (p.count && last >= p.leader_groups)
        arrived = wait_for_groups(shape, own, p.tile, max(p.first_group - p.leader_groups, 0),
                                  last - p.leader_groups, numbers_per_block, ready(shape, s)) &&
                  arrived;
    // state s + 1 takes the place of state s + 1 - ring, which the follower reads in its step s - ring
    if (follower && p.warp == WARPS - 1 && s >= shape.ring)
        arrived = wait(shape, follower + (size_t)p.tile * shape.blocks, 0, shape.blocks - 1,
                       ready(shape, s + 1 - shape.ring)) &&
                  arrived;
    return arrived;
}

// ---------------------------------------------------------------------------------------------------- the product

__device__ __forceinline__ size_t slot(const Shape& shape, int state) {
    return (size_t)(state & (shape.ring - 1)) * shape.rows * shape.width;
}

// Groups of numbers that a warp loads.
struct Batch {
    quad numbers[AHEAD][N_TILES];
};

typedef float Sums[M_TILES][N_TILES][4];

// Addresses of a step's numbers for one lane of a warp: of its row of each tile of sequences in one pass.
struct Numbers {
    const sent *own, *leader;
    int row, batch, width, leader_groups, column;
    bool with_leader;  // false in the step after the last one

    __device__ __forceinline__ Numbers(const Shape& shape, const Place& p, const Exchange& own_exchange,
                                       const Exchange& leader_exchange, int s, int pass)
        : own(own_exchange.numbers + slot(shape, s)),
          leader(p.leader_groups ? leader_exchange.numbers + slot(shape, s + 1) : nullptr),
          row(p.first_row + pass * PASS_ROWS + p.r), batch(shape.B), width(shape.width),
          leader_groups(p.leader_groups), column(p.q * 4 * PER_WORD), with_leader(s < shape.steps) {}

    __device__ __forceinline__ void ask(const Place& p, int first, Batch& batch_of) const {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int g = p.first_group + first + i;
            if (first + i >= p.count) continue;
            const sent* from = (g < leader_groups ? leader + g * GROUP : own + (g - leader_groups) * GROUP) +
                               column;
#pragma unroll
            for (int n = 0; n < N_TILES; ++n)
                batch_of.numbers[i][n] = row + 8 * n < batch && (g >= leader_groups || with_leader)
                                             ? receive((const quad*)(from + (size_t)(row + 8 * n) * width))
                                             : quad{0, 0, 0, 0};
        }
    }
};

__device__ __forceinline__ void multiply_tiles(float (&total)[N_TILES][4], const Piece& weights,
                                               const quad (&numbers)[N_TILES]) {
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) multiply(total[n], weights, numbers[n]);
}

__device__ __forceinline__ void put_sums(const Place& p, const Sums& total, float* sums) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int n = 0; n < N_TILES; ++n)
#pragma unroll
            for (int k = 0; k < 4; ++k)
                put(sums + (8 * n + 2 * p.q + k % 2) * SUM_STRIDE + 16 * m + p.r + 8 * (k / 2), total[m][n][k]);
}

// The warp's part of the sums of one pass, into shared memory: (WARPS, PASS_ROWS, SUM_STRIDE). It loads the next
// numbers before it multiplies the current ones.
__device__ __forceinline__ void warp_product(const Place& p, const Weights& weights, const Numbers& numbers,
                                             float* sums) {
    Sums total = {};
    Batch now, next;
    numbers.ask(p, 0, next);
    auto take_batch = [&](int first, auto piece) {
        now = next;
        numbers.ask(p, first + AHEAD, next);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (first + i < p.count)
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) multiply_tiles(total[m], piece(first + i, m), now.numbers[i]);
    };
#pragma unroll
    for (int first = 0; first < KEPT; first += AHEAD)
        take_batch(first, [&](int i, int m) { return weights.kept[i][m]; });
#pragma unroll 1
    for (int first = KEPT; first < p.count; first += AHEAD)
        take_batch(first, [&](int i, int m) { return weights.from_memory(p, i, m); });
    if (p.count) put_sums(p, total, sums + (size_t)p.warp * PASS_ROWS * SUM_STRIDE);
}

// The number of warps that have groups to multiply.
__device__ __forceinline__ int adding(const Place& p) { return min(p.groups, WARPS); }

// ---------------------------------------------------------------------------------------------------- sending

// Padding after the numbers of the last block is multiplied by zero: it must not be NaN of an earlier launch.
__device__ __forceinline__ void clear_padding(const Shape& shape, const Place& p, const Exchange& own,
                                              int numbers_per_block) {
    if (blockIdx.x != shape.blocks - 1) return;
    const int first = shape.blocks * numbers_per_block, more = shape.width - first;
    for (int i = threadIdx.x; i < shape.ring * ROWS * more; i += THREADS) {
        const int k = i % more, row = i / more % ROWS, state = i / more / ROWS;
        send(own.numbers + slot(shape, state) + (size_t)(p.first_row + row) * shape.width + first + k, sent(0));
    }
}

// Set the flag of the block's part of a state: after a barrier that follows all sends.
__device__ __forceinline__ void announce_state(const Shape& shape, const Place& p, const Exchange& own,
                                               int state) {
    if (threadIdx.x == 0) announce(own.flags + (size_t)p.tile * shape.blocks + blockIdx.x, ready(shape, state));
}

__device__ __forceinline__ void report_timeout(const Shape& shape, int s) {
    if (threadIdx.x == 0) report(shape.status, 1u + (u32)s);
}

__device__ __forceinline__ real not_a_number() { return from_bits(0x7fc00000u); }
