/* SPDX-License-Identifier: Apache-2.0
 * How the GEMM kernels end a tile: partial sums of split tiles, and results. The including kernel's ptx.cuh has
 * store_matrices_transposed and thread_index. Sums lie as mma.sync and wgmma leave them: of each 16 rows (out features)
 * that a warp has, a thread's sums 4i..4i+3 are (row, token), (row, token + 1), (row + 8, token), (row + 8, token + 1),
 * where row = lane/4 and token = 8i + 2 * (lane%4). */
#ifndef W4_GPU_STORE_CUH
#define W4_GPU_STORE_CUH

#include "weights.cuh"

__device__ __forceinline__ void add_four(float *sums, const float4 &more) {
    sums[0] += more.x;
    sums[1] += more.y;
    sums[2] += more.z;
    sums[3] += more.w;
}

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
    template <int ROWS, int SUMS> __device__ __forceinline__ void leave(const float (&sums)[ROWS][SUMS]) const {
        float4 *target = partials<ROWS * SUMS / 4>(worker);
#pragma unroll
        for (int i = 0; i < ROWS * SUMS / 4; i++) {
            const float *four = &sums[i / (SUMS / 4)][i % (SUMS / 4) * 4];
            __stcg(target + i * THREADS, make_float4(four[0], four[1], four[2], four[3]));
        }
    }
    /** Of one thread: tell that worker, once all threads have left theirs and met at a barrier. The flag's release
     * covers what all of them wrote before it. */
    __device__ __forceinline__ void tell() const {
        flag_store(params.flags + index(worker), params.ticket);
    }

    /** Add what the other workers have of the tile, in the order of k. Float4s that registers have room for:
     * MOST_OF_ONE of one worker, MOST of several. */
    template <int MOST_OF_ONE, int MOST, int ROWS, int SUMS>
    __device__ __forceinline__ void collect(int tile, float (&sums)[ROWS][SUMS]) const {
        int helpers = w4_schedule_helpers(&params.schedule, w4_schedule_run(&params.schedule, worker), tile);
        /* Each flag is looked at by one thread, all at the same time: a look takes as long as memory does. */
        for (int helper = 1 + thread_index() % THREADS; helper <= helpers; helper += THREADS) {
            uint64_t *const theirs = params.flags + index(worker - helper);
            while (flag_load(theirs) != params.ticket) {
            }
            *theirs = 0;
        }
        group_sync(barrier, THREADS);
        /* As many helpers' sums on their way at once as registers are free, or parts of one helper's. */
        constexpr int FOURS = ROWS * SUMS / 4, AT_ONCE = FOURS < MOST ? MOST / FOURS : 1,
                      PART = FOURS < MOST_OF_ONE ? FOURS : MOST_OF_ONE;
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
                    for (int j = 0; j < PART; j++)
                        add_four(&sums[(from + j) / (SUMS / 4)][(from + j) % (SUMS / 4) * 4], parts[i][j]);
                }
            }
        }
    }
};

__device__ __forceinline__ uint32_t pack_results(float first, float second, bool bf16) {
    return bf16 ? bits_of(__floats2bfloat162_rn(first, second)) : bits_of(__floats2half2_rn(first, second));
}

/** Where in a warp's `staging` 8 out features of a token stand, 32 bytes a token: of the warp's 16 the first 8, or,
 * with `half`, the others. So that no bank is met twice, and as the copy engine's 32-byte swizzle has it. */
__device__ __forceinline__ uint32_t staging_place(uint32_t staging, int token, int half) {
    return staging + token * 32 + (half ^ token / 4 % 2) * 16;
}

/** Bias of the two out features whose sums a lane has, of a warp's 16 from `n` on. */
struct Bias {
    float of[2];
    __device__ __forceinline__ Bias(const w4_gemm_params &gemm, int n) : of{0.0f, 0.0f} {
        if (!gemm.bias) return;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int at = min(n + (int)thread_index() % 32 / 4 + 8 * i, gemm.n - 1);
            of[i] = load_number((const uint8_t *)gemm.bias + (int64_t)at * (gemm.bias_dtype == W4_PARAM_FP32 ? 4 : 2),
                                gemm.bias_dtype);
        }
    }
};

/** Round a warp's sums of TOKENS tokens, `first` and the next, to C's type, and turn them over into `staging`: a lane
 * has two tokens of an out feature in a register, and there 8 out features of a token stand side by side. */
template <int TOKENS, int SUMS>
__device__ __forceinline__ void stage_results(const w4_gemm_params &gemm, uint32_t staging, int first, const Bias &bias,
                                              const float (&sums)[SUMS]) {
    const bool bf16 = gemm.c_dtype == W4_PARAM_BF16;
    uint32_t matrices[TOKENS / 4];
#pragma unroll
    for (int i = 0; i < TOKENS / 4; i++) {
        const float *four = &sums[(first / 8 + i / 2) * 4];
        matrices[i] = pack_results(fmaf(gemm.alpha, four[i % 2 * 2], bias.of[i % 2]),
                                   fmaf(gemm.alpha, four[i % 2 * 2 + 1], bias.of[i % 2]), bf16);
    }
    /* 8 x 8 matrix i: 8 tokens by 8 out features. */
    store_matrices_transposed(matrices, [&](int i, int row) { return staging_place(staging, i / 2 * 8 + row, i % 2); });
}

/** Store the results of a warp's 16 out features, n and the next, some tokens at a time, through `staging`, 512 bytes.
 */
template <class Params, int SUMS>
__device__ __forceinline__ void store_rows(const Params &params, uint32_t staging, int m, int n,
                                           const float (&sums)[SUMS]) {
    const w4_gemm_params &gemm = params.gemm;
    constexpr int TILE_M = 2 * SUMS;
    const int lane = thread_index() % 32;
    if (n >= gemm.n) return;
    const Bias bias(gemm, n);
    constexpr int TOKENS = TILE_M < 16 ? TILE_M : 16; /* at a time: 32 bytes of staging each */
#pragma unroll
    for (int first = 0; first < TILE_M; first += TOKENS) {
        if (m + first >= gemm.m) break;
        stage_results<TOKENS>(gemm, staging, first, bias, sums);
        __syncwarp();
#pragma unroll
        for (int piece = 0; piece < (TOKENS * 2 + 31) / 32; piece++) {
            int at = piece * 32 + lane, token = at / 2, column = n + at % 2 * 8;
            if (token < TOKENS && m + first + token < gemm.m && column < gemm.n) {
                uint4 eight = shared_load128(staging_place(staging, token, at % 2));
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
