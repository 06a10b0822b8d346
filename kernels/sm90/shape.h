/* SPDX-License-Identifier: Apache-2.0
 * Sizes of the sm90 kernels that the host must know, too. */
#ifndef W4_SM90_SHAPE_H
#define W4_SM90_SHAPE_H

#include "packed_layout.h"

enum {
    W4_SM90_ALIGNMENT = 1024,     /* of a 128-byte swizzled tile in shared memory */
    W4_SM90_MOST_STAGES = 62,     /* for which there is room for barriers, and for three more */
    W4_SM90_BARRIER_BYTES = 1024, /* two of 8 bytes a stage, filled up to the alignment */
    W4_SM90_SHARED_OF_SM = 233472 /* shared memory of an SM; each CTA on it costs 1024 more than it asks for */
};

/* What one copy of activations takes of a stage: blocks of 64 columns, and tokens. The CTAs of a cluster share out its
 * blocks, or, where it has but one, its tokens. */
#define W4_SM90_COPY_BLOCKS(tile_k, cluster)                                                                           \
    ((tile_k) / W4_BLOCK_COLUMNS % (cluster) ? (tile_k) / W4_BLOCK_COLUMNS : (tile_k) / W4_BLOCK_COLUMNS / (cluster))
#define W4_SM90_COPY_TOKENS(tile_m, tile_k, cluster)                                                                   \
    ((tile_k) / W4_BLOCK_COLUMNS % (cluster) ? (tile_m) / (cluster) : (tile_m))

/* Whether so many tokens leave a quarter of their only row of tiles empty, and are all that a copy takes: what lies
 * past the end of A takes the copy engine longer than what is there. Then each block of 64 columns is copied by itself,
 * as tokens that are left out leave gaps. On an H200 one token took 30 us where 32 took 16 (8192 x 8192, 64 x 32
 * tiles). */
#define W4_SM90_FEW_TOKENS(m, tile_m, cluster) ((cluster) == 1 && (m) <= (tile_m) / 4 * 3)

/* What the kernels need at compile time, by tile_m. Whether results go to C by the copy engine: of tiles of 256 tokens
 * that would cost a stage, and gains nothing. How many tokens a warp stores at a time, 16 results each; through how
 * many bytes it turns them over, an area of its own; and how many areas it has, so that it need not wait until one has
 * been stored: 16 warps have no room for two. */
#define W4_SM90_STORES_TENSOR(tile_m) ((tile_m) < 256)
#define W4_SM90_STORE_TOKENS(tile_m) (W4_SM90_STORES_TENSOR(tile_m) && (tile_m) >= 32 ? 32 : 16)
#define W4_SM90_AREA_BYTES(tile_m) (W4_SM90_STORE_TOKENS(tile_m) * 32)
#define W4_SM90_AREAS(tile_m, warps) (W4_SM90_STORES_TENSOR(tile_m) && (tile_m) >= 64 && (warps) <= 12 ? 2 : 1)
#define W4_SM90_STAGING_BYTES(tile_m, warps) (W4_SM90_AREAS(tile_m, warps) * W4_SM90_AREA_BYTES(tile_m))

/* Registers of a thread, if so many threads that an SM holds share them equally. */
#define W4_SM90_EQUAL_SHARE(threads) (65536 / (threads) / 8 * 8)

/* Whether a kernel whose threads have so many registers, and whose tiles so many parts, multiplies sums by the scales
 * of weights with whole zero points and fp16 activations; others have room for both in their codes. */
#define W4_SM90_SCALES_SUMS(registers, parts) ((registers) <= 96 && (parts) == 1)

/** Shared memory for the sums of a tile's parts, but the first, which adds them up. */
W4_SHARED_FUNCTION int32_t w4_sm90_part_bytes(int32_t tile_n, int32_t tile_m, int32_t parts) {
    return (parts - 1) * tile_n * tile_m * 4;
}

/** Shared memory but for the stages: what aligning may cost, barriers, areas for results of the warps of the part that
 * stores them (`warps` warps in all), and for the sums of the others. */
W4_SHARED_FUNCTION int32_t w4_sm90_fixed_bytes(int32_t warps, int32_t tile_n, int32_t tile_m, int32_t parts) {
    return W4_SM90_ALIGNMENT + W4_SM90_BARRIER_BYTES +
           (warps / parts * W4_SM90_STAGING_BYTES(tile_m, warps / parts) + W4_SM90_ALIGNMENT - 1) / W4_SM90_ALIGNMENT *
               W4_SM90_ALIGNMENT +
           w4_sm90_part_bytes(tile_n, tile_m, parts);
}

#endif
