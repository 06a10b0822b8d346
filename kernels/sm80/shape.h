/* SPDX-License-Identifier: Apache-2.0
 * Sizes of the sm80 kernels that the host must know, too; and the division that finds a column's group. */
#ifndef W4_SM80_SHAPE_H
#define W4_SM80_SHAPE_H

#include "packed_layout.h"

enum {
    W4_SM80_ALIGNMENT = 128,     /* of a stage: rows of 64 activations, whose 16-byte pieces change places within */
    W4_SM80_FIXED_BYTES = 1024,  /* of shared memory before the stages */
    W4_SM80_MOST_STAGES = 8,     /* for which the kernel can wait */
    W4_SM80_SPAN = 32,           /* columns: group sizes are multiples of it */
    W4_SM80_BLOCK_RESERVE = 1024 /* shared memory that each CTA costs beyond what it asks for */
};

/** The most groups that a stage's columns can touch. */
W4_SHARED_FUNCTION int32_t w4_sm80_lines(int64_t k, int64_t group_size, int32_t tile_k) {
    if (group_size >= k || group_size % tile_k == 0) return 1;
    if (tile_k % group_size == 0) return (int32_t)(tile_k / group_size);
    return (int32_t)((tile_k - 2 * W4_SM80_SPAN) / group_size + 2);
}

/** A stage: activations, and what w4_slot_bytes says of each strip. */
W4_SHARED_FUNCTION int32_t w4_sm80_stage_bytes(int32_t tile_n, int32_t tile_m, int32_t tile_k, int32_t slot_bytes) {
    int32_t bytes = tile_m * tile_k * 2 + tile_n / W4_BLOCK_ROWS * slot_bytes;
    return (bytes + W4_SM80_ALIGNMENT - 1) / W4_SM80_ALIGNMENT * W4_SM80_ALIGNMENT;
}

/** Division by a group size, as a multiplication: span / (group_size / 32) for spans of 32 columns. Exact for spans up
 * to 2^30: with 2^s <= d < 2^(s+1) and magic = floor(2^(31+s) / d) + 1, magic * d - 2^(31+s) is 1 to d, and the
 * quotient is off by less than span * d / (d * 2^(31+s)) < 1 / d. */
typedef struct w4_sm80_divider {
    uint32_t magic;
    int32_t shift;
} w4_sm80_divider;

/** group_size >= k: one group, number 0. */
W4_SHARED_FUNCTION w4_sm80_divider w4_sm80_divider_make(int64_t k, int64_t group_size) {
    w4_sm80_divider divider = {0, 0};
    if (group_size >= k) return divider;
    uint64_t d = (uint64_t)(group_size / W4_SM80_SPAN);
    divider.shift = 31;
    while (d >> (divider.shift - 31) > 1) divider.shift++;
    divider.magic = (uint32_t)(((uint64_t)1 << divider.shift) / d + 1);
    return divider;
}

W4_SHARED_FUNCTION int32_t w4_sm80_group(w4_sm80_divider divider, int32_t span) {
    return (int32_t)((uint64_t)(uint32_t)span * divider.magic >> divider.shift);
}

#endif
