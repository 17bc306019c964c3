// Plain types for registers and memory, on a device and on the CPU: words, 16-bit numbers, and vectors of words that
// one instruction loads or stores.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;

struct float16 {
    u16 bits;
};
struct bfloat16 {
    u16 bits;
};
struct alignas(8) pair {
    u32 word[2];
};
struct alignas(16) quad {
    u32 word[4];
};
