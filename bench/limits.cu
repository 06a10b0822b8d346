/* SPDX-License-Identifier: Apache-2.0
 * The limits that a comparison is held against: reading cold memory once, as a weight is read, by kernels in a row that
 * may overlap or not; and the tensor cores' rate, which is the library's own loop. */
#include "limits.h"

#include "common_gpu/ceilings.cu"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "sm90/ptx.cuh"

/** Read `bytes` (a multiple of 16) into shared memory, each block an equal run, by bulk copies; one thread works. It
 * does what a multiplication may do before the kernel before it has ended, and nothing else: the wait stands last. */
extern "C" __global__ void __launch_bounds__(LIMIT_READ_THREADS)
    limit_read(const char *data, uint64_t bytes, uint32_t *) {
    extern __shared__ __align__(128) char ring[];
    __shared__ uint64_t full[LIMIT_PIECES];
    grid_launch_dependents();
    if (threadIdx.x != 0) return;
    uint64_t run = (bytes / 16 + gridDim.x - 1) / gridDim.x * 16;
    uint64_t begin = min(blockIdx.x * run, bytes), length = min(run, bytes - begin);
    int pieces = (int)((length + LIMIT_PIECE_BYTES - 1) / LIMIT_PIECE_BYTES);
    for (int i = 0; i < LIMIT_PIECES; i++) barrier_init(shared_address(&full[i]), 1);
    barrier_init_fence();
    for (int i = 0; i < pieces + LIMIT_PIECES; i++) {
        int slot = i % LIMIT_PIECES;
        uint32_t barrier = shared_address(&full[slot]);
        if (i >= LIMIT_PIECES && i - LIMIT_PIECES < pieces) barrier_wait(barrier, (i / LIMIT_PIECES - 1) & 1);
        if (i >= pieces) continue;
        uint64_t offset = (uint64_t)i * LIMIT_PIECE_BYTES;
        uint32_t size = (uint32_t)min((uint64_t)LIMIT_PIECE_BYTES, length - offset);
        barrier_arrive_expect(barrier, size);
        copy_bulk(shared_address(ring + slot * LIMIT_PIECE_BYTES), data + begin + offset, size, barrier);
    }
    grid_dependency_wait();
}

#else

/** The same by plain loads, where kernels do not overlap. */
extern "C" __global__ void __launch_bounds__(LIMIT_READ_THREADS)
    limit_read(const uint4 *data, uint64_t bytes, uint32_t *sink) {
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    uint32_t sum = 0;
#pragma unroll 4
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < bytes / 16; i += step) {
        uint4 loaded = __ldcs(data + i);
        sum += loaded.x ^ loaded.y ^ loaded.z ^ loaded.w;
    }
    if (sum == 0x9e3779b9) *sink = sum;
}

#endif
