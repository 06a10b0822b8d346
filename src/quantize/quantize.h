/* SPDX-License-Identifier: Apache-2.0
 * fp16, bf16 and fp32 matrices to 4 bits. */
#ifndef W4_QUANTIZE_H
#define W4_QUANTIZE_H

#include "core/matrix.h"

/** Check the fields of `options` that both matrices and checkpoints use. */
w4a16_status w4_quantize_options_check(const w4a16_quantize_options *options);

/** Quantise w[matrix->n, matrix->k] (row stride `stride` elements, any alignment) into `matrix`, made by
 * w4_matrix_create with the options' group size, scale dtype and zero kind. Nothing is written on failure:
 * INVALID_ARGUMENT for NaN, Inf and values whose scale its dtype cannot hold, naming [row, column].
 * @param signal, noise may be NULL; receive the sums of squares of w and of the error */
w4a16_status w4_quantize_matrix(const w4a16_quantize_options *options, const void *w, w4a16_dtype dtype, int64_t stride,
                                w4_matrix *matrix, double *signal, double *noise);

#endif
