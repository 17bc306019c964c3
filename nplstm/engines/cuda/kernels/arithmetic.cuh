// The matrix products of a warp: precision, and layout of the operands.
//
// ARITHMETIC says what h and the weights are rounded to before they are multiplied; sums are float32 in all of
// them.
//   FLOAT32   nothing: each product is put together of three of TF32, so that its error is that of float32
//   TF32      10 bits of mantissa
//   FLOAT16   10 bits, and float16's range
//   BFLOAT16  7 bits
#pragma once
#include "numbers.cuh"

#define FLOAT32 0
#define TF32 1
#define IN_FLOAT16 2
#define IN_BFLOAT16 3

#define HALF_WORDS (ARITHMETIC == IN_FLOAT16 || ARITHMETIC == IN_BFLOAT16)

// Numbers in a word, and in the 64 bytes of one row that four lanes read together: a group, and the unit of the
// sums.
constexpr int PER_WORD = HALF_WORDS ? 2 : 1;
constexpr int GROUP = 16 * PER_WORD;

#if HALF_WORDS
typedef u16 sent;  // one number on its way between blocks
#else
typedef u32 sent;
#endif

__device__ __forceinline__ sent to_sent(real x) {
#if ARITHMETIC == IN_FLOAT16
    return to_float16((float)x).bits;
#elif ARITHMETIC == IN_BFLOAT16
    return to_bfloat16((float)x).bits;
#elif ARITHMETIC == TF32
    return to_tf32((float)x);
#else
    // the largest numbers, and infinity, would make a high part of infinity, and a low one that is no number
    const float most = 3.4e38f;
    return bits_of(x > most ? most : x < -most ? -most : (float)x);
#endif
}

// What stands in `word` w of the four that a lane has of a group is its number PER_WORD * w and, with half words,
// the next.
__device__ __forceinline__ u32 word_of(sent first, sent second) {
#if HALF_WORDS
    return (u32)first | (u32)second << 16;
#else
    return first;
#endif
}

// What a lane has of the 16 rows of weights that make one tile, for one group: the operands of two instructions.
struct Piece {
    u32 half[2][4];
};

__device__ __forceinline__ void split(u32 x, u32& high, u32& low) {
    high = to_tf32(from_bits(x));
    low = to_tf32(from_bits(x) - from_bits(high & 0xffffe000u));  // of the other bits nothing is said
}

// sums (16, 8) += weights (16, GROUP) numbers (GROUP, 8)
//
// Which of the group's numbers an instruction takes for its k-th is the same for both operands, and so no matter:
// lane (r, q) has numbers 4q PER_WORD to 4(q + 1) PER_WORD of row r, side by side, and gives words 0 and 1 to the
// first instruction, 2 and 3 to the second.
__device__ __forceinline__ void multiply(float (&sums)[4], const Piece& weights, const quad& numbers) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const u32 b0 = numbers.word[2 * j], b1 = numbers.word[2 * j + 1];
#if ARITHMETIC == TF32
        multiply_tf32(sums, weights.half[j], b0, b1);
#elif ARITHMETIC == IN_FLOAT16
        multiply_float16(sums, weights.half[j], b0, b1);
#elif ARITHMETIC == IN_BFLOAT16
        multiply_bfloat16(sums, weights.half[j], b0, b1);
#else
        u32 a_high[4], a_low[4], b0_high, b0_low, b1_high, b1_low;
        split(b0, b0_high, b0_low);
        split(b1, b1_high, b1_low);
#pragma unroll
        for (int k = 0; k < 4; ++k) split(weights.half[j][k], a_high[k], a_low[k]);
        // The unit rounds its sums towards zero: only three of them in a row, the rest is added as float32 is.
        float part[4] = {0, 0, 0, 0};
        multiply_tf32(part, a_low, b0_high, b1_high);
        multiply_tf32(part, a_high, b0_low, b1_low);
        multiply_tf32(part, a_high, b0_high, b1_high);
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[k] += part[k];
#endif
    }
}
