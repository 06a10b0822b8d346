/* SPDX-License-Identifier: Apache-2.0
 * What the host passes to a GPU kernel: one struct by value, the same in C11 and in CUDA C. */
#ifndef W4_PARAMS_H
#define W4_PARAMS_H

#include "packed_layout.h"

#include <stdint.h>

/** Element types as w4a16_dtype numbers them. */
enum { W4_PARAM_FP16 = 1, W4_PARAM_BF16 = 2, W4_PARAM_FP32 = 3 };
/** Zero points as w4a16_zero_kind numbers them. */
enum { W4_PARAM_SYMMETRIC = 0, W4_PARAM_ZERO_INTEGER = 1, W4_PARAM_ZERO_FLOAT = 2 };

/** Arguments of a GEMM kernel, C[m,n] = alpha * A[m,k] * W[n,k]^T + bias[n]. A itself comes as a tensor map. */
typedef struct w4_gemm_params {
    const uint8_t *packed; /* the packed layout, 256-byte aligned */
    const float *units;    /* [strips * 64 and W4_PADDING_UNITS] of rows, for ScaledCodes (weights.cuh); NULL where
                              kernels have no use for them */
    void *c;               /* [m, ldc] */
    const void *bias;      /* NULL or [n] */
    int64_t ldc;
    w4_packed_layout layout;
    int32_t m, n, k, group_size;
    int32_t scale_dtype, zero_kind, c_dtype, bias_dtype;
    float alpha;
} w4_gemm_params;

/** Arguments of the kernel that brings A into a form that a tensor map can describe: rows copied, columns gathered,
 * filled up with zeros from k to lda_out. One block a row. */
typedef struct w4_gather_params {
    const uint16_t *a;
    const int32_t *k_order; /* NULL: as they stand */
    uint16_t *out;          /* [m, lda_out], 16-byte aligned */
    int64_t lda, lda_out;   /* lda_out: a multiple of 8 */
    int32_t m, k;
} w4_gather_params;

#endif
