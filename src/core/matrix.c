/* SPDX-License-Identifier: Apache-2.0
 * The canonical form: making, checking and copying it. */
#include "core/matrix.h"

#include "core/half.h"
#include "core/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Keeps every product of two sizes of a matrix far from overflow; no model comes near. */
static const int64_t LARGEST_DIMENSION = INT64_C(1) << 30;

enum { LARGEST_ZERO = 16 }; /* 16: what a GPTQ v1 word of 15 means */

size_t w4_zero_size(w4a16_zero_kind kind) {
    return kind == W4A16_ZERO_INTEGER ? 1 : kind == W4A16_ZERO_FLOAT ? sizeof(float) : 0;
}

static w4a16_status check_shape(int64_t n, int64_t k, int64_t group_size, w4a16_dtype scale_dtype,
                                w4a16_zero_kind zero_kind) {
    if (n < 1 || n > LARGEST_DIMENSION)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "n is %" PRId64 "; it must be 1 to %" PRId64, n,
                       LARGEST_DIMENSION);
    if (k < 1 || k > LARGEST_DIMENSION)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "k is %" PRId64 "; it must be 1 to %" PRId64, k,
                       LARGEST_DIMENSION);
    /* A resolved -1 comes back as k itself, whatever k is. */
    if (group_size != -1 && group_size != k && (group_size < 32 || group_size % 32 != 0))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "group_size is %" PRId64 "; it must be a multiple of 32, or -1 for one group per row",
                       group_size);
    if (!w4_is_scale_dtype(scale_dtype))
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "scale_dtype is %s; it must be fp16, bf16 or fp32",
                       w4a16_dtype_name(scale_dtype));
    if (zero_kind != W4A16_ZERO_SYMMETRIC && zero_kind != W4A16_ZERO_INTEGER && zero_kind != W4A16_ZERO_FLOAT)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "zero_kind is %d; it must be one of w4a16_zero_kind",
                       (int)zero_kind);
    return W4A16_OK;
}

w4a16_status w4_matrix_describe(int64_t n, int64_t k, int64_t group_size, w4a16_dtype scale_dtype,
                                w4a16_zero_kind zero_kind, w4_matrix *matrix) {
    W4_TRY(check_shape(n, k, group_size, scale_dtype, zero_kind));
    *matrix = (w4_matrix){.n = n, .k = k, .scale_dtype = scale_dtype, .zero_kind = zero_kind};
    /* A group longer than the row is the row: one form for one meaning. */
    matrix->group_size = group_size == -1 || group_size > k ? k : group_size;
    matrix->groups = w4_ceil_divide(k, matrix->group_size);
    return W4A16_OK;
}

w4a16_status w4_matrix_allocate(w4_matrix *matrix, bool has_codes, bool has_k_order) {
    uint64_t entries = (uint64_t)matrix->n * (uint64_t)matrix->groups;
    void *codes = NULL, *order = NULL;
    w4a16_status status = W4A16_OK;
    if (has_codes) status = w4_allocate((uint64_t)matrix->n * (uint64_t)w4_matrix_row_bytes(matrix), "codes", &codes);
    matrix->codes = codes;
    if (!status) status = w4_allocate(entries * w4a16_dtype_size(matrix->scale_dtype), "scales", &matrix->scales);
    if (!status && matrix->zero_kind != W4A16_ZERO_SYMMETRIC)
        status = w4_allocate(entries * w4_zero_size(matrix->zero_kind), "zero points", &matrix->zeros);
    if (!status && has_k_order) status = w4_allocate((uint64_t)matrix->k * sizeof(int32_t), "k_order", &order);
    matrix->k_order = order;
    if (status) w4_matrix_free(matrix);
    return status;
}

w4a16_status w4_matrix_create(int64_t n, int64_t k, int64_t group_size, w4a16_dtype scale_dtype,
                              w4a16_zero_kind zero_kind, int has_k_order, w4_matrix *matrix) {
    w4_matrix result;
    W4_TRY(w4_matrix_describe(n, k, group_size, scale_dtype, zero_kind, &result));
    W4_TRY(w4_matrix_allocate(&result, true, has_k_order != 0));
    *matrix = result;
    return W4A16_OK;
}

void w4_matrix_free(w4_matrix *matrix) {
    free(matrix->codes);
    free(matrix->scales);
    free(matrix->zeros);
    free(matrix->k_order);
    matrix->codes = NULL;
    matrix->scales = matrix->zeros = NULL;
    matrix->k_order = NULL;
}

double w4_matrix_zero(const w4_matrix *matrix, int64_t row, int64_t group) {
    size_t index = (size_t)(row * matrix->groups + group);
    if (matrix->zero_kind == W4A16_ZERO_INTEGER) return ((const uint8_t *)matrix->zeros)[index];
    if (matrix->zero_kind == W4A16_ZERO_FLOAT) return ((const float *)matrix->zeros)[index];
    return 8.0;
}

static w4a16_status check_order(const int32_t *k_order, int64_t k) {
    void *memory;
    W4_TRY(w4_allocate((uint64_t)k, "the check of k_order", &memory));
    uint8_t *seen = memory;
    w4a16_status status = W4A16_OK;
    for (int64_t j = 0; j < k && !status; j++) {
        int32_t column = k_order[j];
        if (column < 0 || column >= k)
            status = w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                             "k_order[%" PRId64 "] is %" PRId32 "; it must be 0 to k - 1 = %" PRId64, j, column, k - 1);
        else if (seen[column]++)
            status =
                w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                        "k_order[%" PRId64 "] is %" PRId32 " a second time; k_order must be a permutation", j, column);
    }
    free(memory);
    return status;
}

