/* SPDX-License-Identifier: Apache-2.0
 * Random weights and activations on the host, for the comparison with dense GEMMs. The same numbers each time, whatever
 * the number of threads. */
#ifndef W4A16_BENCH_RANDOM_DATA_H
#define W4A16_BENCH_RANDOM_DATA_H

#include "w4a16.h"

/** Codes, scales of `dtype` and zero points, such that outputs are of about 1 whatever K is; in memory that
 * free_random_canonical gives back, also after a failure. */
w4a16_status random_canonical(int64_t n, int64_t k, int64_t group_size, w4a16_dtype dtype, w4a16_zero_kind zero_kind,
                              w4a16_canonical *canonical);
void free_random_canonical(w4a16_canonical *canonical);

/** dense[n, k]: each (q - z) * s, rounded to the dtype of the scales. @param values of each bit pattern of that dtype
 */
w4a16_status decode_canonical(const w4a16_canonical *canonical, const float *values, uint16_t *dense);

/** target[columns, rows] = source[rows, columns] transposed. */
void transpose(const uint16_t *source, int64_t rows, int64_t columns, uint16_t *target);

/** a[rows, columns] of roughly normal values with variance 1. */
w4a16_status random_activations(int64_t rows, int64_t columns, w4a16_dtype dtype, uint16_t *a);

#endif
