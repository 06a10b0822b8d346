/* SPDX-License-Identifier: Apache-2.0
 * How the GEMM kernels end a tile: partial sums of split tiles, and results. The including kernel's ptx.cuh has
 * store_matrices_transposed and thread_index. Sums lie as mma.sync and wgmma leave them: of each 16 rows (out features)
 * that a warp has, a thread's sums 4i..4i+3 are (row, token), (row, token + 1), (row + 8, token), (row + 8, token + 1),
 * where row = lane/4 and token = 8i + 2 * (lane%4). */
#ifndef W4_GPU_STORE_CUH
#define W4_GPU_STORE_CUH

#include "weights.cuh"

/** The partial sums that workers leave for one another, as THREADS threads (whole warps, with a flag of their own) see
 * them. FLAGS: flags of a worker. Params: the parameters of either GEMM kernel. */
template <class Params, int THREADS, int FLAGS> struct Share {
    const Params &params;
    const int worker, flag, barrier;
    __device__ Share(const Params &params_, int worker_, int flag_, int barrier_)
        : params(params_), worker(worker_), flag(flag_), barrier(barrier_) {}

    __device__ int index(int of) const { return of * FLAGS + flag; }
    template <int FOURS> __device__ float4 *partials(int of) const {
        return (float4 *)params.partials + (int64_t)index(of) * (FOURS * THREADS) + thread_index() % THREADS;
    }

    /** Leave these sums for the worker that finishes the tile. */
    template <int ROWS, int SUMS> __device__ __forceinline__ void give(const float (&sums)[ROWS][SUMS]) const {
        float4 *target = partials<ROWS * SUMS / 4>(worker);
#pragma unroll
        for (int i = 0; i < ROWS * SUMS / 4; i++) {
            const float *four = &sums[i / (SUMS / 4)][i % (SUMS / 4) * 4];
            __stcg(target + i * THREADS, make_float4(four[0], four[1], four[2], four[3]));
        }
        group_sync(barrier, THREADS); /* the flag's release covers what all threads wrote before it */
        if (thread_index() % THREADS == 0) flag_store(params.flags + index(worker), params.ticket);
    }

    /** Add what the other workers have of the tile, in the order of k. MOST: float4s that registers have room for. */
    template <int MOST, int ROWS, int SUMS>
    __device__ __forceinline__ void collect(int tile, float (&sums)[ROWS][SUMS]) const {
        int helpers = w4_schedule_helpers(&params.schedule, w4_schedule_run(&params.schedule, worker), tile);
        for (int helper = 1; helper <= helpers; helper++)
            while (flag_load(params.flags + index(worker - helper)) != params.ticket) {
            }
        /* As many helpers' sums on their way at once as registers are free, or parts of one helper's. */
        constexpr int FOURS = ROWS * SUMS / 4, AT_ONCE = FOURS < 16 ? 16 / FOURS : 1,
                      PART = FOURS < MOST ? FOURS : MOST;
#pragma unroll 1
        for (int first = 1; first <= helpers; first += AT_ONCE) {
#pragma unroll
            for (int from = 0; from < FOURS; from += PART) {
                float4 parts[AT_ONCE][PART];
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    const float4 *source = partials<FOURS>(worker - min(first + i, helpers)) + from * THREADS;
#pragma unroll
                    for (int j = 0; j < PART; j++) parts[i][j] = __ldcg(source + j * THREADS);
                }
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    if (first + i > helpers) break;
#pragma unroll
                    for (int j = 0; j < PART; j++) {
                        float *four = &sums[(from + j) / (SUMS / 4)][(from + j) % (SUMS / 4) * 4];
                        four[0] += parts[i][j].x;
                        four[1] += parts[i][j].y;
                        four[2] += parts[i][j].z;
                        four[3] += parts[i][j].w;
                    }
                }
            }
        }
        group_sync(barrier, THREADS); /* all have seen the flags */
        for (int helper = 1 + thread_index() % THREADS; helper <= helpers; helper += THREADS)
            params.flags[index(worker - helper)] = 0;
    }
};

__device__ __forceinline__ uint32_t pack_results(float first, float second, bool bf16) {
    return bf16 ? bits_of(__floats2bfloat162_rn(first, second)) : bits_of(__floats2half2_rn(first, second));
}

/** Round the sums of a warp's 16 out features, n and the next, to C's type and store them. A lane has two tokens in a
 * register; the warp turns them over in shared memory (`staging`, 512 bytes), some tokens at a time, so that 8 out
 * features of a token go in one store. */
template <class Params, int SUMS>
__device__ __forceinline__ void store_rows(const Params &params, uint32_t staging, int m, int n,
                                           const float (&sums)[SUMS]) {
    const w4_gemm_params &gemm = params.gemm;
    constexpr int TILE_M = 2 * SUMS;
    const int lane = thread_index() % 32;
    if (n >= gemm.n) return;
    const bool bf16 = gemm.c_dtype == W4_PARAM_BF16;
    float bias[2] = {0.0f, 0.0f};
    if (gemm.bias)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int at = min(n + lane / 4 + 8 * i, gemm.n - 1);
            bias[i] = load_number((const uint8_t *)gemm.bias + (int64_t)at * (gemm.bias_dtype == W4_PARAM_FP32 ? 4 : 2),
                                  gemm.bias_dtype);
        }
    constexpr int TOKENS = TILE_M < 16 ? TILE_M : 16; /* at a time: 32 bytes of staging each */
    /* Where 8 out features of a token stand, and where row `row` of 8 x 8 matrix i goes: 8 tokens x 2 halves of 8 out
     * features, twice. */
    auto place = [&](int token, int half) { return staging + token * 32 + (half ^ token / 4 % 2) * 16; };
    auto row_place = [&](int i, int row) { return place(i / 2 * 8 + row, i % 2); };
#pragma unroll
    for (int first = 0; first < TILE_M; first += TOKENS) {
        if (m + first >= gemm.m) break;
        uint32_t matrices[TOKENS / 4];
#pragma unroll
        for (int i = 0; i < TOKENS / 4; i++) {
            const float *four = &sums[(first / 8 + i / 2) * 4];
            matrices[i] = pack_results(fmaf(gemm.alpha, four[i % 2 * 2], bias[i % 2]),
                                       fmaf(gemm.alpha, four[i % 2 * 2 + 1], bias[i % 2]), bf16);
        }
        store_matrices_transposed(matrices, row_place);
        __syncwarp();
#pragma unroll
        for (int piece = 0; piece < (TOKENS * 2 + 31) / 32; piece++) {
            int at = piece * 32 + lane, token = at / 2, column = n + at % 2 * 8;
            if (token < TOKENS && m + first + token < gemm.m && column < gemm.n) {
                uint4 eight = shared_load128(place(token, at % 2));
                uint16_t *target = (uint16_t *)gemm.c + (m + first + token) * gemm.ldc + column;
                if (params.store_whole && column + 8 <= gemm.n) {
                    *(uint4 *)target = eight;
                } else {
                    const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        if (column + i < gemm.n) target[i] = (uint16_t)(words[i / 2] >> 16 * (i % 2));
                }
            }
        }
        __syncwarp();
    }
}

#endif
