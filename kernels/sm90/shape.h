/* SPDX-License-Identifier: Apache-2.0
 * Sizes of the sm90 kernels that the host must know, too. */
#ifndef W4_SM90_SHAPE_H
#define W4_SM90_SHAPE_H

#include "packed_layout.h"

enum {
    W4_SM90_CONSUMERS = 2,                           /* warpgroups that multiply */
    W4_SM90_THREADS = 128 * (1 + W4_SM90_CONSUMERS), /* the first warpgroup loads */
    W4_SM90_ALIGNMENT = 1024                         /* of a 128-byte swizzled tile in shared memory */
};

/** Dynamic shared memory of a config: stages of A and W, the barriers, and what aligning the start may cost. */
W4_SHARED_FUNCTION int32_t w4_sm90_shared_bytes(int32_t tile_n, int32_t tile_m, int32_t tile_k, int32_t stages) {
    int32_t stage = tile_m * tile_k * 2 + tile_n * tile_k / 2;
    return W4_SM90_ALIGNMENT + stages * stage + 256;
}

#endif
