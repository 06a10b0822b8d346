/* SPDX-License-Identifier: Apache-2.0
 * What host and device agree on about the limits that a comparison is held against (limits.cu). */
#ifndef W4A16_BENCH_LIMITS_H
#define W4A16_BENCH_LIMITS_H

#include "w4a16.h"

#include "common_gpu/ceilings.h"

#ifndef __CUDACC__
#include <cuda.h>
#include <stdbool.h>
#endif

enum {
    LIMIT_PIECE_BYTES = 16384, /* of one bulk copy */
    LIMIT_PIECES = 6,          /* under way; two such rings fit on an SM, so that the next kernel can start */
    LIMIT_RING_BYTES = LIMIT_PIECES * LIMIT_PIECE_BYTES,
    LIMIT_READ_THREADS = 256,
    LIMIT_READ_BLOCKS = 8 /* on an SM, without bulk copies */
};

#ifndef __CUDACC__

typedef struct limits {
    CUmodule module;
    CUfunction read, multiply;
    int processors;
    bool overlaps; /* kernels of this GPU may start while the one before runs */
    CUdeviceptr sink;
} limits;

/** Load the kernels onto the current context's GPU `index`; give them back also after a failure. */
w4a16_status limits_open(int index, limits *self);
void limits_close(limits *self);

/** Read `bytes` of device memory at `data` (both multiples of 16) once. @param overlap this kernel may start while the
 * one before it in the stream runs; only where self->overlaps */
w4a16_status limits_read(const limits *self, CUdeviceptr data, uint64_t bytes, bool overlap, CUstream stream);

/** Multiply on registers and shared memory alone, for about half a millisecond. */
w4a16_status limits_multiply(const limits *self, CUstream stream);
double limits_multiply_flop(const limits *self);

#endif

#endif
