/* SPDX-License-Identifier: Apache-2.0
 * A quantised matrix in canonical form that owns its arrays: what every format imports to and exports from. */
#ifndef W4_CORE_MATRIX_H
#define W4_CORE_MATRIX_H

#include "core/status.h"

#include <stdbool.h>

typedef struct w4_matrix {
    int64_t n, k;
    int64_t group_size; /* resolved, > 0: k where the caller said -1 */
    int64_t groups;     /* ceil(k / group_size) */
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    uint8_t *codes;   /* [n, ceil(k/2)], element 2i in the low nibble of byte i; the unused nibble of an odd k is 0 */
    void *scales;     /* [n, groups] */
    void *zeros;      /* [n, groups] uint8_t or float, or NULL */
    int32_t *k_order; /* [k] or NULL */
} w4_matrix;

/** Check shape arguments as the public API states them, allocate zeroed arrays (k_order only if asked). */
w4a16_status w4_matrix_create(int64_t n, int64_t k, int64_t group_size, w4a16_dtype scale_dtype,
                              w4a16_zero_kind zero_kind, int has_k_order, w4_matrix *matrix);
/** Its two halves: a checked shape without arrays, and the arrays; what is not asked for stays NULL. */
w4a16_status w4_matrix_describe(int64_t n, int64_t k, int64_t group_size, w4a16_dtype scale_dtype,
                                w4a16_zero_kind zero_kind, w4_matrix *matrix);
w4a16_status w4_matrix_allocate(w4_matrix *matrix, bool has_codes, bool has_k_order);
void w4_matrix_free(w4_matrix *matrix);

/** Check the content: scales finite and not zero, zeros in range, k_order a permutation. The text names the first
 * offender by [n, group]. */
w4a16_status w4_matrix_validate(const w4_matrix *matrix);

/** Whether scales lie so far apart that sums in units of one scale may overflow in units of another: more than 2^60
 * between two of a row, or one outside 2^-60 .. 2^60. */
bool w4_matrix_scales_uneven(const w4_matrix *matrix);

/** Choose for each row the unit in which a GPU's sums of products with fp16 activations count (RelativeScales in
 * kernels/common_gpu/weights.cuh): the scale itself where the row has but one, else the power of two that is an eighth
 * of the one at or below its largest scale, so that |scale / unit| is less than 16. Of fp16 scales no unit is below
 * 2^-14, as fp16 holds one over it. `units`: [n].
 *
 * False where a row has a scale less than a sixteenth of its unit, so that symmetric weights, which are multiples of
 * 2^-24 there, would be rounded by more than 2^-12 of the largest that a group can have. fp16 scales are multiples of
 * 2^-24 themselves: units up to 2^-12 keep all their weights. */
bool w4_matrix_scale_units(const w4_matrix *matrix, float *units);

/** Copy from the caller's arrays and validate. */
w4a16_status w4_matrix_from_canonical(const w4a16_canonical *canonical, w4_matrix *matrix);

static inline int64_t w4_matrix_row_bytes(const w4_matrix *matrix) {
    return matrix->k / 2 + (matrix->k & 1);
}

static inline int w4_matrix_code(const w4_matrix *matrix, int64_t row, int64_t column) {
    uint8_t byte = matrix->codes[row * w4_matrix_row_bytes(matrix) + column / 2];
    return column & 1 ? byte >> 4 : byte & 15;
}

/** The zero point of [row, group] as a double. */
double w4_matrix_zero(const w4_matrix *matrix, int64_t row, int64_t group);

/** Bytes of one element of `zeros`: 0, 1 or 4. */
size_t w4_zero_size(w4a16_zero_kind kind);

#endif
