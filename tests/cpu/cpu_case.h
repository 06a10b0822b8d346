/* SPDX-License-Identifier: Apache-2.0
 * One multiplication for the CPU tests: random data, a plain fp64 result with an error bound for each element, and a
 * run of one config with everything around its memory poisoned or guarded. */
#ifndef W4_TESTS_CPU_CASE_H
#define W4_TESTS_CPU_CASE_H

#include "backend/backend.h"

#include <stdbool.h>

typedef struct cpu_shape {
    int64_t m, n, k, group_size; /* as in w4a16_canonical: -1 is one group per row */
    w4a16_dtype a_dtype, c_dtype, scale_dtype;
    w4a16_zero_kind zero_kind;
    bool order, bias;
    float alpha;
    bool exact; /* small integers and powers of two: every sum is exact in every kernel */
} cpu_shape;

typedef struct cpu_case {
    cpu_shape shape;
    w4_matrix matrix;
    int64_t lda;
    uint16_t *a;    /* [m, lda]; the padding of each row is NaN */
    uint16_t *bias; /* [n] of c_dtype, or NULL */
} cpu_case;

/** Pseudo-random numbers: the same on every machine. */
uint64_t cpu_random(uint64_t *state);
/** -1 .. 1, evenly. */
double cpu_random_real(uint64_t *state);

void cpu_case_make(const cpu_shape *shape, uint64_t seed, cpu_case *made);
void cpu_case_free(cpu_case *made);

/** "m 3 n 17 ..." in static storage. */
const char *cpu_case_text(const cpu_case *made);

/** result[m, n] in fp64, not rounded, from the canonical arrays; bound[m, n]: what a kernel may be off before its
 * result is rounded (docs/cpu-kernels.md). */
void cpu_case_oracle(const cpu_case *made, double *result, double *bound);

/** Open the CPU limited to `level` with `threads` threads. NULL, with the reason printed, where this CPU lacks it. */
w4_device *cpu_open(const char *level, int threads);

/** A config that the device refuses is skipped by the caller. */
bool cpu_feasible(w4_device *device, size_t config, const cpu_case *made);

/** Rows first..first+count of the case into c[count, n] (dense). Checks that nothing else is written. */
void cpu_case_run(w4_device *device, const w4_device_weight *weight, size_t config, const cpu_case *made, int64_t first,
                  int64_t count, uint16_t *c);

#endif
