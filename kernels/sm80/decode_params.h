/* SPDX-License-Identifier: Apache-2.0
 * Arguments of the decode kernels, by value, and the sizes that the host must know, too. */
#ifndef W4_DECODE_PARAMS_H
#define W4_DECODE_PARAMS_H

#include "params.h"

enum {
    W4_SLICE_ROWS = 16,       /* of a strip that one warp's fragment holds */
    W4_SLICES_OF_STRIP = 4,   /* W4_BLOCK_ROWS / W4_SLICE_ROWS */
    W4_SLICE_BYTES = 512,     /* codes of a slice in a block */
    W4_STEP_BLOCKS = 2,       /* blocks of k that a warp takes at a time: half a chunk */
    W4_STEPS_OF_CHUNK = 2,    /* W4_CHUNK_BLOCKS / W4_STEP_BLOCKS */
    W4_STEP_COLUMNS = 128,    /* W4_STEP_BLOCKS * W4_BLOCK_COLUMNS */
    W4_DECODE_ALIGNMENT = 128 /* of what stands in shared memory */
};

/** Room for a slice's scales and zero points of one group: scales of up to 4 bytes, then zero points. */
#define W4_DECODE_LINE_BYTES(zero_kind)                                                                                \
    (64 + ((zero_kind) == W4_PARAM_ZERO_INTEGER ? 16 : (zero_kind) == W4_PARAM_ZERO_FLOAT ? 64 : 0))

typedef struct w4_decode_params {
    w4_gemm_params gemm;
    const void *a; /* [m, lda], rows aligned to 16 bytes; columns from k to a multiple of 8 are zeros */
    int64_t lda;
    int32_t slices;            /* of the matrix: ceil(n / 16) */
    int32_t share, one_more;   /* slices of a CTA, and how many CTAs, the first ones, have one more */
    int32_t span;              /* columns that surely are of one group: 128, 64 or 32 */
    int32_t line_shift;        /* log2 of the columns of a chunk that have a line of scales; 8 if one has all */
    int32_t line_pieces;       /* pieces of 16 bytes that the scales and zero points of a warp's step have */
    int32_t pieces_reciprocal; /* 65536 / pieces of a slice and group, rounded up: of indices below 32 */
    int32_t slow_lines;        /* 1: more than 32 pieces, or their place differs from chunk to chunk */
    int32_t slot_bytes;        /* w4_decode_slot_bytes */
} w4_decode_params;

/** What a stage of a warp's ring holds: codes, activations, scales and zero points, in bytes, aligned: the places of
 * activations are found by changing bits of an address. */
W4_SHARED_FUNCTION int32_t w4_decode_slot_bytes(int32_t slices, int32_t tokens, int32_t span, int32_t zero_kind) {
    int32_t bytes = W4_STEP_BLOCKS * (slices * W4_SLICE_BYTES + tokens * W4_BLOCK_COLUMNS * 2) +
                    W4_STEP_COLUMNS / span * slices * W4_DECODE_LINE_BYTES(zero_kind);
    return (bytes + W4_DECODE_ALIGNMENT - 1) / W4_DECODE_ALIGNMENT * W4_DECODE_ALIGNMENT;
}

/** How many of its slices a warp gives away at a time, when sums are added up: all, if there is room for them. */
#define W4_DECODE_ROUND(slices, tokens, resident)                                                                      \
    ((slices) * (tokens) <= ((resident) > 1 ? 16 : 32) ? (slices) : ((resident) > 1 ? 16 : 32) / (tokens))

/** Room for that, of all warps. */
#define W4_DECODE_ROOM_BYTES(warps, slices, tokens, resident)                                                          \
    ((warps)*W4_SLICE_ROWS * W4_DECODE_ROUND(slices, tokens, resident) * (tokens)*4)

/** Shared memory of a CTA whose warps have `slices` each. */
W4_SHARED_FUNCTION int32_t w4_decode_shared_bytes(int32_t warps, int32_t stages, int32_t slices, int32_t tokens,
                                                  int32_t resident, int32_t slot_bytes) {
    return W4_DECODE_ALIGNMENT + W4_DECODE_ROOM_BYTES(warps, slices, tokens, resident) + warps * stages * slot_bytes;
}

#endif
