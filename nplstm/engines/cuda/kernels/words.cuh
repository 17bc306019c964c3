// What registers and memory hold, on a device and on the CPU: words, numbers of 16 bits, and as many words as one access
// takes.
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