w4a16_status w4_matrix_validate(const w4_matrix *matrix) {
    for (int64_t row = 0; row < matrix->n; row++) {
        for (int64_t group = 0; group < matrix->groups; group++) {
            size_t index = (size_t)(row * matrix->groups + group);
            float scale = w4_load_float(matrix->scales, matrix->scale_dtype, index);
            if (!isfinite(scale) || scale == 0)
                return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                               "the scale at [n %" PRId64 ", group %" PRId64 "] is %g; it must be finite and not 0",
                               row, group, (double)scale);
            double zero = w4_matrix_zero(matrix, row, group);
            if (matrix->zero_kind == W4A16_ZERO_INTEGER && zero > LARGEST_ZERO)
                return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                               "the zero point at [n %" PRId64 ", group %" PRId64 "] is %g; it must be 0 to %d", row,
                               group, zero, LARGEST_ZERO);
            if (!isfinite(zero))
                return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                               "the zero point at [n %" PRId64 ", group %" PRId64 "] is %g; it must be finite", row,
                               group, zero);
        }
    }
    return matrix->k_order ? check_order(matrix->k_order, matrix->k) : W4A16_OK;
}

/** The least and the largest of a row's scales, without their signs. */
static void find_range(const w4_matrix *matrix, int64_t row, float *least, float *most) {
    *least = INFINITY;
    *most = 0;
    for (int64_t group = 0; group < matrix->groups; group++) {
        float scale = fabsf(w4_load_float(matrix->scales, matrix->scale_dtype, (size_t)(row * matrix->groups + group)));
        *least = fminf(*least, scale);
        *most = fmaxf(*most, scale);
    }
}

bool w4_matrix_scales_uneven(const w4_matrix *matrix) {
    for (int64_t row = 0; row < matrix->n; row++) {
        float least, most;
        find_range(matrix, row, &least, &most);
        if (least < 0x1p-60f || most > 0x1p60f || most > least * 0x1p60f) return true;
    }
    return false;
}

bool w4_matrix_scale_units(const w4_matrix *matrix, float *units) {
    const bool halves = matrix->scale_dtype == W4A16_FP16;
    bool near = true;
    for (int64_t row = 0; row < matrix->n; row++) {
        if (matrix->groups == 1) {
            units[row] = w4_load_float(matrix->scales, matrix->scale_dtype, (size_t)row);
            continue;
        }
        float least, most;
        int exponent;
        find_range(matrix, row, &least, &most);
        frexpf(most, &exponent);              /* most = [0.5, 1) * 2^exponent */
        float unit = ldexpf(1, exponent - 4); /* most / unit is from 8 to less than 16 */
        if (least < unit / 16 && !(halves && unit <= 0x1p-12f)) near = false;
        units[row] = halves ? fmaxf(unit, 0x1p-14f) : unit;
    }
    return near;
}

w4a16_status w4_matrix_from_canonical(const w4a16_canonical *canonical, w4_matrix *matrix) {
    if (!canonical) return w4_fail_null("canonical");
    W4_TRY(w4_check_struct("canonical", "w4a16_canonical_init", canonical->struct_size, sizeof *canonical));
    W4_TRY(
        check_shape(canonical->n, canonical->k, canonical->group_size, canonical->scale_dtype, canonical->zero_kind));
    if (canonical->group_size == canonical->k && canonical->k % 32 != 0)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "group_size is %" PRId64 "; it must be a multiple of 32, or -1 for one group per row",
                       canonical->group_size);
    if (!canonical->codes) return w4_fail_null("canonical.codes");
    if (!canonical->scales) return w4_fail_null("canonical.scales");
    int wants_zeros = canonical->zero_kind != W4A16_ZERO_SYMMETRIC;
    if (wants_zeros && !canonical->zeros)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "canonical.zeros is NULL; zero_kind %d needs it",
                       (int)canonical->zero_kind);
    if (!wants_zeros && canonical->zeros)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "canonical.zeros is set, but zero_kind is symmetric; set zero_kind, or zeros to NULL");
    w4_matrix result;
    W4_TRY(w4_matrix_create(canonical->n, canonical->k, canonical->group_size, canonical->scale_dtype,
                            canonical->zero_kind, canonical->k_order != NULL, &result));
    size_t row_bytes = (size_t)w4_matrix_row_bytes(&result), rows = (size_t)result.n;
    size_t entries = rows * (size_t)result.groups;
    memcpy(result.codes, canonical->codes, rows * row_bytes);
    if (result.k & 1)
        for (size_t row = 0; row < rows; row++) result.codes[row * row_bytes + row_bytes - 1] &= 0x0f;
    memcpy(result.scales, canonical->scales, entries * w4a16_dtype_size(result.scale_dtype));
    if (wants_zeros) memcpy(result.zeros, canonical->zeros, entries * w4_zero_size(result.zero_kind));
    if (result.k_order) memcpy(result.k_order, canonical->k_order, (size_t)result.k * sizeof(int32_t));
    w4a16_status status = w4_matrix_validate(&result);
    if (status) {
        w4_matrix_free(&result);
        return status;
    }
    *matrix = result;
    return W4A16_OK;
}
