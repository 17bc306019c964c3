// Row ranges of packed data: those of a step, in the order of processing, and the part of them in a partition.
#pragma once
#include "kernels.h"

typedef struct {
    ptrdiff_t first, count;
} RowRange;

static inline ptrdiff_t time_of(const Steps* steps, ptrdiff_t s, bool reverse) {
    return reverse ? steps->count - 1 - s : s;
}

// All rows of step s.
static inline RowRange rows_of(const Steps* steps, ptrdiff_t s, bool reverse) {
    const int64_t* at = steps->offsets + time_of(steps, s, reverse);
    return (RowRange){at[0], at[1] - at[0]};
}

// Those in a partition.
static inline RowRange rows_of_partition(RowRange rows, const Partition* partition) {
    return (RowRange){rows.first + partition->first,
                      most(0, least(partition->last, rows.count) - partition->first)};
}

// The rows of step s - 1 of the same sequences: the first `count` of them have one, the others begin with step s.
static inline RowRange rows_before(const Steps* steps, ptrdiff_t s, RowRange rows, bool reverse,
                                   const Partition* partition) {
    if (s == 0) return (RowRange){0, 0};
    RowRange before = rows_of_partition(rows_of(steps, s - 1, reverse), partition);
    return (RowRange){before.first, least(rows.count, before.count)};
}

// The lowest row of the steps `first` to `last`, in the order of processing.
static inline ptrdiff_t lowest_row(const Steps* steps, ptrdiff_t first, ptrdiff_t last, bool reverse) {
    return steps->offsets[time_of(steps, reverse ? last - 1 : first, reverse)];
}
