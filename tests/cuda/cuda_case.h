/* SPDX-License-Identifier: Apache-2.0
 * What the test programs of the GPU's GEMM share: the device, its configs, the numbers' values. Each program runs on a
 * GPU, and on the fake driver with smaller shapes; it is skipped where there is neither. An argument chooses tests by
 * name ("kinds*"). The environment's
 *   W4A16_TEST_CONFIG=TEXT   keeps only the configs whose names hold TEXT
 *   W4A16_TEST_REDUCED=1     makes cuda_gemm small enough for a tool that looks at every access */
#ifndef W4A16_TESTS_CUDA_CASE_H
#define W4A16_TESTS_CUDA_CASE_H

#include "api/support.h"
#include "device_memory.h"

extern int simulated; /* on the fake driver */
extern int reduced;
extern w4a16_context *cuda, *cpu;

/** Run from main: find the device and say so. 0, or the program's exit code where there is none. */
int cuda_case_find(int argc, char **argv);
/** Of the group of tests: open and close what is above. */
int cuda_case_begin(void **state);
int cuda_case_end(void **state);

w4a16_context *cuda_case_context(const char *device);

/** Names of the configs that can run a weight of this form; none is possible. On the fake driver, whose kernels are all
 * the same, two of them, which change from call to call. */
size_t cuda_case_configs(const w4a16_canonical *weight, int64_t m, w4a16_dtype a_dtype, w4a16_dtype c_dtype,
                         uint32_t flags, const char *names[TEST_MAX_CONFIGS]);

/** Values of all 65536 numbers of a 16-bit dtype. */
const double *cuda_case_values(w4a16_dtype dtype);

/** Relative Frobenius error allowed where rounding the true result to C's dtype alone costs `inherent`, also relative:
 * to bf16 that is about 1.6e-3, and a few outputs may have more than their share. */
double cuda_case_limit(double inherent);

/** A bias [n] in the host's memory: multiples of 1/4 up to 16, or small random numbers; their values in `values`. */
void *cuda_case_bias(uint64_t *seed, int64_t n, w4a16_dtype dtype, int exact, double *values);

extern const w4a16_dtype halves[2], scale_dtypes[3];

#endif
