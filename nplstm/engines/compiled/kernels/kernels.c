// The table of kernels of one instruction set and element type; the build compiles this file once for each.
#include "gradients.h"
#include "sequence.h"
#include "step.h"

static void functions(bool tanh, const void* a, void* y, ptrdiff_t count) {
    for (ptrdiff_t k = 0; k < count; k += LANES) {
        Vector x = load_first((const REAL*)a + k, count - k);
        store_first((REAL*)y + k, count - k, tanh ? hyperbolic_tangent(x) : sigmoid(x));
    }
}

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define JOINED(a, b, c) a##_##b##_##c
#define TABLE(set, bits) JOINED(kernels, set, bits)

const Kernels TABLE(INSTRUCTION_SET, REAL_BITS) = {
    TEXT(INSTRUCTION_SET), REAL_BITS, LANES, forward,      backward,      previous,     outputs,
    sum_weights,           sum_input, step,  pack_forward, pack_backward, pack_columns, functions,
};
