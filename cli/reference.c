/* SPDX-License-Identifier: Apache-2.0
 * The command's own multiplication in double precision. */
#include "reference.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* splitmix64: every seed gives an independent-looking sequence. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

bool random_activations(uint64_t seed, int64_t m, int64_t k, w4a16_dtype dtype, uint16_t **halves, double **values) {
    size_t count = (size_t)m * (size_t)k;
    *halves = allocate_array(m, k, sizeof **halves);
    *values = *halves ? allocate_array(m, k, sizeof **values) : NULL;
    bool good = *values != NULL;
    for (size_t i = 0; good && i < count; i++) (*values)[i] = (double)(int64_t)(next_random(&seed) >> 11) * 0x1p-52 - 1;
    /* To 16 bits and back: the doubles then are what the kernels read. */
    if (good && (w4a16_convert_elements(*values, W4A16_FP64, *halves, dtype, count) ||
                 w4a16_convert_elements(*halves, dtype, *values, W4A16_FP64, count))) {
        fail_library();
        good = false;
    }
    if (!good) {
        free(*halves);
        free(*values);
        *halves = NULL;
        *values = NULL;
    }
    return good;
}

enum { BLOCK = 8 }; /* rows of A at once: one pass over a row of W serves all of them, in vector registers */

/* One row of W against `rows` <= BLOCK rows of A, which lie transposed: columns[k][BLOCK]. */
static void multiply_block(const double *columns, const double *w, int64_t k, double *sums) {
    double s[BLOCK] = {0};
    for (int64_t j = 0; j < k; j++) {
        for (int r = 0; r < BLOCK; r++) s[r] += columns[j * BLOCK + r] * w[j];
    }
    memcpy(sums, s, sizeof s);
}

void reference_multiply(const double *a, const double *w, double *c, int64_t m, int64_t n, int64_t k, int threads) {
    double *columns = allocate((size_t)k, BLOCK * sizeof *columns);
    for (int64_t first = 0; first < m; first += BLOCK) {
        int64_t rows = m - first < BLOCK ? m - first : BLOCK;
        for (int64_t j = 0; j < k; j++) {
            for (int64_t r = 0; r < BLOCK; r++) columns[j * BLOCK + r] = r < rows ? a[(first + r) * k + j] : 0;
        }
#pragma omp parallel for schedule(static) num_threads(threads > 0 ? threads : omp_get_max_threads())
        for (int64_t i = 0; i < n; i++) {
            double sums[BLOCK];
            multiply_block(columns, w + i * k, k, sums);
            for (int64_t r = 0; r < rows; r++) c[(first + r) * n + i] = sums[r];
        }
    }
    free(columns);
}

double largest_magnitude(const double *values, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(values[i]));
    return largest;
}

comparison compare(const uint16_t *c, int64_t ldc, w4a16_dtype dtype, const double *reference, double scale, int64_t m,
                   int64_t n) {
    comparison result = {0};
    double difference = 0, rounding = 0, norm = 0;
    double *row = allocate((size_t)n, sizeof *row), *expected = allocate((size_t)n, sizeof *expected),
           *rounded = allocate((size_t)n, sizeof *rounded);
    uint16_t *halves = allocate((size_t)n, sizeof *halves);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) expected[j] = scale * reference[i * n + j];
        if (w4a16_convert_elements(c + i * ldc, dtype, row, W4A16_FP64, (size_t)n) ||
            w4a16_convert_elements(expected, W4A16_FP64, halves, dtype, (size_t)n) ||
            w4a16_convert_elements(halves, dtype, rounded, W4A16_FP64, (size_t)n)) {
            difference = NAN;
            break;
        }
        for (int64_t j = 0; j < n; j++) {
            double error = row[j] - expected[j], inherent = rounded[j] - expected[j];
            difference += error * error;
            rounding += inherent * inherent;
            norm += expected[j] * expected[j];
            /* fmax() would pass over a NaN. */
            if (!(fabs(error) <= result.largest)) result.largest = fabs(error);
        }
    }
    free(row);
    free(expected);
    free(rounded);
    free(halves);
    result.relative = difference == 0 ? 0 : sqrt(difference / norm);
    result.rounding = rounding == 0 ? 0 : sqrt(rounding / norm);
    return result;
}
