/* SPDX-License-Identifier: Apache-2.0
 * Two loops that do one thing only, to compare kernels with: read memory, and multiply on the tensor cores. */
#include "ceilings.h"

#include <stdint.h>

/** Read `words` 16-byte words; the sum goes to `sink` so that the loads are not removed. */
extern "C" __global__ void __launch_bounds__(W4_READ_THREADS)
    w4_read_loop(const uint4 *data, uint64_t words, uint32_t *sink) {
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    uint32_t sum = 0;
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + (W4_READ_UNROLL - 1) * step < words; i += W4_READ_UNROLL * step) {
        uint4 loaded[W4_READ_UNROLL];
#pragma unroll
        for (int j = 0; j < W4_READ_UNROLL; j++) loaded[j] = __ldcs(data + i + j * step);
#pragma unroll
        for (int j = 0; j < W4_READ_UNROLL; j++) sum += loaded[j].x ^ loaded[j].y ^ loaded[j].z ^ loaded[j].w;
    }
    for (; i < words; i += step) sum += data[i].x ^ data[i].y ^ data[i].z ^ data[i].w;
    if (sum == 0x9e3779b9) *sink = sum;
}

/** Two fp16 numbers of either sign between 1/4 and 1/2, all mantissa bits random: zeros would draw less power, and the
 * clock would be higher than any real product lets it be. */
static __device__ uint32_t random_pair(uint32_t seed) {
    seed = (seed ^ seed >> 16) * 0x7feb352du;
    seed = (seed ^ seed >> 15) * 0x846ca68bu;
    seed ^= seed >> 16;
    return (seed & 0x83ff83ffu) | 0x34003400u;
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

enum { TILE_WORDS = 128 * 16 / 2 /* B[128, 16] of fp16, two to a word */ };

/** d += A * B: m64 n128 k16, A in registers as the kernels have their weights, B in shared memory. */
static __device__ __forceinline__ void multiply(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
                   "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
                   "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
                   "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
                   "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
                   "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/** `rounds` rounds of W4_MULTIPLY_ISSUED independent products on two sets of accumulators. */
extern "C" __global__ void __launch_bounds__(W4_MULTIPLY_THREADS, W4_MULTIPLY_BLOCKS)
    w4_multiply_loop(int32_t rounds, float *sink) {
    __shared__ __align__(1024) uint32_t tile[TILE_WORDS];
    for (int i = threadIdx.x; i < TILE_WORDS; i += W4_MULTIPLY_THREADS) tile[i] = random_pair(i + 1);
    __syncthreads();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    /* No swizzle: 8 x 8 matrices of 128 bytes, the two along k side by side, 256 bytes from one along n to the next.
     * Fields in units of 16 bytes: address, 16 bits on the step along k, 32 bits on the step along n. */
    uint64_t address = (uint64_t)__cvta_generic_to_shared(tile);
    uint64_t b = (address & 0x3ffff) >> 4 | (uint64_t)(128 >> 4) << 16 | (uint64_t)(256 >> 4) << 32;
    float d[2][64];
    uint32_t a[4];
    for (int i = 0; i < 64; i++) d[0][i] = d[1][i] = 0;
    for (int i = 0; i < 4; i++) a[i] = random_pair(threadIdx.x * 4 + i + 0x10000);
    for (int32_t round = 0; round < rounds; round++) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < W4_MULTIPLY_ISSUED; i++) multiply(d[i % 2], a, b);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    float sum = 0;
    for (int i = 0; i < 64; i++) sum += d[0][i] + d[1][i];
    if (sum == 12345.678f) *sink = sum;
}

#else

/** d += A * B: m16 n128 k16, a warp's share of the same, A and B in registers. */
static __device__ __forceinline__ void multiply(float (&d)[64], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#pragma unroll
    for (int i = 0; i < 64; i += 4)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/** `rounds` rounds of W4_MULTIPLY_ISSUED products on one set of accumulators: of the 16 instructions of a product none
 * waits for another. */
extern "C" __global__ void __launch_bounds__(W4_MULTIPLY_THREADS, W4_MULTIPLY_BLOCKS)
    w4_multiply_loop(int32_t rounds, float *sink) {
    float d[64];
    uint32_t a[4], b[2];
    for (int i = 0; i < 64; i++) d[i] = 0;
    for (int i = 0; i < 4; i++) a[i] = random_pair(threadIdx.x * 4 + i + 0x10000);
    for (int i = 0; i < 2; i++) b[i] = random_pair(threadIdx.x * 2 + i + 1);
    for (int32_t round = 0; round < rounds; round++) {
#pragma unroll
        for (int i = 0; i < W4_MULTIPLY_ISSUED; i++) multiply(d, a, b);
    }
    float sum = 0;
    for (int i = 0; i < 64; i++) sum += d[i];
    if (sum == 12345.678f) *sink = sum;
}

#endif
