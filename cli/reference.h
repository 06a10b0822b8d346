/* SPDX-License-Identifier: Apache-2.0
 * The command's own multiplication in double precision, and what `verify` holds against it. Shares no code with the
 * library. */
#ifndef W4A16_CLI_REFERENCE_H
#define W4A16_CLI_REFERENCE_H

#include "cli.h"

/** Activations [m,k] of `dtype`, uniform in -1..1, the same for the same seed, and their exact values as doubles.
 * Both to be freed. @return false after an error line */
bool random_activations(uint64_t seed, int64_t m, int64_t k, w4a16_dtype dtype, uint16_t **halves, double **values);

/** c[m,n] = a[m,k] * w[n,k]^T in double precision on `threads` threads (0: all). */
void reference_multiply(const double *a, const double *w, double *c, int64_t m, int64_t n, int64_t k, int threads);

/** The largest magnitude of `count` numbers. */
double largest_magnitude(const double *values, int64_t count);

typedef struct comparison {
    double relative; /* Frobenius norm of the difference over that of the reference; NaN where the result has NaN */
    double largest;  /* largest absolute difference */
    double rounding; /* the relative error that the reference itself has once it is rounded to the dtype */
} comparison;

/** Compare c[m,n] (row stride ldc) of `dtype` with scale * reference[m,n]. */
comparison compare(const uint16_t *c, int64_t ldc, w4a16_dtype dtype, const double *reference, double scale, int64_t m,
                   int64_t n);

#endif
