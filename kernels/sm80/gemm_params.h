/* SPDX-License-Identifier: Apache-2.0
 * Arguments of the sm80 GEMM, by value. */
#ifndef W4_SM80_GEMM_PARAMS_H
#define W4_SM80_GEMM_PARAMS_H

#include "params.h"
#include "schedule.h"
#include "shape.h"

typedef struct w4_sm80_gemm_params {
    w4_gemm_params gemm;
    const uint16_t *a; /* [m, lda], rows aligned to 16 bytes; columns from k to a multiple of 8 are zeros */
    int64_t lda;
    w4_schedule schedule;
    int32_t ring;            /* stages that shared memory holds, 2 to W4_SM80_MOST_STAGES */
    int32_t stage_bytes;     /* of one of them */
    int32_t slot_bytes;      /* of one strip in a stage */
    int32_t lines;           /* of scales and zero points in a slot */
    int32_t line_shift;      /* group sizes up to 256: log2 of the blocks of 64 columns in a group; 2 for larger ones */
    int32_t group_stages;    /* stages in a group, 1 if that is less than one; INT32_MAX where the row is one group */
    w4_sm80_divider divider; /* from 32 columns to their group; for kernels for any group */
    int32_t halves;          /* the same: 1: a group may end inside a block of 64 columns */
    int32_t store_whole;     /* 1: rows of C are 16-byte aligned, so that 8 results go in one store */
    /* Split tiles: [worker][rows/16 of a warp][tile_m/8][threads] float4 of partial sums, and for each worker a flag,
     * which is `ticket` once its sums are there. The kernel leaves flags at 0; a workspace need not be zeroed, as its
     * chance of holding the call's random ticket is 2^-64. */
    float *partials;
    uint64_t *flags;
    uint64_t ticket;
} w4_sm80_gemm_params;

#endif
