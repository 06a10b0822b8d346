/* SPDX-License-Identifier: Apache-2.0
 * What the golden packed files hold, by formula. oracle_packed_file.py states the same formulas in Python; keep both in
 * step. The files were written once by the library (`pack_file --write`) and must never change: they are what users'
 * files look like. */
#ifndef W4A16_TESTS_GOLDEN_H
#define W4A16_TESTS_GOLDEN_H

#include "core/half.h"
#include "core/matrix.h"

typedef struct golden_case {
    const char *name;
    int64_t n, k, group_size;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    int has_order;
} golden_case;

static const golden_case golden_cases[] = {
    {"symmetric_fp16_g128", 70, 200, 128, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0},
    {"integer_bf16_g32", 5, 33, 32, W4A16_BF16, W4A16_ZERO_INTEGER, 0},
    {"float_fp32_row_order", 65, 97, -1, W4A16_FP32, W4A16_ZERO_FLOAT, 1},
    {"integer_fp16_g96_order", 3, 300, 96, W4A16_FP16, W4A16_ZERO_INTEGER, 1},
};
enum { GOLDEN_CASES = sizeof golden_cases / sizeof *golden_cases };

/** A matrix for w4_matrix_free. Scales are small multiples of powers of two: exact in every dtype. */
static inline w4a16_status golden_matrix(const golden_case *golden, w4_matrix *matrix) {
    W4_TRY(w4_matrix_create(golden->n, golden->k, golden->group_size, golden->scale_dtype, golden->zero_kind,
                            golden->has_order, matrix));
    for (int64_t row = 0; row < matrix->n; row++)
        for (int64_t column = 0; column < matrix->k; column++) {
            int code = (int)((row * 7 + column * 13 + row * column % 11) % 16);
            matrix->codes[row * w4_matrix_row_bytes(matrix) + column / 2] |= (uint8_t)(column % 2 ? code << 4 : code);
        }
    for (int64_t i = 0; i < matrix->n * matrix->groups; i++) {
        double scale = (double)(i % 13 + 1) / 64;
        w4_store_double(matrix->scales, matrix->scale_dtype, (size_t)i, i % 3 == 0 ? -scale : scale);
        if (matrix->zero_kind == W4A16_ZERO_INTEGER) ((uint8_t *)matrix->zeros)[i] = (uint8_t)(i * 5 % 17);
        if (matrix->zero_kind == W4A16_ZERO_FLOAT) ((float *)matrix->zeros)[i] = (float)(i % 29) * 0.5f - 3.25f;
    }
    if (matrix->k_order)
        for (int64_t j = 0; j < matrix->k; j++) matrix->k_order[j] = (int32_t)((j * 7 + 3) % matrix->k);
    return W4A16_OK;
}

#endif
