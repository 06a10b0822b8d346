/* SPDX-License-Identifier: Apache-2.0 */
#include "random_data.h"

#include "core/memory.h"

#include <math.h>
#include <stdlib.h>

/** Word `index` of a stream: splitmix64 (Steele, Lea, Flood, 2014), whose state is a counter, so that threads can fill
 * an array together and the content does not depend on how many they are. */
static uint64_t random_word(uint64_t seed, uint64_t index) {
    uint64_t z = (seed << 40) + (index + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/** Uniform in [0, 1). */
static float random_unit(uint64_t seed, uint64_t index) {
    return (float)(random_word(seed, index) >> 40) * 0x1p-24f;
}

/** Roughly normal with variance 1: the sum of four uniforms. */
static float random_normal(uint64_t seed, uint64_t index) {
    uint64_t word = random_word(seed, index);
    int64_t sum = (int64_t)((word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48));
    return (float)(sum - 2 * 0xffff) * (1.7320508f / 0x1p16f);
}

static int64_t row_bytes(int64_t k) {
    return w4_ceil_divide(k, 2);
}

static int64_t groups_of(const w4a16_canonical *canonical) {
    return canonical->group_size < 0 ? 1 : w4_ceil_divide(canonical->k, canonical->group_size);
}

w4a16_status random_canonical(int64_t n, int64_t k, int64_t group_size, w4a16_dtype dtype, w4a16_zero_kind zero_kind,
                              w4a16_canonical *canonical) {
    w4a16_canonical_init(canonical);
    canonical->n = n;
    canonical->k = k;
    canonical->group_size = group_size;
    int64_t groups = groups_of(canonical), entries = n * groups, words = w4_ceil_divide(n * row_bytes(k), 8);
    void *codes = NULL, *scales = NULL, *zeros = NULL;
    w4a16_status status = w4_allocate((uint64_t)words * 8, "codes", &codes);
    if (!status) status = w4_allocate((uint64_t)entries * 2, "scales", &scales);
    if (!status) status = w4_allocate((uint64_t)entries * sizeof(float), "zero points", &zeros);
    canonical->codes = codes;
    canonical->scales = scales;
    canonical->scale_dtype = dtype;
    canonical->zero_kind = zero_kind;
    canonical->zeros = zeros;
    if (status) return status;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < words; i++) ((uint64_t *)codes)[i] = random_word(1, (uint64_t)i);
    if (k & 1)
        for (int64_t row = 1; row <= n; row++) ((uint8_t *)codes)[row * row_bytes(k) - 1] &= 15;
    /* Outputs of about 1, whatever K is. */
    float typical = 0.2f / sqrtf((float)k);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n; row++)
        for (int64_t i = row * groups; i < (row + 1) * groups; i++) {
            float scale = typical * (0.5f + random_unit(2, (uint64_t)i)), unit = random_unit(3, (uint64_t)i);
            (void)w4a16_convert_elements(&scale, W4A16_FP32, (uint16_t *)scales + i, dtype, 1);
            if (zero_kind == W4A16_ZERO_FLOAT) ((float *)zeros)[i] = 16 * unit;
            if (zero_kind == W4A16_ZERO_INTEGER) ((uint8_t *)zeros)[i] = (uint8_t)(16 * unit);
        }
    if (zero_kind == W4A16_ZERO_SYMMETRIC) {
        free(zeros);
        canonical->zeros = NULL;
    }
    return W4A16_OK;
}

void free_random_canonical(w4a16_canonical *canonical) {
    free((void *)(uintptr_t)canonical->codes);
    free((void *)(uintptr_t)canonical->scales);
    free((void *)(uintptr_t)canonical->zeros);
    *canonical = (w4a16_canonical){0};
}

static float zero_point(const w4a16_canonical *canonical, int64_t group) {
    return canonical->zero_kind == W4A16_ZERO_FLOAT     ? ((const float *)canonical->zeros)[group]
           : canonical->zero_kind == W4A16_ZERO_INTEGER ? (float)((const uint8_t *)canonical->zeros)[group]
                                                        : 8.0f;
}

w4a16_status decode_canonical(const w4a16_canonical *canonical, const float *values, uint16_t *dense) {
    int64_t n = canonical->n, k = canonical->k, groups = groups_of(canonical), bad = 0;
    int64_t group_size = canonical->group_size < 0 ? k : canonical->group_size;
#pragma omp parallel for schedule(static) reduction(+ : bad)
    for (int64_t row = 0; row < n; row++) {
        float *exact = malloc((size_t)groups * 16 * sizeof *exact);
        uint16_t *rounded = malloc((size_t)groups * 16 * sizeof *rounded);
        if (!exact || !rounded) bad++;
        for (int64_t group = 0; !bad && group < groups; group++) {
            int64_t entry = row * groups + group;
            float scale = values[((const uint16_t *)canonical->scales)[entry]];
            for (int code = 0; code < 16; code++)
                exact[group * 16 + code] = ((float)code - zero_point(canonical, entry)) * scale;
        }
        if (!bad) {
            const uint8_t *codes = canonical->codes + row * row_bytes(k);
            (void)w4a16_convert_elements(exact, W4A16_FP32, rounded, canonical->scale_dtype, (size_t)groups * 16);
            for (int64_t j = 0; j < k; j++)
                dense[row * k + j] = rounded[j / group_size * 16 + (codes[j / 2] >> (j & 1) * 4 & 15)];
        }
        free(exact);
        free(rounded);
    }
    return bad ? w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: decoding") : W4A16_OK;
}

void transpose(const uint16_t *source, int64_t rows, int64_t columns, uint16_t *target) {
    enum { BLOCK = 64 };
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < columns; j += BLOCK)
        for (int64_t i = 0; i < rows; i += BLOCK)
            for (int64_t column = j; column < w4_minimum(j + BLOCK, columns); column++)
                for (int64_t row = i; row < w4_minimum(i + BLOCK, rows); row++)
                    target[column * rows + row] = source[row * columns + column];
}

w4a16_status random_activations(int64_t rows, int64_t columns, w4a16_dtype dtype, uint16_t *a) {
    int64_t bad = 0;
#pragma omp parallel for schedule(static) reduction(+ : bad)
    for (int64_t row = 0; row < rows; row++) {
        float *values = malloc((size_t)columns * sizeof *values);
        for (int64_t j = 0; values && j < columns; j++) values[j] = random_normal(4, (uint64_t)(row * columns + j));
        if (!values ||
            w4a16_convert_elements(values, W4A16_FP32, a + row * columns, dtype, (size_t)columns) != W4A16_OK)
            bad++;
        free(values);
    }
    return bad ? w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: activations") : W4A16_OK;
}
