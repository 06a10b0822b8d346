/* SPDX-License-Identifier: Apache-2.0
 * Sizes of the sm90 kernels that the host must know, too. */
#ifndef W4_SM90_SHAPE_H
#define W4_SM90_SHAPE_H

#include "packed_layout.h"

enum {
    W4_SM90_ALIGNMENT = 1024,     /* of a 128-byte swizzled tile in shared memory */
    W4_SM90_STAGING = 512,        /* bytes through which a warp turns its results over: 16 tokens */
    W4_SM90_MOST_STAGES = 64,     /* for which there is room for barriers */
    W4_SM90_BARRIER_BYTES = 1024, /* two of 8 bytes a stage, filled up to the alignment */
    W4_SM90_SHARED_OF_SM = 233472 /* shared memory of an SM; each CTA on it costs 1024 more than it asks for */
};

/** Shared memory but for the stages: what aligning may cost, barriers, and `warps` areas for results. */
W4_SHARED_FUNCTION int32_t w4_sm90_fixed_bytes(int32_t warps) {
    return W4_SM90_ALIGNMENT + W4_SM90_BARRIER_BYTES +
           (warps * W4_SM90_STAGING + W4_SM90_ALIGNMENT - 1) / W4_SM90_ALIGNMENT * W4_SM90_ALIGNMENT;
}

#endif
