// The peak of one core: independent chains of fused multiply-adds in registers, on vectors of LANES floats.
// Prints the most operations per second among some turns. A multiply-add counts as two operations.

#include <stdio.h>
#include <time.h>

// As many chains as keep a core busy: the latency of a multiply-add, 3 to 5 cycles, times the units that compute one, 2
// with AVX2 and AVX-512 and 4 with Neon. AVX2 has 16 registers, and two of them hold constants. Compilers unroll up to
// 16 iterations by themselves, so that the chains stay in registers.
#define CHAINS (LANES == 8 ? 12 : 16)
#define STEPS 200000
#define TURNS 40

typedef float vector __attribute__((vector_size(4 * LANES)));

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static __attribute__((noinline)) float turn(float factor, float term) {
    vector chain[CHAINS], a = factor - (vector){0}, b = term - (vector){0}, sum = {0};
    for (int k = 0; k < CHAINS; k++) chain[k] = b * (float)k;
    for (int step = 0; step < STEPS; step++)
        for (int k = 0; k < CHAINS; k++) chain[k] = chain[k] * a + b;
    for (int k = 0; k < CHAINS; k++) sum += chain[k];
    return sum[0];
}

int main(void) {
    // volatile: else the compiler computes one turn for all
    volatile float factor = 0.5f, used;
    double best = 0;
    for (int k = 0; k < TURNS; k++) {
        double start = seconds();
        used = turn(factor, 1);
        double rate = 2.0 * LANES * CHAINS * STEPS / (seconds() - start);
        best = rate > best ? rate : best;
    }
    (void)used;
    printf("%.6g\n", best);
    return 0;
}
