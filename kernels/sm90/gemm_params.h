/* SPDX-License-Identifier: Apache-2.0
 * Arguments of the sm90 GEMM besides the tensor map of A, by value. */
#ifndef W4_SM90_GEMM_PARAMS_H
#define W4_SM90_GEMM_PARAMS_H

#include "params.h"
#include "schedule.h"

typedef struct w4_sm90_gemm_params {
    w4_gemm_params gemm;
    w4_schedule schedule;
    int32_t ring;         /* stages that shared memory holds */
    int32_t slot_bytes;   /* of one strip in a stage */
    int32_t lines;        /* of scales and zero points in a slot */
    int32_t stage_stride; /* slot_bytes times the strips of a CTA's tile */
    int32_t group_blocks; /* blocks of 64 columns in a group; INT32_MAX where the row is one group */
    int32_t group_stages; /* stages in a group, 1 if that is less than one */
    int32_t group_halves; /* columns in a group / 32; kernels for any group only */
    int32_t whole_blocks; /* 1: A's tensor map has 3 dimensions: columns of a block, tokens, blocks, of which a copy
                             takes a stage's; else the third has but one, and the first all columns */
    int32_t a_bytes;      /* of activations that arrive in a stage */
    int32_t store_whole;  /* 1: rows of C are 16-byte aligned, and n is a multiple of 8: results go by the copy engine,
                             or  8 in one store */
    /* Split tiles: [worker's CTA][strips][tile_m/8][128] float4 of partial sums, and for each CTA and consumer
     * warpgroup a flag, which is `ticket` once its sums are there. The kernel leaves flags at 0; a workspace need not
     * be zeroed, as its chance of holding the call's random ticket is 2^-64. */
    float *partials;
    uint64_t *flags;
    uint64_t ticket;
} w4_sm90_gemm_params;

#endif
