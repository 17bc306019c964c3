// Where the rows of a step stand in packed data, in the order of processing, and which of them a share has.
#pragma once
#include "kernels.h"

typedef struct {
    ptrdiff_t first, count;
} Run;  // of rows

static inline ptrdiff_t time_of(const Steps* steps, ptrdiff_t s, bool reverse) {
    return reverse ? steps->count - 1 - s : s;
}

// All rows of step s.
static inline Run rows_of(const Steps* steps, ptrdiff_t s, bool reverse) {
    const int64_t* at = steps->offsets + time_of(steps, s, reverse);
    return (Run){at[0], at[1] - at[0]};
}

// Those of a share.
static inline Run share_of(Run rows, const Share* share) {
    return (Run){rows.first + share->first, most(0, least(share->last, rows.count) - share->first)};
}

// Where the step before s had the sequences of these rows; `count` of them took it, the others begin with s.
static inline Run rows_before(const Steps* steps, ptrdiff_t s, Run rows, bool reverse, const Share* share) {
    if (s == 0) return (Run){0, 0};
    Run before = share_of(rows_of(steps, s - 1, reverse), share);
    return (Run){before.first, least(rows.count, before.count)};
}

// The lowest row of the steps `first` to `last`, in the order of processing.
static inline ptrdiff_t lowest_row(const Steps* steps, ptrdiff_t first, ptrdiff_t last, bool reverse) {
    return steps->offsets[time_of(steps, reverse ? last - 1 : first, reverse)];
}
